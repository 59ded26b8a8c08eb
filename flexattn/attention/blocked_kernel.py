"""The Triton kernels of `blocked`: sinks, local blocks and wide bands, forward and backward.

Rule: a program walks over the key blocks that its queries see. The queries' own block comes first
and gives each row a pivot, the largest score met there; with bfloat16, whose range is float32's,
the other blocks are then summed against that pivot without looking for a larger one. The few tiles
in which a score beats the pivot by more than 2^64 are done again by a kernel that follows the
largest score step by step.
"""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = [
    "BLOCK",
    "LOG2E",
    "blocked_again_kernel",
    "blocked_bwd_kernel_dkv",
    "blocked_bwd_kernel_dq",
    "blocked_fwd_kernel",
]

BLOCK = 128  # keys in a block of the pattern
_BLOCK = tl.constexpr(BLOCK)
LOG2E = tl.constexpr(1.4426950408889634)
_TOO_MUCH = tl.constexpr(2.0**64)
# read at run time: a new value compiles nothing
_STEADY = ["swb", "swh", "T", "bound"]


@triton.jit
def _window(window, at, mask, o_m, bound, TENSOR: tl.constexpr):  # type: ignore[no-untyped-def]
    """Keys that each query sees, at least 1, at most `bound`."""
    if TENSOR:
        width = tl.load(window + at, mask=mask, other=1).to(tl.int32)
    else:
        width = tl.zeros_like(o_m) + bound
    return tl.maximum(tl.minimum(tl.minimum(width, bound), o_m + 1), 1)


@triton.jit
def _band_from(o_m, reach, m_m, T, BN: tl.constexpr):  # type: ignore[no-untyped-def]
    """The first key that any query of a tile sees, at the start of its tile of keys."""
    return tl.maximum(tl.min(tl.where(m_m, o_m - reach + 1, T)), 0) // BN * BN


