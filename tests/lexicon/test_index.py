from __future__ import annotations

import random
from pathlib import Path

import ahocorasick
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexattn.config import resolve_path
from flexattn.corpus import load_corpus
from flexattn.errors import CatalogError
from flexattn.lexicon.entries import load_catalog
from flexattn.lexicon.index import BLOCK, TailIndex, TermIndex
from flexattn.lexicon.reference import completions, find_terms, longest_capped_hit

LISTS = Path(__file__).parents[3] / "shared" / "data" / "lexicon"
U = (2, 3, 4, 5, 6, 8)

terms_of = st.lists(st.text("ab寒热", min_size=2, max_size=9), min_size=1, max_size=25, unique=True)
text_of = st.text("ab寒热外", max_size=80)
lengths_of = st.sets(st.integers(2, 9), min_size=1).map(sorted)


@settings(max_examples=150, deadline=None)
@given(terms=terms_of, text=text_of, lengths=lengths_of, cap=st.integers(1, 10))
def test_every_place_has_the_references_hit(
    terms: list[str], text: str, lengths: list[int], cap: int
) -> None:
    hits = TermIndex.build(terms).longest_hits(text, lengths, cap)
    found = [terms[n] if n >= 0 else None for n in hits]
    assert found == [
        longest_capped_hit(char, text[p + 1 :], set(terms), lengths, cap)
        for p, char in enumerate(text)
    ]


@settings(max_examples=100, deadline=None)
@given(terms=terms_of, text=text_of)
def test_terms_are_found_as_the_reference_finds_them(terms: list[str], text: str) -> None:
    found = [(place, terms[n]) for place, n in TermIndex.build(terms).find(text)]
    assert found == find_terms(text, set(terms), 9)


@settings(max_examples=150, deadline=None)
@given(terms=terms_of, texts=st.lists(text_of, min_size=1, max_size=3), lengths=lengths_of)
def test_a_tail_node_has_the_characters_that_complete_a_term(
    terms: list[str], texts: list[str], lengths: list[int]
) -> None:
    tails = TailIndex.build(terms).tails(texts, lengths)
    place = 0
    for text in texts:
        for p in range(len(text)):
            for k, n in enumerate(lengths):
                tail = text[p + 1 : p + n]
                expected = completions(tail, terms) if len(tail) == n - 1 else {}
                node = tails.tail[place, k]
                run = slice(0, 0)
                if node >= 0:
                    run = slice(tails.child_start[node], tails.child_start[node + 1])
                points = [chr(c) for c in tails.child_point[run]]
                assert points == sorted(points)
                assert dict(zip(points, [terms[n] for n in tails.child_term[run]])) == expected
            place += 1


def test_hits_across_the_seam_of_two_blocks_are_found() -> None:
    text = "外" * (BLOCK - 3) + "寒热往来如疟" + "外" * 5
    hits = TermIndex.build(["寒热往来如疟", "往来"]).longest_hits(text)
    assert np.flatnonzero(hits >= 0).tolist() == [BLOCK - 3, BLOCK - 1]


def test_it_agrees_with_the_reference_on_the_medical_corpus() -> None:
    catalog = load_catalog(resolve_path("catalogs/medical.json"))
    terms = [entry.term for entry in catalog.entries]
    index, known = TermIndex.build(terms), set(terms)
    for record in load_corpus(resolve_path("corpora/medical.jsonl")).records[:60]:
        hits = index.longest_hits(record.answer, U, 6)
        for p, n in enumerate(hits):
            expected = longest_capped_hit(record.answer[p], record.answer[p + 1 :], known, U, 6)
            assert (terms[n] if n >= 0 else None) == expected


@pytest.mark.skipif(not LISTS.exists(), reason="the founders' word lists")
def test_it_agrees_with_pyahocorasick_on_real_lists() -> None:
    files = sorted(LISTS.glob("*.tsv"))
    lines = [line for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    terms = [t for t in dict.fromkeys(line.split("\t")[0] for line in lines) if len(t) >= 2]
    automaton = ahocorasick.Automaton()
    for n, term in enumerate(terms):
        automaton.add_word(term, n)
    automaton.make_automaton()
    text = "".join(random.Random(3).choices(terms, k=8000))
    longest = np.full(len(text), -1, np.int64)
    for end, n in automaton.iter(text):
        start = end - len(terms[n]) + 1
        if longest[start] < 0 or len(terms[n]) > len(terms[longest[start]]):
            longest[start] = n
    assert np.array_equal(TermIndex.build(terms).longest_hits(text), longest)


def test_no_terms_and_no_text_are_fine() -> None:
    assert TermIndex.build([]).longest_hits("寒热").tolist() == [-1, -1]
    assert TermIndex.build(["寒热"]).longest_hits("").tolist() == []
    assert TermIndex.build(["寒热"]).longest_hits("寒热", [3]).tolist() == [-1, -1]


def test_too_many_characters_are_refused_in_one_line() -> None:
    terms = [chr(n) + chr(n) for n in range(0x10000, 0x20000)]
    with pytest.raises(CatalogError, match="65,536 different characters"):
        TermIndex.build(terms)
