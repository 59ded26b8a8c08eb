from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexattn.env.reward import (
    lcs_gain,
    length_costs,
    lexical_gain,
    next_pointer,
    repeats_trigram,
    soft_match,
)


def naive_lcs(a: list[int], b: list[int]) -> int:
    table = np.zeros((len(a) + 1, len(b) + 1), int)
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            table[i + 1, j + 1] = (
                table[i, j] + 1 if x == y else max(table[i, j + 1], table[i + 1, j])
            )
    return int(table[-1, -1])


@settings(max_examples=60, deadline=None)
@given(
    answer=st.lists(st.integers(0, 3), min_size=1, max_size=140),
    written=st.lists(st.integers(0, 4), max_size=60),
)
def test_the_lcs_grows_by_the_carry_of_one_addition(answer: list[int], written: list[int]) -> None:
    words = (len(answer) + 63) // 64
    masks = np.zeros(4 * words, np.uint64)
    for place, char in enumerate(answer):
        masks[char * words + place // 64] |= np.uint64(1) << np.uint64(place % 64)
    row = np.full(words, ~np.uint64(0))
    total = 0
    for n, char in enumerate(written):
        at = char * words if char < 4 else -1
        gained = lcs_gain(row, masks, at, words, False)
        assert lcs_gain(row, masks, at, words, True) == gained
        total += gained
        assert total == naive_lcs(written[: n + 1], answer)


def test_the_gain_of_the_sources_example() -> None:
    assert lexical_gain(0.88, 0.90, 0.30, 0.75, False) == pytest.approx(0.0351)
    assert lexical_gain(0.70, 0.90, 0.30, 0.75, False) == 0.0


def test_a_hard_bonus_asks_neither_gate_nor_weight() -> None:
    assert lexical_gain(0.0, 0.0, 0.30, 0.75, True) == 0.30


def test_length_costs_are_what_the_formula_says() -> None:
    costs = length_costs((2, 6), (3, 5), 8, 0.08, 0.10, 1.0, 2.0)
    cap = [0.1 * 9 / 64, 0.1 * 25 / 64]
    assert costs[0] == pytest.approx([0.02 + cap[0], 0.02 + cap[1]])
    assert costs[1] == pytest.approx([0.06 + cap[0], 0.06 + cap[1]])


ANSWER = np.array([5, 6, 7, 5, 8], np.int32)


@pytest.mark.parametrize(
    ("char", "pointer", "expected"),
    [
        pytest.param(6, 1, 1.0, id="target"),
        pytest.param(5, 1, 0.3, id="one before"),
        pytest.param(5, 5, 0.3, id="two before, past the answer"),
        pytest.param(8, 1, 0.0, id="three ahead"),
        pytest.param(9, 1, 0.0, id="not in the answer"),
    ],
)
def test_soft_match(char: int, pointer: int, expected: float) -> None:
    assert soft_match(char, ANSWER, 0, 5, pointer, 0.3, 2) == expected


@pytest.mark.parametrize(
    ("char", "pointer", "resync", "expected"),
    [
        pytest.param(7, 1, False, 2, id="position"),
        pytest.param(7, 1, True, 3, id="past a match ahead"),
        pytest.param(5, 0, True, 1, id="the target itself"),
        pytest.param(8, 1, True, 2, id="too far ahead"),
        pytest.param(8, 5, True, 5, id="stays at the end"),
    ],
)
def test_the_pointer(char: int, pointer: int, resync: bool, expected: int) -> None:
    assert next_pointer(char, ANSWER, 0, 5, pointer, resync, 2) == expected


def test_a_trigram_repeats_once_it_stands_there() -> None:
    history = np.array([3, 4, 5, 3, 4, 0], np.int32)
    every, none = np.full(8, ~np.uint64(0)), np.zeros(8, np.uint64)
    assert repeats_trigram(history, 5, 5, every)
    assert not repeats_trigram(history, 5, 4, every)
    assert not repeats_trigram(history, 2, 5, every)
    assert not repeats_trigram(history, 5, 5, none)
