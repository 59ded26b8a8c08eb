"""Windowed attention on GPU, one launch forward and one backward.

Rule: rows of all sequences stand one after another, and a program takes a tile of BN of them: those it owns, and a
halo of `bound - 1` before them whose keys they may see. `0 <= i - j < min(window, t + 1)` keeps a row inside its own
sequence, so tiles need not know where sequences begin, and sequences of 6 fill a tile as well as those of 600.

The backward tile has a halo on both sides: every query that can see an owned key has its whole window inside, so the
probabilities are computed again and nothing but q, k, v and the windows is kept: no log-sum-exp, no second launch, no
atomics, the same bits on every run. All choices of window share one product q k^T.

Float32 has no tensor cores of its own, so its few keys are gone through one by one (`.._shift`), rows t - j coming out
of the nearest cache; backward, weights then pass from query to key inside the tile, whose halo lies after it.

Windows are read at run time. Compiled into a kernel are types, head counts, D and tile sizes, never T, B or a window.
Windows too wide for a tile go to `blocked`.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from flexattn.attention.blocked import blocked, precision, strides, window_strides
from flexattn.attention.blocked_kernel import LOG2E
from flexattn.attention.differentiable import differentiable
from flexattn.attention.layout import empty_like_q, empty_outputs, rows_whole

__all__ = ["fits_tile", "unsupported", "windowed"]

_CHOICES = 8  # choices of window in one launch, 16 bits each in two integers


@triton.jit
def _rows(  # type: ignore[no-untyped-def]
    program, owned, halo, T, N, BN: tl.constexpr, HKV: tl.constexpr
):  # fmt: skip
    """Row of each tile line, is it real, is it owned, its batch, kv head and position."""
    o_n = tl.arange(0, BN)
    row = program * owned - halo + o_n
    m_n = (row >= 0) & (row < N)
    m_own = m_n & (o_n >= halo) & (o_n < halo + owned)
    pair = tl.where(m_n, row, 0) // T
    t = tl.where(m_n, row, 0) - pair * T
    return row.to(tl.int64), m_n, m_own, (pair // HKV).to(tl.int64), pair % HKV, t


@triton.jit
def _at(row, b, h, t, sb, sh, st, D: tl.constexpr, FLAT: tl.constexpr):  # type: ignore[no-untyped-def]
    """Where rows begin; FLAT, where those of every tensor lie in line."""
    if FLAT:
        at = row * D
    else:
        at = b * sb + h * sh + t * st
    return at


@triton.jit
def _load(x, at, mask, D: tl.constexpr, BD: tl.constexpr):  # type: ignore[no-untyped-def]
    """Rows of D, [BN, BD], zeros elsewhere."""
    o_d = tl.arange(0, BD)
    return tl.load(
        x + at[:, None] + o_d[None, :], mask=mask[:, None] & (o_d < D)[None, :], other=0.0
    )


@triton.jit
def _store(x, at, rows, mask, D: tl.constexpr, BD: tl.constexpr):  # type: ignore[no-untyped-def]
    """Rows of D, in the type that x has."""
    o_d = tl.arange(0, BD)
    m = mask[:, None] & (o_d < D)[None, :]
    tl.store(x + at[:, None] + o_d[None, :], rows.to(x.dtype.element_ty), mask=m)


@triton.jit
def _slope(slopes, h, m_n):  # type: ignore[no-untyped-def]
    """ALiBi's slope of each row's head, for base-2 scores."""
    return tl.load(slopes + h, mask=m_n, other=0.0).to(tl.float32) * LOG2E


@triton.jit
def _scores(  # type: ignore[no-untyped-def]
    b_q, b_k, scale, slopes, h, m_n, dist, ALIBI: tl.constexpr, PRECISION: tl.constexpr
):  # fmt: skip
    """Base-2 scores of every row with every row, [BN, BN]."""
    s = tl.dot(b_q, tl.trans(b_k), input_precision=PRECISION) * (scale * LOG2E)
    if ALIBI:
        s -= _slope(slopes, h, m_n)[:, None] * dist
    return s


@triton.jit
def _width(packed_low, packed_high, c: tl.constexpr):  # type: ignore[no-untyped-def]
    """Choice c of the windows packed 16 bits each."""
    packed = packed_low if c < 4 else packed_high
    return ((packed >> (16 * (c % 4))) & 0xFFFF).to(tl.int32)


@triton.jit
def _reach(
    window, at_w, m_n, packed_low, packed_high, t, bound, c: tl.constexpr, TENSOR: tl.constexpr
):  # type: ignore[no-untyped-def]
    """Keys that each row sees: its window, cut to `bound` and to the start of its sequence, at least 1."""
    if TENSOR:
        width = tl.load(window + at_w, mask=m_n, other=1).to(tl.int32)
    else:
        width = _width(packed_low, packed_high, c)
    return tl.maximum(tl.minimum(tl.minimum(width, bound), t + 1), 1)  # [BN]


@triton.jit
def _sees(
    window, at_w, swt, m_n, packed_low, packed_high, t, T, bound, c: tl.constexpr, j: tl.constexpr,
    TENSOR: tl.constexpr,
):  # type: ignore[no-untyped-def]  # fmt: skip
    """Whether the query j positions later sees each row's key."""
    there = m_n & (t + j < T)
    if TENSOR:
        width = tl.load(window + at_w + j * swt, mask=there, other=1).to(tl.int32)
    else:
        width = _width(packed_low, packed_high, c)
    return there & (j < tl.maximum(tl.minimum(width, bound), 1))


