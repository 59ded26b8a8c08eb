"""The semantic gate on ids: sim = mix Jaccard(window) + (1 - mix) BM25-lite(window, answer).

Same numbers as `reference.similarity`, computed only where a term hit. The weight of each bigram
written and its BM25 share are kept in a ring as the text grows, so that a hit sums the window
instead of looking it up again. A bigram's count in the answer is a population count over the two
characters' position masks, so no table of answer bigrams is kept.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from flexattn.lexicon.bits import popcount
from flexattn.lexicon.compiled import compiled

Ids = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float64]

_ONE = np.uint64(1)
_TOP = np.uint64(63)
_MIX, _S58 = np.uint64(0x9E3779B97F4A7C15), np.uint64(58)


class GramTable(NamedTuple):
    """Bigram weights over train answers, one compressed row for each first character.

    Args:
      row: [A + 1] int64, start of each first character's run.
      second: [G] int32, second characters, increasing inside a run.
      weight: [G] float64, idf of the bigram.
      unseen: idf of a bigram in no train answer.
      mean_length: mean length of a train answer, bigrams.
    """

    row: npt.NDArray[np.int64]
    second: Ids
    weight: Floats
    unseen: float
    mean_length: float


def gram_idf(df: int, documents: int) -> float:
    """BM25's idf, ln(1 + (N - df + 1/2) / (df + 1/2)), always positive."""
    return math.log(1.0 + (documents - df + 0.5) / (df + 0.5))


def count_grams(answers: Sequence[Ids], alphabet: int) -> GramTable:
    """Count the bigrams of train answers, once in each answer that has them.

    Args:
      answers: ids of each answer, [T] int32 in 0..alphabet-1.
      alphabet: number of ids, A.
    """
    n = len(answers)
    keys = [np.unique(a[:-1].astype(np.int64) * alphabet + a[1:]) for a in answers]
    every, df = np.unique(
        np.concatenate(keys) if keys else np.zeros(0, np.int64), return_counts=True
    )
    by_df = {int(d): gram_idf(int(d), n) for d in np.unique(df)}
    lengths = [max(len(a) - 1, min(len(a), 1)) for a in answers]
    return GramTable(
        row=np.searchsorted(every, np.arange(alphabet + 1, dtype=np.int64) * alphabet),
        second=(every % alphabet).astype(np.int32),
        weight=np.array([by_df[int(d)] for d in df], np.float64),
        unseen=gram_idf(0, n),
        mean_length=sum(lengths) / n if n else 0.0,
    )


@compiled()
def gram_weight(row: Any, second: Any, weight: Any, unseen: Any, a: Any, b: Any) -> Any:
    """Weight of the bigram (a, b); `unseen` where no train answer has it."""
    low, high = row[a], row[a + 1]
    while low < high:
        middle = (low + high) >> 1
        if second[middle] < b:
            low = middle + 1
        else:
            high = middle
    if low < row[a + 1] and second[low] == b:
        return weight[low]
    return unseen


@compiled()
def pair_count(masks: Any, first: Any, second: Any, words: Any) -> Any:
    """How often one character stands right before another, from their position masks.

    Args:
      masks: [.] uint64, masks of all answers behind one another.
      first: where the first character's mask starts.
      second: where the second's starts.
      words: words of one mask.
    """
    count = np.int64(0)
    carry = np.uint64(0)
    for k in range(words):
        word = masks[first + k]
        count += np.int64(popcount(((word << _ONE) | carry) & masks[second + k]))
        carry = word >> _TOP
    return count


@compiled()
def saturation(tf: Any, k1: Any, norm: Any) -> Any:
    """BM25's term-frequency factor, clipped at 1: min(1, tf (k1 + 1) / (tf + norm)); 0 for tf 0."""
    if tf == 0:
        return 0.0
    return min(1.0, tf * (k1 + 1.0) / (tf + norm))


