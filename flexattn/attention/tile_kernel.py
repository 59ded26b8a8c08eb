"""Compiled: a tile of rows, all its queries with all its keys in one product; and what every tile needs.

Float32 with few keys takes the kernels of `keywise_kernel`; which one takes what is for `kernel` to say.
"""

from __future__ import annotations

import triton
import triton.language as tl

from flexattn.attention.blocked_kernel import LOG2E


@triton.jit
def rows_of(  # type: ignore[no-untyped-def]
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
def place_of(row, b, h, t, sb, sh, st, D: tl.constexpr, FLAT: tl.constexpr):  # type: ignore[no-untyped-def]
    """Where rows begin; FLAT, where those of every tensor lie in line."""
    if FLAT:
        at = row * D
    else:
        at = b * sb + h * sh + t * st
    return at


@triton.jit
def load_rows(x, at, mask, D: tl.constexpr, BD: tl.constexpr):  # type: ignore[no-untyped-def]
    """Rows of D, [BN, BD], zeros elsewhere."""
    o_d = tl.arange(0, BD)
    return tl.load(
        x + at[:, None] + o_d[None, :], mask=mask[:, None] & (o_d < D)[None, :], other=0.0
    )


@triton.jit
def store_rows(x, at, rows, mask, D: tl.constexpr, BD: tl.constexpr):  # type: ignore[no-untyped-def]
    """Rows of D, in the type that x has."""
    o_d = tl.arange(0, BD)
    m = mask[:, None] & (o_d < D)[None, :]
    tl.store(x + at[:, None] + o_d[None, :], rows.to(x.dtype.element_ty), mask=m)


@triton.jit
def slope_of(slopes, h, m_n):  # type: ignore[no-untyped-def]
    """ALiBi's slope of each row's head, for base-2 scores."""
    return tl.load(slopes + h, mask=m_n, other=0.0).to(tl.float32) * LOG2E


@triton.jit
def _scores(  # type: ignore[no-untyped-def]
    b_q, b_k, scale, slopes, h, m_n, dist, ALIBI: tl.constexpr, PRECISION: tl.constexpr
):  # fmt: skip
    """Base-2 scores of every row with every row, [BN, BN]."""
    s = tl.dot(b_q, tl.trans(b_k), input_precision=PRECISION) * (scale * LOG2E)
    if ALIBI:
        s -= slope_of(slopes, h, m_n)[:, None] * dist
    return s


@triton.jit
def width_of(packed_low, packed_high, c: tl.constexpr):  # type: ignore[no-untyped-def]
    """Choice c of the windows packed 16 bits each."""
    packed = packed_low if c < 4 else packed_high
    return ((packed >> (16 * (c % 4))) & 0xFFFF).to(tl.int32)


@triton.jit
def reach_of(
    window, at_w, m_n, packed_low, packed_high, t, bound, c: tl.constexpr, TENSOR: tl.constexpr
):  # type: ignore[no-untyped-def]
    """Keys that each row sees: its window, cut to `bound` and to the start of its sequence, at least 1."""
    if TENSOR:
        width = tl.load(window + at_w, mask=m_n, other=1).to(tl.int32)
    else:
        width = width_of(packed_low, packed_high, c)
    return tl.maximum(tl.minimum(tl.minimum(width, bound), t + 1), 1)  # [BN]


@triton.jit
def sees(
    window, at_w, swt, m_n, packed_low, packed_high, t, T, bound, c: tl.constexpr, j: tl.constexpr,
    TENSOR: tl.constexpr,
):  # type: ignore[no-untyped-def]  # fmt: skip
    """Whether the query j positions later sees each row's key."""
    there = m_n & (t + j < T)
    if TENSOR:
        width = tl.load(window + at_w + j * swt, mask=there, other=1).to(tl.int32)
    else:
        width = width_of(packed_low, packed_high, c)
    return there & (j < tl.maximum(tl.minimum(width, bound), 1))


@triton.jit
def _probabilities(s, dist, reach):  # type: ignore[no-untyped-def]
    """exp2(s - max) where 0 <= dist < reach, and the sum of a row."""
    seen = (dist >= 0) & (dist < reach[:, None])
    s = tl.where(seen, s, float("-inf"))
    p = tl.exp2(s - tl.max(s, 1)[:, None])  # a row sees itself, so its largest is finite
    return p, tl.sum(p, 1)


# read at run time: a new value compiles nothing
STEADY = ["swb", "swh", "T", "N", "owned", "halo", "bound", "packed_low", "packed_high"]


@triton.jit(do_not_specialize=STEADY)
def windowed_fwd_kernel(  # type: ignore[no-untyped-def]
    q, k, v, window, slopes, o,
    sqb, sqh, sqt, skb, skh, skt, svb, svh, svt, swb, swh, swt, soc, sob, soh, sot,
    scale, T, N, owned, halo, bound, packed_low: tl.int64, packed_high: tl.int64,
    HKV: tl.constexpr, G: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, BN: tl.constexpr,
    CHOICES: tl.constexpr, TENSOR: tl.constexpr, ALIBI: tl.constexpr, FLAT: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """A tile of rows: one product q k^T, a softmax and a product with v for each choice."""
    row, m_n, m_own, b, kv, t = rows_of(tl.program_id(0), owned, halo, T, N, BN, HKV)
    dist = tl.arange(0, BN)[:, None] - tl.arange(0, BN)[None, :]
    b_k = load_rows(k, place_of(row, b, kv, t, skb, skh, skt, D, FLAT), m_n, D, BD)
    b_v = load_rows(v, place_of(row, b, kv, t, svb, svh, svt, D, FLAT), m_n, D, BD)
    for g in range(G):
        h = kv * G + g
        b_q = load_rows(q, place_of(row, b, h, t, sqb, sqh, sqt, D, FLAT), m_own, D, BD)
        s = _scores(b_q, b_k, scale, slopes, h, m_n, dist, ALIBI, PRECISION)
        at_w = b * swb + h * swh + t * swt
        for c in tl.static_range(CHOICES):
            reach = reach_of(window, at_w, m_n, packed_low, packed_high, t, bound, c, TENSOR)
            p, total = _probabilities(s, dist, reach)
            b_o = tl.dot(p.to(b_v.dtype), b_v, input_precision=PRECISION) / total[:, None]
            at_o = place_of(row, b, h, t, sob, soh, sot, D, FLAT) + c * soc
            store_rows(o, at_o, b_o, m_own, D, BD)


@triton.jit(do_not_specialize=STEADY)
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
    row, m_n, m_own, b, kv, t = rows_of(tl.program_id(0), owned, halo, T, N, BN, HKV)
    dist = tl.arange(0, BN)[:, None] - tl.arange(0, BN)[None, :]
    b_k = load_rows(k, place_of(row, b, kv, t, skb, skh, skt, D, FLAT), m_n, D, BD)
    b_v = load_rows(v, place_of(row, b, kv, t, svb, svh, svt, D, FLAT), m_n, D, BD)
    b_dk = tl.zeros([BN, BD], tl.float32)
    b_dv = tl.zeros([BN, BD], tl.float32)
    for g in range(G):
        h = kv * G + g
        b_q = load_rows(q, place_of(row, b, h, t, sqb, sqh, sqt, D, FLAT), m_n, D, BD)
        s = _scores(b_q, b_k, scale, slopes, h, m_n, dist, ALIBI, PRECISION)
        at_w = b * swb + h * swh + t * swt
        b_ds = tl.zeros([BN, BN], tl.float32)
        for c in tl.static_range(CHOICES):
            at_o = place_of(row, b, h, t, sob, soh, sot, D, FLAT) + c * soc
            b_do = load_rows(do, at_o, m_n, D, BD)
            reach = reach_of(window, at_w, m_n, packed_low, packed_high, t, bound, c, TENSOR)
            p, total = _probabilities(s, dist, reach)
            p /= total[:, None]
            dp = tl.dot(b_do, tl.trans(b_v), input_precision=PRECISION)  # [BN, BN]
            delta = tl.sum(p * dp, 1)
            b_ds += p * (dp - delta[:, None])
            b_dv += tl.dot(tl.trans(p.to(b_do.dtype)), b_do, input_precision=PRECISION)
        b_ds = (b_ds * scale).to(b_k.dtype)
        b_dq = tl.dot(b_ds, b_k, input_precision=PRECISION)  # [BN, BD]
        store_rows(dq, place_of(row, b, h, t, sdqb, sdqh, sdqt, D, FLAT), b_dq, m_own, D, BD)
        b_dk += tl.dot(tl.trans(b_ds), b_q, input_precision=PRECISION)
    store_rows(dk, place_of(row, b, kv, t, sdkb, sdkh, sdkt, D, FLAT), b_dk, m_own, D, BD)
    store_rows(dv, place_of(row, b, kv, t, sdvb, sdvh, sdvt, D, FLAT), b_dv, m_own, D, BD)