@triton.jit
def _probabilities(s, dist, reach):  # type: ignore[no-untyped-def]
    """exp2(s - max) where 0 <= dist < reach, and the sum of a row."""
    seen = (dist >= 0) & (dist < reach[:, None])
    s = tl.where(seen, s, float("-inf"))
    p = tl.exp2(s - tl.max(s, 1)[:, None])  # a row sees itself, so its largest is finite
    return p, tl.sum(p, 1)


# read at run time: a new value compiles nothing
_STEADY = ["swb", "swh", "T", "N", "owned", "halo", "bound", "packed_low", "packed_high"]


@triton.jit(do_not_specialize=_STEADY)
def windowed_fwd_kernel(  # type: ignore[no-untyped-def]
    q, k, v, window, slopes, o,
    sqb, sqh, sqt, skb, skh, skt, svb, svh, svt, swb, swh, swt, soc, sob, soh, sot,
    scale, T, N, owned, halo, bound, packed_low: tl.int64, packed_high: tl.int64,
    HKV: tl.constexpr, G: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, BN: tl.constexpr,
    CHOICES: tl.constexpr, TENSOR: tl.constexpr, ALIBI: tl.constexpr, FLAT: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """A tile of rows: one product q k^T, a softmax and a product with v for each choice."""
    row, m_n, m_own, b, kv, t = _rows(tl.program_id(0), owned, halo, T, N, BN, HKV)
    dist = tl.arange(0, BN)[:, None] - tl.arange(0, BN)[None, :]
    b_k = _load(k, _at(row, b, kv, t, skb, skh, skt, D, FLAT), m_n, D, BD)
    b_v = _load(v, _at(row, b, kv, t, svb, svh, svt, D, FLAT), m_n, D, BD)
    for g in range(G):
        h = kv * G + g
        b_q = _load(q, _at(row, b, h, t, sqb, sqh, sqt, D, FLAT), m_own, D, BD)
        s = _scores(b_q, b_k, scale, slopes, h, m_n, dist, ALIBI, PRECISION)
        at_w = b * swb + h * swh + t * swt
        for c in tl.static_range(CHOICES):
            reach = _reach(window, at_w, m_n, packed_low, packed_high, t, bound, c, TENSOR)
            p, total = _probabilities(s, dist, reach)
            b_o = tl.dot(p.to(b_v.dtype), b_v, input_precision=PRECISION) / total[:, None]
            at_o = _at(row, b, h, t, sob, soh, sot, D, FLAT) + c * soc
            _store(o, at_o, b_o, m_own, D, BD)


@triton.jit(do_not_specialize=_STEADY)
def windowed_fwd_kernel_shift(  # type: ignore[no-untyped-def]
    q, k, v, window, slopes, o,
    sqb, sqh, sqt, skb, skh, skt, svb, svh, svt, swb, swh, swt, soc, sob, soh, sot,
    scale, T, N, owned, halo, bound, packed_low: tl.int64, packed_high: tl.int64,
    HKV: tl.constexpr, G: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, BN: tl.constexpr,
    CHOICES: tl.constexpr, TENSOR: tl.constexpr, ALIBI: tl.constexpr, FLAT: tl.constexpr,
    BOUND: tl.constexpr,
):  # fmt: skip
    """Key by key, nearest first; every wider choice goes on from the last."""
    row, m_n, _, b, kv, t = _rows(tl.program_id(0), owned, halo, T, N, BN, HKV)
    at_k = _at(row, b, kv, t, skb, skh, skt, D, FLAT)
    at_v = _at(row, b, kv, t, svb, svh, svt, D, FLAT)
    sk = D if FLAT else skt
    sv = D if FLAT else svt
    for g in range(G):
        h = kv * G + g
        b_q = _load(q, _at(row, b, h, t, sqb, sqh, sqt, D, FLAT), m_n, D, BD).to(tl.float32)
        b_q *= scale * LOG2E
        slope = _slope(slopes, h, m_n) if ALIBI else 0.0
        at_w = b * swb + h * swh + t * swt
        if TENSOR:
            reach = _reach(window, at_w, m_n, packed_low, packed_high, t, bound, 0, True)
        else:
            reach = tl.minimum(t + 1, bound)
        at_o = _at(row, b, h, t, sob, soh, sot, D, FLAT)
        top = tl.full([BN], float("-inf"), tl.float32)
        total = tl.zeros([BN], tl.float32)
        b_o = tl.zeros([BN, BD], tl.float32)
        scores = ()
        for j in tl.static_range(BOUND):
            seen = m_n & (j < reach)
            s = tl.sum(b_q * _load(k, at_k - j * sk, seen, D, BD).to(tl.float32), 1)
            if ALIBI:
                s -= slope * j
            if j > 0:
                s = tl.where(seen, s, float("-inf"))
            scores = scores + (s,)  # type: ignore[assignment]
            if CHOICES == 1:
                top = tl.maximum(top, s)
        for j in tl.static_range(BOUND):
            b_v = _load(v, at_v - j * sv, m_n & (j < reach), D, BD)
            if CHOICES > 1:
                # each choice has a largest score of its own, so it is found on the way
                higher = tl.maximum(top, scores[j])
                fade = tl.exp2(top - higher)
                total *= fade
                b_o *= fade[:, None]
                top = higher
            p = tl.exp2(scores[j] - top)
            total += p
            b_o += p[:, None] * b_v.to(tl.float32)
            if CHOICES > 1:
                for c in tl.static_range(CHOICES):
                    if tl.minimum(_width(packed_low, packed_high, c), bound) == j + 1:
                        _store(o, at_o + c * soc, b_o / total[:, None], m_n, D, BD)
        if CHOICES == 1:
            _store(o, at_o, b_o / total[:, None], m_n, D, BD)


@triton.jit(do_not_specialize=_STEADY)
def windowed_bwd_kernel(  # type: ignore[no-untyped-def]
    q, k, v, window, slopes, do, dq, dk, dv,
    sqb, sqh, sqt, skb, skh, skt, svb, svh, svt, swb, swh, swt, soc, sob, soh, sot,
    sdqb, sdqh, sdqt, sdkb, sdkh, sdkt, sdvb, sdvh, sdvt,
    scale, T, N, owned, halo, bound, packed_low: tl.int64, packed_high: tl.int64,
    HKV: tl.constexpr, G: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, BN: tl.constexpr,
    CHOICES: tl.constexpr, TENSOR: tl.constexpr, ALIBI: tl.constexpr, FLAT: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """A tile of rows and its halos: dq, dk and dv of the rows that it owns."""
    row, m_n, m_own, b, kv, t = _rows(tl.program_id(0), owned, halo, T, N, BN, HKV)
    dist = tl.arange(0, BN)[:, None] - tl.arange(0, BN)[None, :]
    b_k = _load(k, _at(row, b, kv, t, skb, skh, skt, D, FLAT), m_n, D, BD)
    b_v = _load(v, _at(row, b, kv, t, svb, svh, svt, D, FLAT), m_n, D, BD)
    b_dk = tl.zeros([BN, BD], tl.float32)
    b_dv = tl.zeros([BN, BD], tl.float32)
    for g in range(G):
        h = kv * G + g
        b_q = _load(q, _at(row, b, h, t, sqb, sqh, sqt, D, FLAT), m_n, D, BD)
        s = _scores(b_q, b_k, scale, slopes, h, m_n, dist, ALIBI, PRECISION)
        at_w = b * swb + h * swh + t * swt
        b_ds = tl.zeros([BN, BN], tl.float32)
        for c in tl.static_range(CHOICES):
            at_o = _at(row, b, h, t, sob, soh, sot, D, FLAT) + c * soc
            b_do = _load(do, at_o, m_n, D, BD)
            reach = _reach(window, at_w, m_n, packed_low, packed_high, t, bound, c, TENSOR)
            p, total = _probabilities(s, dist, reach)
            p /= total[:, None]
            dp = tl.dot(b_do, tl.trans(b_v), input_precision=PRECISION)  # [BN, BN]
            delta = tl.sum(p * dp, 1)
            b_ds += p * (dp - delta[:, None])
            b_dv += tl.dot(tl.trans(p.to(b_do.dtype)), b_do, input_precision=PRECISION)
        b_ds = (b_ds * scale).to(b_k.dtype)
        b_dq = tl.dot(b_ds, b_k, input_precision=PRECISION)  # [BN, BD]
        _store(dq, _at(row, b, h, t, sdqb, sdqh, sdqt, D, FLAT), b_dq, m_own, D, BD)
        b_dk += tl.dot(tl.trans(b_ds), b_q, input_precision=PRECISION)
    _store(dk, _at(row, b, kv, t, sdkb, sdkh, sdkt, D, FLAT), b_dk, m_own, D, BD)
    _store(dv, _at(row, b, kv, t, sdvb, sdvh, sdvt, D, FLAT), b_dv, m_own, D, BD)


@triton.jit
def _further(x, j: tl.constexpr, BN: tl.constexpr):  # type: ignore[no-untyped-def]
    """What stands j lines further on, 0 past the tile: [BN]."""
    line = tl.arange(0, BN) + j
    return tl.where(line < BN, tl.gather(x, tl.minimum(line, BN - 1), 0), 0.0)


@triton.jit(do_not_specialize=_STEADY)
def windowed_bwd_kernel_shift(  # type: ignore[no-untyped-def]
    q, k, v, window, slopes, do, dq, dk, dv,
    sqb, sqh, sqt, skb, skh, skt, svb, svh, svt, swb, swh, swt, soc, sob, soh, sot,
    sdqb, sdqh, sdqt, sdkb, sdkh, sdkt, sdvb, sdvh, sdvt,
    scale, T, N, owned, halo, bound, packed_low: tl.int64, packed_high: tl.int64,
    HKV: tl.constexpr, G: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, BN: tl.constexpr,
    CHOICES: tl.constexpr, TENSOR: tl.constexpr, ALIBI: tl.constexpr, FLAT: tl.constexpr,
    BOUND: tl.constexpr,
):  # fmt: skip
    """A tile of rows and the halo after them, key by key: weights go from query to key inside the tile."""
    row, m_n, m_own, b, kv, t = _rows(tl.program_id(0), owned, halo, T, N, BN, HKV)
    at_k = _at(row, b, kv, t, skb, skh, skt, D, FLAT)
    at_v = _at(row, b, kv, t, svb, svh, svt, D, FLAT)
    sq = D if FLAT else sqt
    sk = D if FLAT else skt
    sv = D if FLAT else svt
    so = D if FLAT else sot
    b_dk = tl.zeros([BN, BD], tl.float32)
    b_dv = tl.zeros([BN, BD], tl.float32)
    for g in range(G):
        h = kv * G + g
        at_q = _at(row, b, h, t, sqb, sqh, sqt, D, FLAT)
        b_q = _load(q, at_q, m_n, D, BD).to(tl.float32) * (scale * LOG2E)
        at_w = b * swb + h * swh + t * swt
        widest = tl.minimum(t + 1, bound)
        if TENSOR:
            widest = _reach(window, at_w, m_n, packed_low, packed_high, t, bound, 0, True)
        scores = ()
        ds = ()
        for j in tl.static_range(BOUND):
            s = tl.sum(b_q * _load(k, at_k - j * sk, m_n & (j < widest), D, BD).to(tl.float32), 1)
            if ALIBI:
                s -= _slope(slopes, h, m_n) * j
            scores = scores + (s,)  # type: ignore[assignment]
            ds = ds + (tl.zeros([BN], tl.float32),)  # type: ignore[assignment]
        for c in tl.static_range(CHOICES):
            at_o = _at(row, b, h, t, sob, soh, sot, D, FLAT) + c * soc
            b_do = _load(do, at_o, m_n, D, BD).to(tl.float32)
            reach = _reach(window, at_w, m_n, packed_low, packed_high, t, bound, c, TENSOR)
            top = tl.full([BN], float("-inf"), tl.float32)
            for j in tl.static_range(BOUND):
                top = tl.maximum(top, tl.where(j < reach, scores[j], float("-inf")))
            total = tl.zeros([BN], tl.float32)
            delta = tl.zeros([BN], tl.float32)
            weights = ()
            steps = ()
            for j in tl.static_range(BOUND):
                b_v = _load(v, at_v - j * sv, m_n & (j < reach), D, BD).to(tl.float32)
                p = tl.where(j < reach, tl.exp2(scores[j] - top), 0.0)
                dp = tl.sum(b_do * b_v, 1)
                total += p
                delta += p * dp
                weights = weights + (p,)  # type: ignore[assignment]
                steps = steps + (dp,)  # type: ignore[assignment]
            delta /= total
            sums = ()
            for j in tl.static_range(BOUND):
                p = weights[j] / total
                sums = sums + (ds[j] + p * (steps[j] - delta),)  # type: ignore[assignment]
                later = _sees(
                    window, at_w, swt, m_n, packed_low, packed_high, t, T, bound, c, j, TENSOR
                )
                b_later = _load(do, at_o + j * so, later, D, BD).to(tl.float32)
                b_dv += _further(p, j, BN)[:, None] * b_later
            ds = sums
        b_dq = tl.zeros([BN, BD], tl.float32)
        for j in tl.static_range(BOUND):
            b_k = _load(k, at_k - j * sk, m_n & (j < widest), D, BD).to(tl.float32)
            b_dq += (ds[j] * scale)[:, None] * b_k
            later = m_n & (t + j < T)
            if TENSOR:
                later = _sees(
                    window, at_w, swt, m_n, packed_low, packed_high, t, T, bound, 0, j, True
                )
            b_later = _load(q, at_q + j * sq, later, D, BD).to(tl.float32)
            b_dk += (_further(ds[j], j, BN) * scale)[:, None] * b_later
        _store(dq, _at(row, b, h, t, sdqb, sdqh, sdqt, D, FLAT), b_dq, m_own, D, BD)
    _store(dk, _at(row, b, kv, t, sdkb, sdkh, sdkt, D, FLAT), b_dk, m_own, D, BD)
    _store(dv, _at(row, b, kv, t, sdvb, sdvh, sdvt, D, FLAT), b_dv, m_own, D, BD)


def _tile(rows: int, halo: int, length: int) -> tuple[int, int]:
    """Rows that a tile owns, and the halo on each side that it needs for them.

    A tile that holds whole sequences needs no halo.
    """
    whole = rows // length * length
    return (whole, 0) if whole >= rows - halo else (rows - halo, halo)


def fits_tile(bound: int, length: int, dtype: torch.dtype) -> bool:
    """Whether windows up to `bound` in sequences of `length` are a matter of one tile."""
    if dtype == torch.float32:
        return bound <= 17 or length <= 64
    return bound <= 32 or length <= 128


def _power(number: int) -> int:
    """The next power of two."""
    return 1 << (number - 1).bit_length()


def _forward_plan(q: Tensor, bound: int, choices: int) -> tuple[bool, int, int]:
    """(key by key?, BN, warps) as measured on an H100, see docs/results/attention.md."""
    wide = _power(q.shape[-1])
    if bound <= 8 and (q.dtype == torch.float32 or (choices > 1 and wide <= 32)):
        return True, max(16, (1024 if q.dtype == torch.float32 else 2048) // wide), 4
    if bound <= 17 or q.shape[2] <= 64:
        return False, 64, 8 if q.dtype == torch.float32 and wide > 64 else 4
    return False, 128, 8


def _backward_plan(q: Tensor, bound: int, choices: int) -> tuple[bool, int, int]:
    """(key by key?, BN, warps) likewise; key by key where it was measured, since what spills is ten times slower."""
    wide = _power(q.shape[-1])
    if q.dtype == torch.float32:
        one, several = bound <= (8 if wide <= 32 else 6), bound <= 6 and choices <= 4 and wide <= 64
        if one if choices == 1 else several:
            return True, *{16: (16, 2), 32: (32, 8), 64: (16, 8), 128: (32, 16)}[wide]
        return False, 64, 4 if wide <= 32 else 8
    if choices > 1 and bound <= 8:
        return False, 32, 1 if wide <= 32 else 2
    if bound <= 17 or q.shape[2] <= 64:
        return False, 64, 4
    return False, 128, 8


def _bucket(bound: int) -> int:
    """Keys that a kernel which goes key by key is compiled for."""
    return next(bucket for bucket in (1, 2, 3, 4, 6, 8) if bucket >= bound)


def _packed(widths: list[int]) -> tuple[int, int]:
    """Up to eight windows, 16 bits each, in two integers."""
    low = sum(min(width, 0x7FFF) << (16 * c) for c, width in enumerate(widths[:4]))
    high = sum(min(width, 0x7FFF) << (16 * c) for c, width in enumerate(widths[4:]))
    return low, high


def _whole(*tensors: Tensor) -> bool:
    return all(x.is_contiguous() for x in tensors)


def _meta(
    q: Tensor,
    k: Tensor,
    window: Tensor | None,
    widths: list[int],
    slopes: Tensor | None,
    flat: bool,
) -> dict[str, Any]:
    return {
        "HKV": k.shape[1],
        "G": q.shape[1] // k.shape[1],
        "D": q.shape[-1],
        "BD": triton.next_power_of_2(q.shape[-1]),
        "CHOICES": len(widths),
        "TENSOR": window is not None,
        "ALIBI": slopes is not None,
        "FLAT": flat and q.shape[1] == k.shape[1],
    }


@torch.library.custom_op("flexattn::windowed", mutates_args=())
def _windowed(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    window: Tensor | None,
    widths: list[int],
    slopes: Tensor | None,
    scale: float,
) -> Tensor:
    """[C, B, H, T, D]; see `windowed`."""
    q, k, v = rows_whole(q), rows_whole(k), rows_whole(v)
    out = empty_outputs(q, len(widths))
    if out.numel() == 0:
        return out
    batch, _, length, _ = q.shape
    bound = min(max(widths), length)
    rows = batch * k.shape[1] * length
    meta = _meta(q, k, window, widths, slopes, _whole(q, k, v, out))
    shift, tile, warps = _forward_plan(q, bound, len(widths))
    if shift:
        owned, halo = tile, 0
        meta["BOUND"] = _bucket(bound)
    else:
        owned, halo = _tile(tile, bound - 1, length)
        meta["PRECISION"] = precision(q)
    kernel = windowed_fwd_kernel_shift if shift else windowed_fwd_kernel
    kernel[(triton.cdiv(rows, owned),)](
        q, k, v, window, slopes, out,
        *strides(q, k, v), *window_strides(window), *strides(out),
        scale, length, rows, owned, halo, bound, *_packed(widths),
        BN=tile, num_warps=warps, num_stages=1, **meta,
    )  # fmt: skip
    return out


@torch.library.custom_op("flexattn::windowed_backward", mutates_args=())
def _windowed_backward(
    do: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    window: Tensor | None,
    widths: list[int],
    slopes: Tensor | None,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v from `do` [C, B, H, T, D]."""
    do, q, k, v = rows_whole(do), rows_whole(q), rows_whole(k), rows_whole(v)
    dq, dk, dv = empty_like_q(q), empty_like_q(k), empty_like_q(v)
    if q.numel() == 0:
        return dq, dk, dv
    batch, _, length, _ = q.shape
    bound = min(max(widths), length)
    rows = batch * k.shape[1] * length
    meta = _meta(q, k, window, widths, slopes, _whole(do, q, k, v))
    shift, tile, warps = _backward_plan(q, bound, len(widths))
    if shift:
        owned, halo = _tile(tile, bound - 1, length)[0], 0
        meta["BOUND"] = _bucket(bound)
    else:
        owned, halo = _tile(tile, 2 * (bound - 1), length)
        meta["PRECISION"] = precision(q)
    kernel = windowed_bwd_kernel_shift if shift else windowed_bwd_kernel
    kernel[(triton.cdiv(rows, owned),)](
        q, k, v, window, slopes, do, dq, dk, dv,
        *strides(q, k, v), *window_strides(window), *strides(do, dq, dk, dv),
        scale, length, rows, owned, halo // 2, bound, *_packed(widths),
        BN=tile, num_warps=warps, num_stages=1, **meta,
    )  # fmt: skip
    return dq, dk, dv


differentiable(_windowed, _windowed_backward)


def windowed(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    window: Tensor | None,
    widths: list[int],
    slopes: Tensor | None,
    scale: float,
) -> Tensor:
    """One output for each choice of window.

    Args:
      q: [B, H, T, D] on GPU, D 16 to 128.
      k, v: [B, Hkv, T, D].
      window: [B, T] or [B, H, T] integers, the only choice; None where `widths` are the C choices.
      widths: keys that any query may see at most, for each choice.
      slopes: ALiBi's slopes, [H], or None.
      scale: factor of q.k.

    Returns: [C, B, H, T, D]. More than 8 choices take a launch for each 8; choices that reach over a tile one each.
    """
    if not fits_tile(min(max(widths), q.shape[2]), q.shape[2], q.dtype):
        each = [
            blocked(q, k, v, scale=scale, window=window, bound=width, slopes=slopes)
            for width in widths
        ]
        return each[0][None] if len(each) == 1 else torch.stack(each)
    if len(widths) > _CHOICES:
        parts = range(0, len(widths), _CHOICES)
        return torch.cat(
            [_windowed(q, k, v, window, widths[i : i + _CHOICES], slopes, scale) for i in parts]
        )
    return _windowed(q, k, v, window, widths, slopes, scale)


def unsupported(q: Tensor) -> str | None:
    """Why these kernels can't take q, as "has .., expected ..", or None where they can."""
    if not q.is_cuda and not triton.knobs.runtime.interpret:
        return f"is on {q.device}, expected cuda for impl='triton'"
    if q.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return f"has {q.dtype}, expected float32, bfloat16 or float16 for impl='triton'"
    if not 16 <= q.shape[-1] <= 128:
        return f"has head dim {q.shape[-1]}, expected 16 to 128 for impl='triton'"
    return None
