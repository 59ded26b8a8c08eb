from __future__ import annotations

import ahocorasick
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexattn.errors import CatalogError
from flexattn.lexicon.banned import START, BannedAutomaton, find_banned, fold, simplified

ALPHABET = "包治百病Ａa，。 \u200b·"
IDS = {char: i for i, char in enumerate(ALPHABET, 3)}
SIZE = 3 + len(ALPHABET)


def completes(automaton: BannedAutomaton, text: str) -> list[bool]:
    """For each character whether the automaton forbade it, the text being written all the same."""
    state, forbidden = START, []
    for char in text:
        forbidden.append(automaton.is_blocked(state, IDS[char]))
        state = int(automaton.goto[state, IDS[char]])
    return forbidden


def naive(text: str, terms: list[str]) -> list[bool]:
    """The definition: forbidden where the folded text now ends with a folded term."""
    plain = [p for p in map(fold, terms) if p]
    so_far, forbidden = "", []
    for char in text:
        ends = False
        for c in fold(char):
            so_far += c
            ends = ends or any(so_far.endswith(p) for p in plain)
        forbidden.append(ends)
    return forbidden


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("包治百病", True, id="as written"),
        pytest.param("包 治，百。病", True, id="marks between"),
        pytest.param("包\u200b治\u200b百病", True, id="nothing visible between"),
        pytest.param("治包治百病", True, id="after a false start"),
        pytest.param("包治百包病", False, id="another character between"),
        pytest.param("包治百", False, id="not finished"),
    ],
)
def test_a_ban_cant_be_walked_round(text: str, expected: bool) -> None:
    automaton = BannedAutomaton.build(["包治百病"], IDS, SIZE)
    assert completes(automaton, text)[-1] is expected
    assert (find_banned(text, ["包治百病"]) is not None) is expected


def test_width_and_case_make_no_difference() -> None:
    ids = {char: i for i, char in enumerate("ＡaA1１㎎mg")}
    automaton = BannedAutomaton.build(["a1mg"], ids, len(ids))
    for text in ("A1mg", "ａ1mg".replace("ａ", "Ａ"), "a１㎎"):
        state = automaton.run([ids[c] for c in text[:-1]])
        assert automaton.is_blocked(state, ids[text[-1]]), text


def test_traditional_characters_count_as_simplified_ones() -> None:
    ids = {char: i for i, char in enumerate("藥药神")}
    blind = BannedAutomaton.build(["神药"], ids, 3, variants={})
    seeing = BannedAutomaton.build(["神药"], ids, 3)
    after = [a.run([ids["神"]]) for a in (blind, seeing)]
    assert not blind.is_blocked(after[0], ids["藥"])
    assert seeing.is_blocked(after[1], ids["藥"])
    assert find_banned("神，藥", ["神药"]) == "神药"
    assert find_banned("神，藥", ["神药"], {}) is None
    assert fold("臨床診斷") == "临床诊断"


def test_the_table_of_characters_maps_plain_ones_to_themselves() -> None:
    table = simplified()
    assert len(table) > 3000
    assert not [plain for plain in table.values() if table.get(plain, plain) != plain]


words = st.lists(st.text("包治百病Ａa，", min_size=1, max_size=4), min_size=0, max_size=6)


@given(words, st.text(ALPHABET, max_size=40))
@settings(max_examples=200, deadline=None)
def test_the_automaton_agrees_with_the_definition(terms: list[str], text: str) -> None:
    assert completes(BannedAutomaton.build(terms, IDS, SIZE), text) == naive(text, terms)


def test_the_automaton_agrees_with_pyahocorasick_on_random_texts() -> None:
    rng = np.random.default_rng(3)
    alphabet = [chr(0x4E00 + i) for i in range(40)]
    ids = {char: i for i, char in enumerate(alphabet)}
    terms = sorted({"".join(rng.choice(alphabet, rng.integers(2, 6))) for _ in range(400)})
    peer = ahocorasick.Automaton()
    for term in terms:
        peer.add_word(term, term)
    peer.make_automaton()
    ours = BannedAutomaton.build(terms, ids, len(ids), variants={})  # as the peer: no folding
    found = 0
    for _ in range(50):
        text = "".join(rng.choice(alphabet, 400))
        theirs = {end for end, _ in peer.iter(text)}
        state = START
        for place, char in enumerate(text):
            assert ours.is_blocked(state, ids[char]) == (place in theirs)
            state = int(ours.goto[state, ids[char]])
        found += len(theirs)
    assert found > 1000


def test_a_batch_that_obeys_writes_nothing_banned() -> None:
    rng = np.random.default_rng(5)
    alphabet = [chr(0x4E00 + i) for i in range(30)]
    ids = {char: i for i, char in enumerate(alphabet)}
    terms = sorted({"".join(rng.choice(alphabet, rng.integers(2, 4))) for _ in range(60)})
    automaton = BannedAutomaton.build(terms, ids, len(ids))
    state = np.zeros(64, dtype=np.int32)
    written = np.empty((64, 300), dtype=np.int32)
    for t in range(300):
        words_of_row = automaton.blocked[state].astype("<u8").view(np.uint8)
        blocked = np.unpackbits(words_of_row, axis=1, bitorder="little")[:, : len(ids)]
        written[:, t] = np.where(blocked, -1.0, rng.random((64, len(ids)))).argmax(axis=1)
        state = automaton.goto[state, written[:, t]]
    for row in written:
        text = "".join(alphabet[i] for i in row)
        assert not any(term in text for term in terms)


def test_tables_have_the_promised_form() -> None:
    ids = {chr(0x4E00 + i): i + 3 for i in range(70)}
    automaton = BannedAutomaton.build(["一丁"], ids, 73, legal_size=70)
    assert automaton.goto.shape == (3, 73)
    assert automaton.goto.dtype == np.int32
    assert automaton.blocked.shape == (3, 2)
    assert automaton.blocked.dtype == np.uint64
    assert not automaton.goto[:, :3].any()


def test_a_term_that_cant_be_written_costs_no_state() -> None:
    assert BannedAutomaton.build(["包治癌"], IDS, SIZE).states == 1


def test_no_ban_is_one_state_that_forbids_nothing() -> None:
    automaton = BannedAutomaton.build([], IDS, SIZE)
    assert (automaton.states, int(automaton.blocked.sum())) == (1, 0)


def test_a_table_above_a_gigabyte_is_refused_before_it_is_built() -> None:
    with pytest.raises(CatalogError, match="GiB, expected at most 1; ban fewer terms"):
        BannedAutomaton.build(["包治百病"], IDS, 100_000_000)
