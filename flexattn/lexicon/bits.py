"""Sets of small integers as packed bits: bit c of word c // 64 says whether c is in the set."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba.extending import intrinsic

from flexattn.lexicon.compiled import compiled

Words = npt.NDArray[np.uint64]

_ONE = np.uint64(1)


def words_for(size: int) -> int:
    """Number of 64-bit words that hold `size` bits."""
    return (size + 63) // 64


def pack(rows: npt.NDArray[np.bool_]) -> Words:
    """Pack the last axis, [..., size] bool -> [..., words_for(size)] uint64."""
    size = rows.shape[-1]
    padded = np.zeros((*rows.shape[:-1], words_for(size) * 64), np.bool_)
    padded[..., :size] = rows
    return np.packbits(padded, axis=-1, bitorder="little").view("<u8").astype(np.uint64, copy=False)


def unpack(rows: Words, size: int) -> npt.NDArray[np.bool_]:
    """Unpack the last axis, [..., words] uint64 -> [..., size] bool."""
    octets = np.ascontiguousarray(rows, "<u8").view(np.uint8)
    return np.unpackbits(octets, axis=-1, count=size, bitorder="little").view(np.bool_)


def _popcount(typing: Any, word: Any) -> Any:
    """Number of ones in a 64-bit word, as the same type; inside compiled functions only."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return word(word), generate


popcount: Any = intrinsic(_popcount)


@compiled()
def has(row: Any, member: Any) -> Any:
    """Is `member` in the set?"""
    return (row[member >> 6] >> np.uint64(member & 63)) & _ONE != np.uint64(0)


@compiled()
def select(row: Any, rank: Any) -> Any:
    """The member with `rank` smaller members (0 is the lowest), -1 where there are too few."""
    for w in range(row.shape[0]):
        word = row[w]
        count = np.int64(popcount(word))
        if rank < count:
            for _ in range(rank):
                word &= word - _ONE
            return np.int64(w * 64) + np.int64(popcount((word & (~word + _ONE)) - _ONE))
        rank -= count
    return np.int64(-1)
