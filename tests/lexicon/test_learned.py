"""The learned filter never says no to a term, and the index behind it finds the same hits."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexattn.lexicon.entries import load_catalog
from flexattn.lexicon.index import TermIndex
from flexattn.lexicon.learned import (
    Bloom,
    LearnedFilter,
    LearnedIndex,
    bloom_rate,
    scores,
    span_hashes,
)

ROOT = Path(__file__).parents[2]
LENGTHS = (2, 3, 4, 5, 6, 8)

words = st.lists(st.text("甲乙丙丁", min_size=2, max_size=9), min_size=1, max_size=40, unique=True)


@given(words, st.text("甲乙丙丁戊，", max_size=60), st.integers(8, 3000), st.integers(2, 9))
@settings(max_examples=60, deadline=None)
def test_no_term_is_missed_and_hits_are_those_of_the_exact_index(
    terms: list[str], text: str, nbytes: int, cap: int
) -> None:
    exact = TermIndex.build(terms)
    for made in (
        LearnedFilter.fit(terms, [text or "甲乙"], nbytes, seed=nbytes),
        LearnedFilter.plain(terms, nbytes),
    ):
        assert made.perhaps(terms).all()
        front = LearnedIndex(exact, made)
        for lengths in (None, LENGTHS):
            expected = exact.longest_hits(text, lengths, cap)
            assert np.array_equal(front.longest_hits(text, lengths, cap), expected)


@pytest.fixture(scope="module")
def medical() -> list[str]:
    return [entry.term for entry in load_catalog(ROOT / "catalogs/medical.json").entries]


@pytest.fixture(scope="module")
def answers() -> list[str]:
    lines = (ROOT / "corpora/medical.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line)["answer"] for line in lines]


@pytest.mark.parametrize("bytes_a_term", [0.25, 1.0, 4.0])
def test_the_medical_catalog_passes_whole_and_most_other_spans_do_not(
    medical: list[str], answers: list[str], bytes_a_term: float
) -> None:
    made = LearnedFilter.fit(medical, answers[::2], round(bytes_a_term * len(medical)))
    assert made.perhaps(medical).all()
    assert not made.perhaps(["药", "甲" * 33, ""]).any()
    known = set(medical)
    text = "".join(answers[1::2])
    spans = [text[i : i + n] for i in range(0, len(text) - 8, 5) for n in LENGTHS]
    others = [span for span in spans if span not in known]
    assert made.perhaps(others).mean() < {0.25: 0.9, 1.0: 0.4, 4.0: 0.03}[bytes_a_term]
    exact = TermIndex.build(medical)
    found = LearnedIndex(exact, made).longest_hits(text, LENGTHS)
    assert np.array_equal(found, exact.longest_hits(text, LENGTHS))
    assert (found >= 0).mean() > 0.1


def test_a_budget_too_small_for_a_model_still_misses_nothing(medical: list[str]) -> None:
    made = LearnedFilter.fit(medical, ["抑制剂"], 1)
    assert made.perhaps(medical).all()


def test_a_bloom_filter_lets_through_what_its_formula_says() -> None:
    rng = np.random.default_rng(0)
    points = rng.integers(0x4E00, 0x9FFF, 400_000).astype(np.uint32)
    start, size = np.arange(0, 399_990, 4), np.full(99_998, 4)
    hashes = span_hashes(points, start, size)
    held, others = hashes[:20_000], hashes[20_000:]
    for bits_a_term in (4, 8, 12):
        made = Bloom.of(held, bits_a_term * len(held))
        front = LearnedFilter(np.zeros(0, np.int8), np.zeros(33, np.int32), 1, made)
        spans = ["".join(map(chr, points[s : s + 4])) for s in start[20_000:60_000]]
        expected = bloom_rate(bits_a_term * len(held), len(held))
        assert front.perhaps(spans).mean() == pytest.approx(expected, rel=0.15)
        assert made.nbytes == bits_a_term * len(held) // 8
    assert len(np.unique(others)) == len(others)


def test_scores_are_the_same_whole_numbers_wherever_a_span_stands(medical: list[str]) -> None:
    made = LearnedFilter.fit(medical[:500], ["".join(medical)], 4096)
    for term in medical[:50]:
        text = f"甲乙{term}丙丁"
        points = np.frombuffer(text.encode("utf-32-le"), np.uint32)
        alone = np.frombuffer(term.encode("utf-32-le"), np.uint32)
        size = np.array([len(term)])
        here = scores(points, np.array([2]), size, made.weights, made.bias)
        assert here == scores(alone, np.array([0]), size, made.weights, made.bias)


def test_the_same_seed_gives_the_same_filter(medical: list[str], answers: list[str]) -> None:
    one, two = (LearnedFilter.fit(medical[:300], answers[:50], 2000, seed=3) for _ in range(2))
    assert one.weights.tobytes() == two.weights.tobytes()
    assert (one.threshold, one.backup.words.tobytes()) == (
        two.threshold, two.backup.words.tobytes()
    )  # fmt: skip
