"""The first four bytes of each line's SHA-256, sixteen lines side by side, compiled.

They say which line was changed; that one was, says the segment's own hash, which is `hashlib`'s. A
call of `hashlib` for each line costs more than the arithmetic, and holds the interpreter lock. The
arithmetic is FIPS 180-4's; every lane is one line, so that the compiler finds vectors.
"""

from __future__ import annotations

import hashlib
import io
import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

LANES = 16
FEW_LINES = 512  # up to which hashlib is asked: no compiler is waited for


def _primes(count: int) -> list[int]:
    found: list[int] = []
    n = 2
    while len(found) < count:
        if all(n % p for p in found):
            found.append(n)
        n += 1
    return found


def _cube_root(n: int) -> int:
    """The whole part of the cube root."""
    low, high = 0, 1 << (n.bit_length() + 2) // 3
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if middle**3 <= n else (low, middle)
    return low


# the first 32 bits behind the point of the cube and square roots of the first primes
_K = np.array([_cube_root(p << 96) & 0xFFFFFFFF for p in _primes(64)], np.uint32)
_START = np.array([math.isqrt(p << 64) & 0xFFFFFFFF for p in _primes(8)], np.uint32)


def shorts(data: bytes) -> bytes:
    """First four bytes of the SHA-256 of each line of `data`, newline in it, run together."""
    octets = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero(octets == ord("\n")) + 1
    if len(ends) <= FEW_LINES:
        return b"".join([hashlib.sha256(line).digest()[:4] for line in io.BytesIO(data)])
    if ends[-1] < len(data):
        ends = np.append(ends, len(data))
    out = np.empty((len(ends), 4), np.uint8)
    _all(octets, ends, out)
    return out.tobytes()


def _compiled(**options: Any) -> Any:
    """Numba, without the interpreter lock; nothing here calls another file, so its cache holds."""

    def decorate(function: Any) -> Any:
        try:
            return njit(cache=True, nogil=True, **options)(function)
        except RuntimeError:  # no folder to cache in: compile in every process
            return njit(nogil=True, **options)(function)

    return decorate


