"""Sets of small integers as packed bits: bit c of word c // 64 says whether c is in the set."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

Words = npt.NDArray[np.uint64]

_ONE = np.uint64(1)
_S2, _S4, _S56 = np.uint64(2), np.uint64(4), np.uint64(56)
_M1 = np.uint64(0x5555555555555555)
_M2 = np.uint64(0x3333333333333333)
_M4 = np.uint64(0x0F0F0F0F0F0F0F0F)
_H01 = np.uint64(0x0101010101010101)


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


def row_of(members: Iterable[int], size: int) -> Words:
    """One packed row with the given members."""
    row = np.zeros(size, np.bool_)
    row[list(members)] = True
    return pack(row)


def set_pairs(rows: Words, first: npt.NDArray[Any], second: npt.NDArray[Any]) -> None:
    """Set bit second[n] of row first[n] for every n, in place."""
    bits = _ONE << (second.astype(np.uint64) & np.uint64(63))
    np.bitwise_or.at(rows, (first, second >> 6), bits)


@njit(nogil=True, cache=True)
def popcount(word: Any) -> Any:
    """Number of ones in a 64-bit word."""
    word = word - ((word >> _ONE) & _M1)
    word = (word & _M2) + ((word >> _S2) & _M2)
    word = (word + (word >> _S4)) & _M4
    return np.int64((word * _H01) >> _S56)


@njit(nogil=True, cache=True)
def has(row: Any, member: Any) -> Any:
    """Is `member` in the set?"""
    return (row[member >> 6] >> np.uint64(member & 63)) & _ONE != np.uint64(0)


@njit(nogil=True, cache=True)
def select(row: Any, rank: Any) -> Any:
    """The member with `rank` smaller members (0 is the lowest), -1 where there are too few."""
    for w in range(row.shape[0]):
        word = row[w]
        count = popcount(word)
        if rank < count:
            for _ in range(rank):
                word &= word - _ONE
            return np.int64(w * 64) + popcount((word & (~word + _ONE)) - _ONE)
        rank -= count
    return np.int64(-1)
