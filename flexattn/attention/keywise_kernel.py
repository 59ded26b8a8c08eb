"""Compiled: a tile of rows whose few keys are gone through one by one; float32 has no tensor cores of its own.

Rows t - j come out of the nearest cache. Backward, weights pass from query to key inside the tile, whose halo lies
after it.
"""

from __future__ import annotations

import triton
import triton.language as tl

from flexattn.attention.blocked_kernel import LOG2E
from flexattn.attention.tile_kernel import (
    STEADY,
    load_rows,
    place_of,
    reach_of,
    rows_of,
    sees,
    slope_of,
    store_rows,
    width_of,
)


@triton.jit(do_not_specialize=STEADY)
def windowed_fwd_kernel_keywise(  # type: ignore[no-untyped-def]
    q, k, v, window, slopes, o,
    sqb, sqh, sqt, skb, skh, skt, svb, svh, svt, swb, swh, swt, soc, sob, soh, sot,
    scale, T, N, owned, halo, bound, packed_low: tl.int64, packed_high: tl.int64,
    HKV: tl.constexpr, G: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, BN: tl.constexpr,
    CHOICES: tl.constexpr, TENSOR: tl.constexpr, ALIBI: tl.constexpr, FLAT: tl.constexpr,
    BOUND: tl.constexpr,
):  # fmt: skip
    """Key by key, nearest first; every wider choice goes on from the last."""
    row, m_n, _, b, kv, t = rows_of(tl.program_id(0), owned, halo, T, N, BN, HKV)
    at_k = place_of(row, b, kv, t, skb, skh, skt, D, FLAT)
    at_v = place_of(row, b, kv, t, svb, svh, svt, D, FLAT)
    sk = D if FLAT else skt
    sv = D if FLAT else svt
    for g in range(G):
        h = kv * G + g
        b_q = load_rows(q, place_of(row, b, h, t, sqb, sqh, sqt, D, FLAT), m_n, D, BD).to(
            tl.float32
        )
        b_q *= scale * LOG2E
        slope = slope_of(slopes, h, m_n) if ALIBI else 0.0
        at_w = b * swb + h * swh + t * swt
        if TENSOR:
            reach = reach_of(window, at_w, m_n, packed_low, packed_high, t, bound, 0, True)
        else:
            reach = tl.minimum(t + 1, bound)
        at_o = place_of(row, b, h, t, sob, soh, sot, D, FLAT)
        top = tl.full([BN], float("-inf"), tl.float32)
        total = tl.zeros([BN], tl.float32)
        b_o = tl.zeros([BN, BD], tl.float32)
        scores = ()
        for j in tl.static_range(BOUND):
            seen = m_n & (j < reach)
            s = tl.sum(b_q * load_rows(k, at_k - j * sk, seen, D, BD).to(tl.float32), 1)
            if ALIBI:
                s -= slope * j
            if j > 0:
                s = tl.where(seen, s, float("-inf"))
            scores = scores + (s,)  # type: ignore[assignment]
            if CHOICES == 1:
                top = tl.maximum(top, s)
        for j in tl.static_range(BOUND):
            b_v = load_rows(v, at_v - j * sv, m_n & (j < reach), D, BD)
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
                    if tl.minimum(width_of(packed_low, packed_high, c), bound) == j + 1:
                        store_rows(o, at_o + c * soc, b_o / total[:, None], m_n, D, BD)
        if CHOICES == 1:
            store_rows(o, at_o, b_o / total[:, None], m_n, D, BD)


@triton.jit
def _further(x, j: tl.constexpr, BN: tl.constexpr):  # type: ignore[no-untyped-def]
    """What stands j lines further on, 0 past the tile: [BN]."""
    line = tl.arange(0, BN) + j
    return tl.where(line < BN, tl.gather(x, tl.minimum(line, BN - 1), 0), 0.0)


