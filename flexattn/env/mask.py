"""A(s), the legal characters, as one packed row: looked up, never built by a Python loop.

    row = (follows[last] | skips[k back] | ..)  &  writable  &  ~blocked[automaton state]  &  marks

`follows` holds the characters seen in train answers or inside terms right behind a character,
`skips` those k places behind it, k = 2 .. reach, so that a student can come back after wrong ones:
with a reach of 2 after one, with more after several. The start of a text is a virtual character
(row PAD). Where fewer than 3 characters stay, the guide is dropped and the state is counted as
widened. No mark at the start and not the same mark twice, unless train
answers have it. The end is legal after a sentence end or from half the train answers' mean length
on. A row is never empty: where everything is banned, the end is legal. The current target is never
looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from flexattn.env.vocabulary import END, PAD, SENTENCE_ENDS, SPECIALS, UNK, Vocabulary
from flexattn.lexicon.bits import Words, has, pack, popcount, select, words_for
from flexattn.lexicon.columns import Terms
from flexattn.lexicon.compiled import compiled

FEWEST = 3  # characters that the guide must leave

Ids = npt.NDArray[np.int32]


class MaskTables(NamedTuple):
    """Rows that make a mask; A ids in the alphabet, V writable, W = ceil(V / 64) words.

    Args:
      follows: [A, ceil(A / 64)] uint64, bigrams of train answers and terms; row PAD is the start.
      skips: [reach - 1, A, W] uint64, the same for characters 2, 3 .. reach places behind.
      writable: [W] uint64, the vocabulary without specials.
      opening: [W] uint64, `writable` without marks that open no train answer.
      no_double: [A] bool, marks that no train answer has twice in a row.
      sentence_end: [A] bool.
      goto: [S, A] int32, banned automaton.
      blocked: [S, >= W] uint64, characters that would complete a banned term.
      guided: False where the guide is "none".
      shortest: characters from which on the end is always legal; half the mean length.
    """

    follows: Words
    skips: Words
    writable: Words
    opening: Words
    no_double: npt.NDArray[np.bool_]
    sentence_end: npt.NDArray[np.bool_]
    goto: Ids
    blocked: Words
    guided: bool
    shortest: float


def build_mask(
    vocabulary: Vocabulary,
    answers: Sequence[str],
    terms: Sequence[str],
    goto: Ids,
    blocked: Words,
    guided: bool,
    reach: int = 2,
) -> MaskTables:
    """Count what follows what.

    Args:
      vocabulary: characters and ids.
      answers: the train answers.
      terms: the catalog's terms.
      goto: banned automaton over the alphabet, [S, A].
      blocked: its blocked characters, [S, words].
      guided: whether the n-gram guide narrows the rows.
      reach: characters back that vouch for the next one, at least 1.
    """
    a, v = vocabulary.alphabet, vocabulary.size
    w = words_for(v)
    follows = np.zeros((a, words_for(a)), np.uint64)
    skips = np.zeros((reach - 1, a, w), np.uint64)
    for texts in (Terms.of(answers), Terms.of(terms)):
        _set_pairs(texts.points, texts.size, vocabulary.by_point, v, follows, skips)
    joined = vocabulary.encode_all(answers)
    marks = vocabulary.marks
    writable = np.arange(a) >= SPECIALS
    writable[v:] = False
    opens = np.zeros(a, np.bool_)
    opens[joined[1:][joined[:-1] == PAD]] = True
    twice = np.zeros(a, np.bool_)
    twice[joined[1:][joined[1:] == joined[:-1]]] = True
    lengths = [len(text) for text in answers]
    blocked = np.ascontiguousarray(blocked[:, :w])
    return MaskTables(
        follows=_without_specials(follows),
        skips=_without_specials(skips),
        writable=pack(writable)[:w].copy(),
        opening=pack(writable & (~marks | opens))[:w].copy(),
        no_double=marks & ~twice,
        sentence_end=vocabulary.members(SENTENCE_ENDS),
        goto=np.ascontiguousarray(goto, np.int32),
        blocked=blocked,
        guided=guided,
        shortest=0.5 * sum(lengths) / max(1, len(lengths)),
    )


@compiled()
def _set_pairs(points: Any, sizes: Any, by_point: Any, v: Any, follows: Any, skips: Any) -> None:
    """Set what stands behind what inside texts; PAD is a start. A million terms, no array made."""
    first = np.int64(0)
    for n in range(sizes.shape[0]):
        for i in range(first, first + sizes[n]):
            char = np.int64(by_point[points[i]])
            bit = np.uint64(1) << np.uint64(char & 63)
            last = np.int64(by_point[points[i - 1]]) if i > first else np.int64(PAD)
            follows[last, char >> 6] |= bit
            if char < v:
                for k in range(min(skips.shape[0], i - first)):
                    at = i - k - 2
                    behind = np.int64(by_point[points[at]]) if at >= first else np.int64(PAD)
                    skips[k, behind, char >> 6] |= bit
        first += sizes[n]


def _without_specials(rows: Words) -> Words:
    rows[..., [END, UNK], :] = 0  # nothing follows the end or an unknown character
    rows[..., 0] &= ~np.uint64((1 << SPECIALS) - 1)
    return rows


@compiled()
def fill_legal(row: Any, history: Any, t: Any, state: Any, M: Any) -> Any:
    """Write A(s) into `row`, [W] uint64; returns (number of legal actions, widened).

    Args:
      row: where the mask goes.
      history: ids written, [>= t].
      t: how many.
      state: state of the banned automaton.
      M: MaskTables.
    """
    words = row.shape[0]
    writable = M.opening if t == 0 else M.writable
    last = np.int64(history[t - 1]) if t > 0 else np.int64(PAD)
    count = np.int64(0)
    if M.guided:
        for w in range(words):
            row[w] = M.follows[last, w]
        for k in range(min(M.skips.shape[0], t)):
            behind = np.int64(history[t - k - 2]) if t - k >= 2 else np.int64(PAD)
            for w in range(words):
                row[w] |= M.skips[k, behind, w]
        for w in range(words):
            word = row[w] & writable[w] & ~M.blocked[state, w]
            row[w] = word
            count += np.int64(popcount(word))
        count -= _drop_double(row, last, M.no_double)
    widened = M.guided and count < FEWEST
    if widened or not M.guided:
        count = np.int64(0)
        for w in range(words):
            word = writable[w] & ~M.blocked[state, w]
            row[w] = word
            count += np.int64(popcount(word))
        count -= _drop_double(row, last, M.no_double)
    if count == 0 or (t > 0 and (M.sentence_end[last] or t >= M.shortest)):
        row[0] |= np.uint64(1 << END)
        count += 1
    return count, widened


@compiled()
def _drop_double(row: Any, last: Any, no_double: Any) -> Any:
    """Take a mark out that may not stand twice in a row; returns how many were taken, 0 or 1."""
    if no_double[last] and last >> 6 < row.shape[0] and has(row, last):
        row[last >> 6] &= ~(np.uint64(1) << np.uint64(last & 63))
        return np.int64(1)
    return np.int64(0)


@compiled()
def sample_legal(rows: Any, counts: Any, uniforms: Any, out: Any) -> None:
    """Draw one legal id a row, uniformly.

    Args:
      rows: [N, W] uint64, masks.
      counts: [N], legal ids in each.
      uniforms: [N] float64 in [0, 1).
      out: [N] int32, the drawn ids.
    """
    for i in range(rows.shape[0]):
        out[i] = select(rows[i], min(np.int64(uniforms[i] * counts[i]), counts[i] - 1))
