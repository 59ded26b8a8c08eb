from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexattn.lexicon.gate import (
    count_grams,
    gram_weight,
    pair_count,
    saturation,
    window_jaccard,
    window_overlap,
)
from flexattn.lexicon.reference import gram_weights, grams, similarity

ALPHABET = "寒热虚实风"
K1, B = 1.2, 0.75


def fast_similarity(
    history: str, char: str, answer: str, pointer: int, size: int, answers: list[str], window: int
) -> float:
    """The gate as the core calls it, with all bigrams looked up on the spot."""
    ids = np.array([ALPHABET.index(c) for c in answer], np.int32)
    table = count_grams(
        [np.array([ALPHABET.index(c) for c in y], np.int32) for y in answers], len(ALPHABET)
    )
    norm = K1 * (1.0 - B + B * len(grams(answer)) / table.mean_length)

    def pair(a: str, b: str) -> tuple[float, float]:
        x, y = ALPHABET.index(a), ALPHABET.index(b)
        weight = gram_weight(table.row, table.second, table.weight, table.unseen, x, y)
        return weight, weight * saturation(grams(answer).count(a + b), K1, norm)

    ring = np.zeros((2, 64))
    for j in range(1, len(history)):
        ring[:, j & 63] = pair(history[j - 1], history[j])
    at = np.zeros((2, len(answer)))
    for j in range(1, len(answer)):
        at[:, j] = pair(answer[j - 1], answer[j])
    before = pair(history[-1], char) if history else (0.0, 0.0)
    after = pair(char, answer[pointer + 1])
    skip = max(0, size - window)
    kept = min(len(history), window - size + skip)
    written = np.array([ALPHABET.index(c) for c in history] + [0], np.int32)
    jaccard = window_jaccard(
        np.zeros(2 * window, np.int64), written, len(history), kept, ALPHABET.index(char), ids,
        pointer, 0, skip, size,
    )  # fmt: skip
    overlap = window_overlap(
        ring[0], ring[1], len(history), kept, *before, *after, at[0], at[1], pointer, skip, size
    )
    return 0.5 * jaccard + 0.5 * overlap


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_the_windows_have_the_references_similarity(data: st.DataObject) -> None:
    answer = data.draw(st.text(ALPHABET, min_size=2, max_size=40))
    others = data.draw(st.lists(st.text(ALPHABET, min_size=1, max_size=30), max_size=3))
    pointer = data.draw(st.integers(0, len(answer) - 2))
    size = data.draw(st.integers(2, len(answer) - pointer))
    char = data.draw(st.sampled_from(ALPHABET))
    start = data.draw(st.integers(0, 3))
    history = data.draw(st.sampled_from([answer[:pointer], answer[start:pointer], ""]))
    history += data.draw(st.text(ALPHABET, max_size=3))
    window = data.draw(st.integers(1, 16))
    answers = [answer, *others]
    mean = sum(len(grams(y)) for y in answers) / len(answers)
    expected = similarity(
        history, char + answer[pointer + 1 : pointer + size], answer, pointer,
        gram_weights(answers), mean, window=window,
    )  # fmt: skip
    got = fast_similarity(history, char, answer, pointer, size, answers, window)
    assert got == pytest.approx(expected, abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(text=st.text("ab", min_size=2, max_size=200), pair=st.text("ab", min_size=2, max_size=2))
def test_a_pair_is_counted_by_its_characters_places(text: str, pair: str) -> None:
    words = (len(text) + 63) // 64
    masks = np.zeros(2 * words, np.uint64)
    for place, char in enumerate(text):
        masks[(char == "b") * words + place // 64] |= np.uint64(1) << np.uint64(place % 64)
    first, second = (words * (char == "b") for char in pair)
    assert pair_count(masks, first, second, words) == grams(text).count(pair)