@triton.jit(do_not_specialize=STEADY)
def windowed_bwd_kernel_keywise(  # type: ignore[no-untyped-def]
    q, k, v, window, slopes, do, dq, dk, dv,
    sqb, sqh, sqt, skb, skh, skt, svb, svh, svt, swb, swh, swt, soc, sob, soh, sot,
    sdqb, sdqh, sdqt, sdkb, sdkh, sdkt, sdvb, sdvh, sdvt,
    scale, T, N, owned, halo, bound, packed_low: tl.int64, packed_high: tl.int64,
    HKV: tl.constexpr, G: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, BN: tl.constexpr,
    CHOICES: tl.constexpr, TENSOR: tl.constexpr, ALIBI: tl.constexpr, FLAT: tl.constexpr,
    BOUND: tl.constexpr,
):  # fmt: skip
    """A tile of rows and the halo after them, key by key: weights go from query to key inside the tile."""
    row, m_n, m_own, b, kv, t = rows_of(tl.program_id(0), owned, halo, T, N, BN, HKV)
    at_k = place_of(row, b, kv, t, skb, skh, skt, D, FLAT)
    at_v = place_of(row, b, kv, t, svb, svh, svt, D, FLAT)
    sq = D if FLAT else sqt
    sk = D if FLAT else skt
    sv = D if FLAT else svt
    so = D if FLAT else sot
    b_dk = tl.zeros([BN, BD], tl.float32)
    b_dv = tl.zeros([BN, BD], tl.float32)
    for g in range(G):
        h = kv * G + g
        at_q = place_of(row, b, h, t, sqb, sqh, sqt, D, FLAT)
        b_q = load_rows(q, at_q, m_n, D, BD).to(tl.float32) * (scale * LOG2E)
        at_w = b * swb + h * swh + t * swt
        widest = tl.minimum(t + 1, bound)
        if TENSOR:
            widest = reach_of(window, at_w, m_n, packed_low, packed_high, t, bound, 0, True)
        scores = ()
        ds = ()
        for j in tl.static_range(BOUND):
            s = tl.sum(
                b_q * load_rows(k, at_k - j * sk, m_n & (j < widest), D, BD).to(tl.float32), 1
            )
            if ALIBI:
                s -= slope_of(slopes, h, m_n) * j
            scores = scores + (s,)  # type: ignore[assignment]
            ds = ds + (tl.zeros([BN], tl.float32),)  # type: ignore[assignment]
        for c in tl.static_range(CHOICES):
            at_o = place_of(row, b, h, t, sob, soh, sot, D, FLAT) + c * soc
            b_do = load_rows(do, at_o, m_n, D, BD).to(tl.float32)
            reach = reach_of(window, at_w, m_n, packed_low, packed_high, t, bound, c, TENSOR)
            top = tl.full([BN], float("-inf"), tl.float32)
            for j in tl.static_range(BOUND):
                top = tl.maximum(top, tl.where(j < reach, scores[j], float("-inf")))
            total = tl.zeros([BN], tl.float32)
            delta = tl.zeros([BN], tl.float32)
            weights = ()
            steps = ()
            for j in tl.static_range(BOUND):
                b_v = load_rows(v, at_v - j * sv, m_n & (j < reach), D, BD).to(tl.float32)
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
                later = sees(
                    window, at_w, swt, m_n, packed_low, packed_high, t, T, bound, c, j, TENSOR
                )
                b_later = load_rows(do, at_o + j * so, later, D, BD).to(tl.float32)
                b_dv += _further(p, j, BN)[:, None] * b_later
            ds = sums
        b_dq = tl.zeros([BN, BD], tl.float32)
        for j in tl.static_range(BOUND):
            b_k = load_rows(k, at_k - j * sk, m_n & (j < widest), D, BD).to(tl.float32)
            b_dq += (ds[j] * scale)[:, None] * b_k
            later = m_n & (t + j < T)
            if TENSOR:
                later = sees(
                    window, at_w, swt, m_n, packed_low, packed_high, t, T, bound, 0, j, True
                )
            b_later = load_rows(q, at_q + j * sq, later, D, BD).to(tl.float32)
            b_dk += (_further(ds[j], j, BN) * scale)[:, None] * b_later
        store_rows(dq, place_of(row, b, h, t, sdqb, sdqh, sdqt, D, FLAT), b_dq, m_own, D, BD)
    store_rows(dk, place_of(row, b, kv, t, sdkb, sdkh, sdkt, D, FLAT), b_dk, m_own, D, BD)
    store_rows(dv, place_of(row, b, kv, t, sdvb, sdvh, sdvt, D, FLAT), b_dv, m_own, D, BD)
