"""One function a term of the reward; the core adds them up.

    R = base + eta1 chi_soft + eta2 ler - len_cost
    base = progress (LCS(h a, y) - LCS(h, y)) / |y| - P

Positions of a character in an answer are a bit mask, so the LCS row is advanced by word arithmetic
(Hyyro 2004): one addition for 64 characters of the answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from flexattn.lexicon.bits import has
from flexattn.lexicon.compiled import compiled

_ZERO = np.uint64(0)
_ONE = np.uint64(1)
_S21, _S42, _S55 = np.uint64(21), np.uint64(42), np.uint64(55)
_MIX = np.uint64(0x9E3779B97F4A7C15)

TRIGRAM_WORDS = 8


def length_costs(
    history_chars: Sequence[int],
    hit_cap_chars: Sequence[int],
    longest: int,
    lambda_h: float,
    lambda_p: float,
    alpha_h: float,
    alpha_p: float,
) -> npt.NDArray[np.float64]:
    """len_cost = lambda_h (Lh / L_max)^alpha_h + lambda_p (Lp / L_max)^alpha_p, [|H|, |P|] reward.

    Args:
      history_chars: H, characters.
      hit_cap_chars: P, characters.
      longest: L_max = max(U), characters.
      lambda_h: cost of Lh = L_max, reward.
      lambda_p: cost of Lp = L_max, reward.
      alpha_h: exponent of the Lh cost.
      alpha_p: exponent of the Lp cost.
    """
    return np.array(
        [
            [
                lambda_h * (lh / longest) ** alpha_h + lambda_p * (lp / longest) ** alpha_p
                for lp in hit_cap_chars
            ]
            for lh in history_chars
        ],
        np.float64,
    )


@compiled()
def lexical_gain(sim: Any, weight: Any, lambda_lex: Any, tau: Any, hard: Any) -> Any:
    """Gain: delta = lambda_lex max(0, sim - tau) weight, reward; `hard`: lambda_lex for any hit.

    Check: 0.30 * (0.88 - 0.75) * 0.90 = 0.0351.
    """
    if hard:
        return lambda_lex
    return lambda_lex * max(0.0, sim - tau) * weight


@compiled()
def credits_of(term: Any, credited: Any, count: Any) -> Any:
    """How often `term` stands in `credited`, the episode's credits, [count] int32."""
    n = np.int64(0)
    for j in range(count):
        n += credited[j] == term
    return n


@compiled()
def lcs_gain(row: Any, masks: Any, at: Any, words: Any, keep: Any) -> Any:
    """LCS(h c, y) - LCS(h, y), 0 or 1; with `keep` the row then stands for h c.

    Args:
      row: [words] uint64, a zero bit j: the LCS with y grows at y's place j.
      masks: [.] uint64, position masks of characters.
      at: where c's mask starts; -1 where y doesn't hold c.
      words: words of one mask.
      keep: whether to advance the row.
    """
    if at < 0:
        return np.int64(0)
    carry = _ZERO
    for k in range(words):
        v = row[k]
        match = v & masks[at + k]
        total = v + match
        over = _ONE if total < v else _ZERO
        total += carry
        if total < carry:
            over = _ONE
        carry = over
        if keep:
            row[k] = total | (v - match)
    return np.int64(carry)


@compiled()
def trigram_bit(history: Any, t: Any, char: Any) -> Any:
    """Hashed bit, 0..511, of the trigram that `char` closes behind t >= 2 characters."""
    key = np.uint64(history[t - 2]) << _S42 | np.uint64(history[t - 1]) << _S21 | np.uint64(char)
    return np.int64((key * _MIX) >> _S55)


@compiled()
def repeats_trigram(history: Any, t: Any, char: Any, seen: Any) -> Any:
    """Does `char` close a trigram that already stands in the first t characters of `history`?

    `seen`, [TRIGRAM_WORDS] uint64, has the bits of all trigrams written; one that isn't set saves
    the search.
    """
    if t < 3 or not has(seen, trigram_bit(history, t, char)):
        return False
    a, b = history[t - 2], history[t - 1]
    found = False
    for j in range(2, t):
        found |= (history[j] == char) & (history[j - 1] == b) & (history[j - 2] == a)
    return found


@compiled()
def penalty(
    history: Any,
    t: Any,
    char: Any,
    seen: Any,
    mark: Any,
    follows: Any,
    p_punct: Any,
    p_repeat: Any,
    p_strange: Any,
) -> Any:
    """P = p_punct 1[mark] + p_repeat 1[trigram again] + p_strange 1[bigram never seen], reward.

    A pair with a mark in it is never strange.

    Args:
      history: [.] int32, written ids.
      t: characters written.
      char: emitted id, not the end.
      seen: [TRIGRAM_WORDS] uint64, hashed bits of the trigrams written.
      mark: [A] bool, which ids are punctuation.
      follows: [A, words] uint64, bigrams seen in train answers or terms.
      p_punct: reward.
      p_repeat: reward.
      p_strange: `p_noncompliant`, reward.
    """
    total = 0.0
    if mark[char]:
        total += p_punct
    if repeats_trigram(history, t, char, seen):
        total += p_repeat
    if t > 0 and not mark[char]:
        last = history[t - 1]
        if not mark[last] and not has(follows[last], char):
            total += p_strange
    return total


@compiled()
def soft_match(char: Any, ids: Any, start: Any, size: Any, p: Any, near: Any, radius: Any) -> Any:
    """chi_soft: 1 on the target, `near` within `radius` characters of the pointer, else 0.

    Args:
      char: emitted id, not the end.
      ids: all answers' ids behind one another.
      start: where the answer starts.
      size: |y|.
      p: pointer, 0..|y|.
      near: share of a near match.
      radius: characters.
    """
    if p < size and ids[start + p] == char:
        return 1.0
    for j in range(max(0, p - radius), min(size, p + radius + 1)):
        if ids[start + j] == char:
            return near
    return 0.0


@compiled()
def next_pointer(
    char: Any, ids: Any, start: Any, size: Any, p: Any, resync: Any, radius: Any
) -> Any:
    """Pointer after this step: one on, or past a match up to `radius` characters ahead (resync)."""
    if resync and not (p < size and ids[start + p] == char):
        for j in range(p + 1, min(size, p + 1 + radius)):
            if ids[start + j] == char:
                return j + 1
    return min(size, p + 1)