def _load(typing: Any, data: Any, at: Any) -> Any:
    """The big-endian word at data[at : at + 4]; inside compiled functions only."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        place = builder.gep(array.data, [arguments[1]])
        word = builder.load(builder.bitcast(place, ir.IntType(32).as_pointer()))
        word.align = 1
        return builder.bswap(word)

    return types.uint32(data, types.intp), generate


load_word: Any = intrinsic(_load)


@_compiled(inline="always")
def _turn(x: Any, n: Any) -> Any:
    """x rotated right by n bits."""
    return np.uint32((x >> np.uint32(n)) | (x << np.uint32(32 - n)))


@_compiled(inline="always")
def _round(a: Any, b: Any, c: Any, d: Any, e: Any, f: Any, g: Any, h: Any, word: Any) -> Any:
    """The new d and h; the other six only change their names."""
    choose, most = np.uint32((e & f) ^ (~e & g)), np.uint32((a & b) | (c & (a | b)))
    one = np.uint32(h + np.uint32(_turn(e, 6) ^ _turn(e, 11) ^ _turn(e, 25)) + choose + word)
    two = np.uint32(np.uint32(_turn(a, 2) ^ _turn(a, 13) ^ _turn(a, 22)) + most)
    return np.uint32(d + one), np.uint32(one + two)


@_compiled()
def _compress(state: Any, w: Any, v: Any, on: Any) -> None:
    """One block of every lane; `on` is all ones where the lane has one, else 0.

    Args:
      state: [8, LANES] uint32.
      w: [64, LANES] uint32, the first 16 rows hold the block.
      v: [8, LANES] uint32, room.
      on: [LANES] uint32.
    """
    for j in range(16, 64):
        for i in range(LANES):
            x, y = w[j - 15, i], w[j - 2, i]
            p = np.uint32(_turn(x, 7) ^ _turn(x, 18) ^ np.uint32(x >> np.uint32(3)))
            q = np.uint32(_turn(y, 17) ^ _turn(y, 19) ^ np.uint32(y >> np.uint32(10)))
            w[j, i] = np.uint32(w[j - 16, i] + p + w[j - 7, i] + q)
    for k in range(8):
        for i in range(LANES):
            v[k, i] = state[k, i]
    for j in range(0, 64, 8):
        for i in range(LANES):
            a, b, c, d = v[0, i], v[1, i], v[2, i], v[3, i]
            e, f, g, h = v[4, i], v[5, i], v[6, i], v[7, i]
            d, h = _round(a, b, c, d, e, f, g, h, np.uint32(_K[j] + w[j, i]))
            c, g = _round(h, a, b, c, d, e, f, g, np.uint32(_K[j + 1] + w[j + 1, i]))
            b, f = _round(g, h, a, b, c, d, e, f, np.uint32(_K[j + 2] + w[j + 2, i]))
            a, e = _round(f, g, h, a, b, c, d, e, np.uint32(_K[j + 3] + w[j + 3, i]))
            h, d = _round(e, f, g, h, a, b, c, d, np.uint32(_K[j + 4] + w[j + 4, i]))
            g, c = _round(d, e, f, g, h, a, b, c, np.uint32(_K[j + 5] + w[j + 5, i]))
            f, b = _round(c, d, e, f, g, h, a, b, np.uint32(_K[j + 6] + w[j + 6, i]))
            e, a = _round(b, c, d, e, f, g, h, a, np.uint32(_K[j + 7] + w[j + 7, i]))
            v[0, i], v[1, i], v[2, i], v[3, i] = a, b, c, d
            v[4, i], v[5, i], v[6, i], v[7, i] = e, f, g, h
    for k in range(8):
        for i in range(LANES):
            state[k, i] = np.uint32(state[k, i] + (v[k, i] & on[i]))


@_compiled()
def _block(data: Any, first: Any, size: Any, b: Any, tail: Any, w: Any, i: Any) -> None:
    """Put block b of the padded line data[first : first + size] into lane i."""
    offset = 64 * b
    if offset + 64 <= size:
        for j in range(16):
            w[j, i] = load_word(data, first + offset + 4 * j)
        return
    for j in range(64):
        tail[j] = data[first + offset + j] if offset + j < size else 0
    if offset <= size:
        tail[size - offset] = 0x80
    if b == (size + 8) // 64:
        for j in range(8):
            tail[56 + j] = (8 * size >> (56 - 8 * j)) & 255
    for j in range(16):
        w[j, i] = load_word(tail, 4 * j)


@_compiled()
def _all(data: Any, ends: Any, out: Any) -> None:
    """Fill out, [lines, 4] uint8, from the lines of `data` that end before `ends`."""
    count = ends.shape[0]
    w, v = np.empty((64, LANES), np.uint32), np.empty((8, LANES), np.uint32)
    state, on = np.empty((8, LANES), np.uint32), np.empty(LANES, np.uint32)
    tail = np.empty(64, np.uint8)
    start, blocks = np.empty(LANES, np.int64), np.empty(LANES, np.int64)
    for group in range(0, count, LANES):
        lanes = min(LANES, count - group)
        most = 0
        for i in range(LANES):
            for k in range(8):
                state[k, i] = _START[k]
            blocks[i] = 0
            if i < lanes:
                start[i] = ends[group + i - 1] if group + i else 0
                blocks[i] = (ends[group + i] - start[i] + 8) // 64 + 1
                most = max(most, blocks[i])
        for b in range(most):
            for i in range(LANES):
                on[i] = np.uint32(0xFFFFFFFF if b < blocks[i] else 0)
                if b < blocks[i]:
                    _block(data, start[i], ends[group + i] - start[i], b, tail, w, i)
            _compress(state, w, v, on)
        for i in range(lanes):
            for k in range(4):
                out[group + i, k] = (state[0, i] >> np.uint32(24 - 8 * k)) & np.uint32(255)
