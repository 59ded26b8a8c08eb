"""A term's weight is idf x Zipf weight x two-character factor, in [0, 1]; it is logged as `idf`.

Everyday words are cheap twice: they stand in many answers (idf) and in much of the language (Zipf).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from flexattn.lexicon.columns import Columns

ZIPF_FREE = 3.0  # once in a million words and rarer: nothing is taken off
ZIPF_NOTHING = 7.0  # once in a hundred words: worth nothing
TWO_CHAR = 0.7


def idf(df: int, documents: int) -> float:
    """Rarity among answers, idf = ln((N + 1) / (df + 1)) / ln(N + 1), in [0, 1].

    Where nothing was counted (N = 0) every term counts as rare, 1.

    Args:
      df: train answers that hold the term.
      documents: N, train answers.
    """
    if documents <= 0:
        return 1.0
    return max(0.0, math.log((documents + 1) / (df + 1)) / math.log(documents + 1))


def zipf_weight(zipf: float | None) -> float:
    """clip((7 - zipf) / 4, 0, 1); None, nothing known, counts as rare: 1.

    Args:
      zipf: log10 of occurrences in a thousand million words.
    """
    if zipf is None:
        return 1.0
    return min(1.0, max(0.0, (ZIPF_NOTHING - zipf) / (ZIPF_NOTHING - ZIPF_FREE)))


def term_weight(
    term: str, df: int, documents: int, zipf: float | None = None, two_char: float = TWO_CHAR
) -> float:
    """Logged as `idf`: idf * zipf_weight * (two_char where the term has two characters)."""
    factor = two_char if len(term) == 2 else 1.0
    return idf(df, documents) * zipf_weight(zipf) * factor


def term_weights(
    columns: Columns, documents: int, two_char: float = TWO_CHAR
) -> NDArray[np.float64]:
    """`term_weight` of every entry, [N] float64, bit for bit the same numbers."""
    different, place = np.unique(columns.df, return_inverse=True)
    rarity = np.array([idf(int(n), documents) for n in different], dtype=np.float64)[place]
    share = (ZIPF_NOTHING - columns.zipf) / (ZIPF_NOTHING - ZIPF_FREE)
    unknown = np.isnan(columns.zipf)
    everyday = np.where(unknown, 1.0, np.minimum(1.0, np.maximum(0.0, share)))
    return rarity * everyday * np.where(columns.terms.size == 2, two_char, 1.0)