@triton.jit
def _blocks(sinks, locals_, i_h, start_m, BN: tl.constexpr):  # type: ignore[no-untyped-def]
    """The first local key of a tile of queries, and the tiles of keys among its sinks."""
    local_from = tl.maximum(start_m // _BLOCK - tl.load(locals_ + i_h) + 1, 0) * _BLOCK
    return local_from, tl.minimum(tl.load(sinks + i_h) * _BLOCK, local_from) // BN


@triton.jit
def _seen(dist, reach, BANDED: tl.constexpr):  # type: ignore[no-untyped-def]
    """0 <= dist, and dist < reach where there is a window."""
    seen = dist >= 0
    if BANDED:
        seen = seen & (dist < reach)
    return seen


@triton.jit
def _slope(slopes, i_h, ALIBI: tl.constexpr):  # type: ignore[no-untyped-def]
    """ALiBi's slope of a head, for base-2 scores."""
    slope = 0.0
    if ALIBI:
        slope = tl.load(slopes + i_h).to(tl.float32) * LOG2E
    return slope


@triton.jit
def _load(  # type: ignore[no-untyped-def]
    x, text, start, o_n, o_d, step, T, m_d, EDGE: tl.constexpr, TMA: tl.constexpr
):  # fmt: skip
    """Rows start .. start + BN of a text, [BN, BD]; zeros past its end where EDGE.

    TMA: 0, by pointers; 2, by the copy engine, texts of whole tiles one after another (two numbers
    say where, and no register is short); 3, by the copy engine, texts of any length.
    """
    if TMA == 2:
        rows = x.load([text * T + start, 0])
    elif TMA == 3:
        rows = x.load([text, start, 0]).reshape(o_n.shape[0], o_d.shape[0])
    else:
        row = start + o_n
        mask = (row < T)[:, None] & m_d[None, :] if EDGE else m_d[None, :]
        at = row.to(tl.int64)[:, None] * step + o_d[None, :]
        rows = tl.load(x + at, mask=mask, other=0.0)
    return rows


@triton.jit
def _store(x, o_n, o_d, step, rows, m_n, m_d):  # type: ignore[no-untyped-def]
    """Rows o_n of a text, in the type that x has."""
    at = o_n.to(tl.int64)[:, None] * step + o_d[None, :]
    tl.store(x + at, rows.to(x.dtype.element_ty), mask=m_n[:, None] & m_d[None, :])


@triton.jit
def _edge(  # type: ignore[no-untyped-def]
    b_q, k, v, text, begin, end, o_m, o_n, o_d, m_d, reach, skt, svt, factor, slope, T,
    BANDED: tl.constexpr, ALIBI: tl.constexpr, TMA: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Keys of which some queries see only a part: the query's own block, or a whole band."""
    BM: tl.constexpr = o_m.shape[0]
    BN: tl.constexpr = o_n.shape[0]
    top = tl.full([BM], float("-inf"), tl.float32)
    total = tl.zeros([BM], tl.float32)
    b_o = tl.zeros([BM, o_d.shape[0]], tl.float32)
    for start in tl.range(begin, end, BN, num_stages=1):
        b_k = _load(k, text, start, o_n, o_d, skt, T, m_d, True, TMA)
        s = tl.dot(b_q, tl.trans(b_k), input_precision=PRECISION) * factor  # [BM, BN]
        dist = o_m[:, None] - (start + o_n)[None, :]
        if ALIBI:
            s -= slope * dist
        s = tl.where(_seen(dist, reach[:, None], BANDED), s, float("-inf"))
        higher = tl.maximum(top, tl.max(s, 1))
        pivot = higher
        if BANDED:
            pivot = tl.where(higher == float("-inf"), 0.0, higher)  # this row saw no key as yet
        p = tl.exp2(s - pivot[:, None])
        fade = tl.exp2(top - pivot)
        total = total * fade + tl.sum(p, 1)
        b_v = _load(v, text, start, o_n, o_d, svt, T, m_d, True, TMA)
        b_o = tl.dot(p.to(b_v.dtype), b_v, b_o * fade[:, None], input_precision=PRECISION)
        top = higher
    return top, total, b_o


@triton.jit
def _whole(  # type: ignore[no-untyped-def]
    top, total, b_o, b_q, k, v, text, n_sink, n_whole, local_from, o_m, o_n, o_d, m_d, skt, svt,
    factor, slope, T,
    LAZY: tl.constexpr, ALIBI: tl.constexpr, TMA: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Keys that every query of the tile sees: sinks, then locals."""
    BN: tl.constexpr = o_n.shape[0]
    for n in range(n_whole):
        start = tl.where(n < n_sink, n * BN, local_from + (n - n_sink) * BN)
        b_k = _load(k, text, start, o_n, o_d, skt, T, m_d, False, TMA)
        s = tl.dot(b_q, tl.trans(b_k), input_precision=PRECISION)  # [BM, BN]
        if ALIBI:
            s = s * factor - slope * (o_m[:, None] - (start + o_n)[None, :])
        if LAZY:
            p = tl.exp2(s - top[:, None]) if ALIBI else tl.exp2(s * factor - top[:, None])
            total += tl.sum(p, 1)
        else:
            higher = tl.maximum(top, tl.max(s, 1) if ALIBI else tl.max(s, 1) * factor)
            p = tl.exp2(s - higher[:, None]) if ALIBI else tl.exp2(s * factor - higher[:, None])
            fade = tl.exp2(top - higher)
            total = total * fade + tl.sum(p, 1)
            b_o *= fade[:, None]
            top = higher
        b_v = _load(v, text, start, o_n, o_d, svt, T, m_d, False, TMA)
        b_o = tl.dot(p.to(b_v.dtype), b_v, b_o, input_precision=PRECISION)
    return top, total, b_o


@triton.jit
def _forward_tile(  # type: ignore[no-untyped-def]
    q, k, v, window, sinks, locals_, slopes, o, lse, again, i_m, i_h, batch,
    sqb, sqh, sqt, skb, skh, skt, svb, svh, svt, swb, swh, swt, sob, soh, sot,
    scale, T, bound,
    H: tl.constexpr, G: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, BM: tl.constexpr,
    BN: tl.constexpr, BANDED: tl.constexpr, TENSOR: tl.constexpr, ALIBI: tl.constexpr,
    LAZY: tl.constexpr, TMA: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    i_b = batch.to(tl.int64)
    start_m = i_m * BM
    o_m = start_m + tl.arange(0, BM)
    o_n = tl.arange(0, BN)
    o_d = tl.arange(0, BD)
    m_m = o_m < T
    m_d = o_d < D
    i_kv = i_h // G
    text = batch * (H // G) + i_kv
    if TMA == 0:
        q += i_b * sqb + i_h * sqh
        k += i_b * skb + i_kv * skh
        v += i_b * svb + i_kv * svh
    b_q = _load(q, batch * H + i_h, start_m, tl.arange(0, BM), o_d, sqt, T, m_d, True, TMA)
    factor = scale * LOG2E
    slope = _slope(slopes, i_h, ALIBI)
    end = tl.minimum(start_m + BM, T)
    reach = o_m
    if BANDED:
        reach = _window(window, i_b * swb + i_h * swh + o_m * swt, m_m, o_m, bound, TENSOR)
        begin = _band_from(o_m, reach, m_m, T, BN)
    else:
        begin = start_m // BN * BN
    top, total, b_o = _edge(
        b_q, k, v, text, begin, end, o_m, o_n, o_d, m_d, reach, skt, svt, factor, slope, T,
        BANDED, ALIBI, TMA, PRECISION,
    )  # fmt: skip
    if not BANDED:
        local_from, n_sink = _blocks(sinks, locals_, i_h, start_m, BN)
        n_whole = n_sink + (begin - local_from) // BN
        top, total, b_o = _whole(
            top, total, b_o, b_q, k, v, text, n_sink, n_whole, local_from, o_m, o_n, o_d,
            m_d, skt, svt, factor, slope, T, LAZY, ALIBI, TMA, PRECISION,
        )  # fmt: skip
        if LAZY:
            # a key beat the largest of the own block by so much that float32 runs short
            too_much = (tl.max(total) > _TOO_MUCH).to(tl.int32)
            tl.store(again + (i_b * H + i_h) * tl.cdiv(T, BM) + i_m, too_much)
    b_o = b_o / total[:, None]
    _store(o + i_b * sob + i_h * soh, o_m, o_d, sot, b_o, m_m, m_d)
    tl.store(lse + (i_b * H + i_h) * T + o_m, top + tl.log2(total), mask=m_m)


@triton.jit(do_not_specialize=_STEADY)
def blocked_fwd_kernel(  # type: ignore[no-untyped-def]
    q, k, v, window, sinks, locals_, slopes, o, lse, again,
    sqb, sqh, sqt, skb, skh, skt, svb, svh, svt, swb, swh, swt, sob, soh, sot,
    scale, T, bound,
    H: tl.constexpr, G: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, BM: tl.constexpr,
    BN: tl.constexpr, BANDED: tl.constexpr, TENSOR: tl.constexpr, ALIBI: tl.constexpr,
    LAZY: tl.constexpr, TMA: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One tile of queries of one head; also base-2 log-sum-exps for the backward pass."""
    # heads side by side: those that share keys run together; long rows first
    i_h = tl.program_id(0) % H
    i_m = tl.num_programs(0) // H - 1 - tl.program_id(0) // H
    _forward_tile(
        q, k, v, window, sinks, locals_, slopes, o, lse, again, i_m, i_h, tl.program_id(1),
        sqb, sqh, sqt, skb, skh, skt, svb, svh, svt, swb, swh, swt, sob, soh, sot,
        scale, T, bound, H, G, D, BD, BM, BN, BANDED, TENSOR, ALIBI, LAZY, TMA, PRECISION,
    )  # fmt: skip


@triton.jit(do_not_specialize=_STEADY)
def blocked_again_kernel(  # type: ignore[no-untyped-def]
    q, k, v, window, sinks, locals_, slopes, o, lse, again,
    sqb, sqh, sqt, skb, skh, skt, svb, svh, svt, swb, swh, swt, sob, soh, sot,
    scale, T, bound,
    H: tl.constexpr, G: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, BM: tl.constexpr,
    BN: tl.constexpr, BANDED: tl.constexpr, TENSOR: tl.constexpr, ALIBI: tl.constexpr,
    PRECISION: tl.constexpr, SCANNED: tl.constexpr,
):  # fmt: skip
    """The tiles that ran short once more, largest score followed step by step. Rarely any.

    A kernel of its own: as a branch of the first it made ptxas wait for every product in turn.
    """
    tiles = tl.cdiv(T, BM)
    begin = tl.program_id(0) * SCANNED
    at = (tl.program_id(1).to(tl.int64) * H * tiles) + begin
    here = tl.minimum(begin + SCANNED, H * tiles) - begin
    o_s = tl.arange(0, SCANNED)
    if tl.max(tl.load(again + at + o_s, mask=o_s < here, other=0)) > 0:
        for n in range(here):
            if tl.load(again + at + n) > 0:
                _forward_tile(
                    q, k, v, window, sinks, locals_, slopes, o, lse, again,
                    (begin + n) % tiles, (begin + n) // tiles, tl.program_id(1),
                    sqb, sqh, sqt, skb, skh, skt, svb, svh, svt, swb, swh, swt, sob, soh, sot,
                    scale, T, bound, H, G, D, BD, BM, BN, BANDED, TENSOR, ALIBI, False, 0,
                    PRECISION,
                )  # fmt: skip


@triton.jit
def _dq_step(  # type: ignore[no-untyped-def]
    acc, b_q, b_do, b_lse, b_delta, k, v, start, o_m, o_n, o_d, m_d, reach, skt, svt, factor, slope, T,
    MASKED: tl.constexpr, BANDED: tl.constexpr, ALIBI: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    b_k = _load(k, 0, start, o_n, o_d, skt, T, m_d, MASKED, 0)
    b_v = _load(v, 0, start, o_n, o_d, svt, T, m_d, MASKED, 0)
    s = tl.dot(b_q, tl.trans(b_k), input_precision=PRECISION) * factor
    dist = o_m[:, None] - (start + o_n)[None, :]
    if ALIBI:
        s -= slope * dist
    p = tl.exp2(s - b_lse[:, None])
    if MASKED:
        p = tl.where(_seen(dist, reach[:, None], BANDED), p, 0.0)
    dp = tl.dot(b_do, tl.trans(b_v), input_precision=PRECISION)
    ds = p * (dp - b_delta[:, None])
    return tl.dot(ds.to(b_k.dtype), b_k, acc, input_precision=PRECISION)


@triton.jit(do_not_specialize=_STEADY)
def blocked_bwd_kernel_dq(  # type: ignore[no-untyped-def]
    q, k, v, window, sinks, locals_, slopes, o, do, lse, delta, dq,
    sqb, sqh, sqt, skb, skh, skt, svb, svh, svt, swb, swh, swt, sob, soh, sot,
    sdob, sdoh, sdot, sdqb, sdqh, sdqt,
    scale, T, bound,
    H: tl.constexpr, G: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, BM: tl.constexpr,
    BN: tl.constexpr, BANDED: tl.constexpr, TENSOR: tl.constexpr, ALIBI: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradients of one tile of queries, and rowsum(o do) for the keys' kernel."""
    i_h = tl.program_id(0) % H
    i_m = tl.num_programs(0) // H - 1 - tl.program_id(0) // H
    i_b = tl.program_id(1).to(tl.int64)
    start_m = i_m * BM
    o_m = start_m + tl.arange(0, BM)
    o_n = tl.arange(0, BN)
    o_d = tl.arange(0, BD)
    o_r = tl.arange(0, BM)
    m_m = o_m < T
    m_d = o_d < D
    k += i_b * skb + (i_h // G) * skh
    v += i_b * svb + (i_h // G) * svh
    b_q = _load(q + i_b * sqb + i_h * sqh, 0, start_m, o_r, o_d, sqt, T, m_d, True, 0)
    b_o = _load(o + i_b * sob + i_h * soh, 0, start_m, o_r, o_d, sot, T, m_d, True, 0)
    b_do = _load(do + i_b * sdob + i_h * sdoh, 0, start_m, o_r, o_d, sdot, T, m_d, True, 0)
    b_delta = tl.sum(b_o.to(tl.float32) * b_do.to(tl.float32), 1)
    at_row = (i_b * H + i_h) * T + o_m
    tl.store(delta + at_row, b_delta, mask=m_m)
    b_lse = tl.load(lse + at_row, mask=m_m, other=0.0)
    factor = scale * LOG2E
    slope = _slope(slopes, i_h, ALIBI)
    reach = o_m
    acc = tl.zeros([BM, BD], tl.float32)
    if BANDED:
        reach = _window(window, i_b * swb + i_h * swh + o_m * swt, m_m, o_m, bound, TENSOR)
        masked_from = _band_from(o_m, reach, m_m, T, BN)
    else:
        local_from, n_sink = _blocks(sinks, locals_, i_h, start_m, BN)
        masked_from = start_m // BN * BN
        for n in range(n_sink + (masked_from - local_from) // BN):
            start = tl.where(n < n_sink, n * BN, local_from + (n - n_sink) * BN)
            acc = _dq_step(
                acc, b_q, b_do, b_lse, b_delta, k, v, start, o_m, o_n, o_d, m_d, reach, skt, svt,
                factor, slope, T, False, BANDED, ALIBI, PRECISION,
            )  # fmt: skip
    for start in range(masked_from, tl.minimum(start_m + BM, T), BN):
        acc = _dq_step(
            acc, b_q, b_do, b_lse, b_delta, k, v, start, o_m, o_n, o_d, m_d, reach, skt, svt,
            factor, slope, T, True, BANDED, ALIBI, PRECISION,
        )  # fmt: skip
    _store(dq + i_b * sdqb + i_h * sdqh, o_m, o_d, sdqt, acc * scale, m_m, m_d)


@triton.jit(do_not_specialize=[*_STEADY, "chunk", "sink_tiles"])
def blocked_bwd_kernel_dkv(  # type: ignore[no-untyped-def]
    q, k, v, window, sinks, locals_, slopes, do, lse, delta, dk, dv, part,
    sqb, sqh, sqt, skb, skh, skt, svb, svh, svt, swb, swh, swt,
    sdob, sdoh, sdot, sdkb, sdkh, sdkt, sdvb, sdvh, sdvt,
    scale, T, bound, chunk, sink_tiles,
    H: tl.constexpr, G: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, BM: tl.constexpr,
    BN: tl.constexpr, BANDED: tl.constexpr, TENSOR: tl.constexpr, ALIBI: tl.constexpr,
    STRETCHES: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Keys of one tile; the first `sink_tiles` tiles once for each stretch of queries."""
    HKV: tl.constexpr = H // G
    i_p = tl.program_id(0)
    i_kv = tl.program_id(1) % HKV
    i_b = (tl.program_id(1) // HKV).to(tl.int64)
    is_sink = i_p < sink_tiles * STRETCHES
    i_n = tl.where(is_sink, i_p // STRETCHES, i_p - sink_tiles * (STRETCHES - 1))
    first = tl.where(is_sink, (i_p % STRETCHES) * chunk, 0)  # queries first .. last - 1 are ours
    last = tl.where(is_sink, tl.minimum(first + chunk, T), T)
    start_n = i_n * BN
    o_n = start_n + tl.arange(0, BN)
    o_m = tl.arange(0, BM)
    o_d = tl.arange(0, BD)
    o_r = tl.arange(0, BN)
    m_d = o_d < D
    b_k = _load(k + i_b * skb + i_kv * skh, 0, start_n, o_r, o_d, skt, T, m_d, True, 0)
    b_v = _load(v + i_b * svb + i_kv * svh, 0, start_n, o_r, o_d, svt, T, m_d, True, 0)
    b_dk = tl.zeros([BN, BD], tl.float32)
    b_dv = tl.zeros([BN, BD], tl.float32)
    factor = scale * LOG2E
    for g in range(G):
        h = i_kv * G + g
        if BANDED:
            end = tl.minimum(start_n + BN + bound - 1, T)
        else:
            block = start_n // _BLOCK
            # not block + locals: a head that sees all has locals near the largest int
            blocks = tl.minimum(tl.load(locals_ + h), (T - 1) // _BLOCK + 1 - block)
            end = tl.where(block < tl.load(sinks + h), T, tl.minimum((block + blocks) * _BLOCK, T))
        slope = _slope(slopes, h, ALIBI)
        begin = tl.maximum(first, start_n // BM * BM)
        for start in range(begin, tl.minimum(end, last), BM):
            at = start + o_m
            m_m = at < T
            b_q = _load(q + i_b * sqb + h * sqh, 0, start, o_m, o_d, sqt, T, m_d, True, 0)
            b_do = _load(do + i_b * sdob + h * sdoh, 0, start, o_m, o_d, sdot, T, m_d, True, 0)
            at_row = (i_b * H + h) * T + at
            b_lse = tl.load(lse + at_row, mask=m_m, other=0.0)
            b_delta = tl.load(delta + at_row, mask=m_m, other=0.0)
            s = tl.dot(b_k, tl.trans(b_q), input_precision=PRECISION) * factor  # [BN, BM]
            dist = at[None, :] - o_n[:, None]
            if ALIBI:
                s -= slope * dist
            p = tl.exp2(s - b_lse[None, :])
            reach = at
            if BANDED:
                reach = _window(window, i_b * swb + h * swh + at * swt, m_m, at, bound, TENSOR)
            p = tl.where(_seen(dist, reach[None, :], BANDED), p, 0.0)
            b_dv = tl.dot(p.to(b_do.dtype), b_do, b_dv, input_precision=PRECISION)
            dp = tl.dot(b_v, tl.trans(b_do), input_precision=PRECISION)  # [BN, BM]
            ds = p * (dp - b_delta[None, :])
            b_dk = tl.dot(ds.to(b_q.dtype), b_q, b_dk, input_precision=PRECISION)
    b_dk *= scale
    if is_sink:
        # part is [2, STRETCHES, B, HKV, sink_tiles * BN, D]
        pair = i_b * HKV + i_kv
        pairs = tl.num_programs(1).to(tl.int64)
        row = ((i_p % STRETCHES) * pairs + pair) * (sink_tiles * BN) + o_n
        everywhere = o_n >= 0
        _store(part, row, o_d, D, b_dk, everywhere, m_d)
        _store(part, row + STRETCHES * pairs * (sink_tiles * BN), o_d, D, b_dv, everywhere, m_d)
    else:
        _store(dk + i_b * sdkb + i_kv * sdkh, o_n, o_d, sdkt, b_dk, o_n < T, m_d)
        _store(dv + i_b * sdvb + i_kv * sdvh, o_n, o_d, sdvt, b_dv, o_n < T, m_d)