@compiled()
def window_jaccard(
    keys: Any,
    history: Any,
    t: Any,
    kept: Any,
    char: Any,
    ids: Any,
    at: Any,
    start: Any,
    skip: Any,
    size: Any,
) -> Any:
    """Jaccard of the bigram sets of our window and the teacher's.

    Our window is `kept` characters of history, then the segment from its character `skip` on; the
    segment is `char` and the answer behind `at`. Theirs ends at the same place.

    Args:
      keys: [2 * window] int64 scratch.
      history: [.] int32, written ids; t of them count.
      t: characters written.
      kept: characters of history inside the window.
      char: emitted id.
      ids: all answers' ids behind one another.
      at: place of the target in `ids`.
      start: place of the answer's first character in `ids`.
      skip: characters of the segment before the window (0 unless it is longer than the window).
      size: length of the segment.
    """
    n = kept + size - skip
    stop = at + size
    theirs = max(start, stop - n)
    same = stop - theirs == n
    if same:
        for k in range(kept):
            if history[t - kept + k] != ids[theirs + k]:
                same = False
                break
    if same and (skip > 0 or char == ids[at]):
        return 1.0
    # Keys of our different bigrams, then of theirs. A bit of `mine` or `yours` that isn't set says
    # that a key is new without comparing it.
    previous = np.int64(-1)
    count = 0
    mine = np.uint64(0)
    for k in range(n):
        if k < kept:
            c = np.int64(history[t - kept + k])
        elif k - kept + skip == 0:
            c = np.int64(char)
        else:
            c = np.int64(ids[at + k - kept + skip])
        if k > 0:
            key = (previous << 32) | c
            bit = _key_bit(key)
            if mine & bit == np.uint64(0) or not _holds(keys, 0, count, key):
                keys[count] = key
                count += 1
            mine |= bit
        previous = c
    ours = count
    common = 0
    yours = np.uint64(0)
    for k in range(theirs + 1, stop):
        key = (np.int64(ids[k - 1]) << 32) | np.int64(ids[k])
        bit = _key_bit(key)
        if yours & bit == np.uint64(0) or not _holds(keys, ours, count, key):
            keys[count] = key
            count += 1
            common += mine & bit != np.uint64(0) and _holds(keys, 0, ours, key)
        yours |= bit
    union = count - common
    return common / union if union > 0 else 1.0


@compiled()
def _key_bit(key: Any) -> Any:
    return _ONE << ((np.uint64(key) * _MIX) >> _S58)


@compiled()
def _holds(keys: Any, first: Any, last: Any, key: Any) -> Any:
    """Is `key` among keys[first:last]?"""
    for j in range(first, last):  # noqa: SIM110  Numba has no any()
        if keys[j] == key:
            return True
    return False


@compiled()
def window_overlap(
    ring_weight: Any, ring_share: Any, t: Any, kept: Any,
    char_weight: Any, char_share: Any, next_weight: Any, next_share: Any,
    weight_at: Any, share_at: Any, at: Any, skip: Any, size: Any,
) -> Any:  # fmt: skip
    """BM25-lite of our window against the whole answer: sum of shares over sum of weights.

    Args:
      ring_weight: [R] float64, weight of the bigram that ends at written place j, in slot j mod R.
      ring_share: [R] float64, weight times its clipped term-frequency factor.
      t: characters written.
      kept: characters of history inside the window.
      char_weight: weight of (last written, emitted).
      char_share: its share.
      next_weight: weight of (emitted, second character of the segment).
      next_share: its share.
      weight_at: [.] weight of the answers' own bigram ending at each place.
      share_at: [.] its share.
      at: place of the target.
      skip: characters of the segment before the window.
      size: length of the segment.
    """
    ring = ring_weight.shape[0] - 1
    mass = 0.0
    got = 0.0
    for j in range(t - kept + 1, t):
        mass += ring_weight[j & ring]
        got += ring_share[j & ring]
    if kept > 0:
        mass += char_weight
        got += char_share
    if skip == 0:
        mass += next_weight
        got += next_share
    for j in range(max(2, skip + 1), size):
        mass += weight_at[at + j]
        got += share_at[at + j]
    return got / mass if mass > 0.0 else 0.0
