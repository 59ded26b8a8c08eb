"""Windowed attention on CPU that costs what the windows cost.

Rule: a query's keys are visited one by one, oldest first, inside the band `0 <= i - j < window`; no [T, T] matrix is
formed, and no compiler is needed on the user's machine (Numba brings its own). One thread owns a stretch of keys of
one key-value head and adds to their gradients in the order of query head, position, choice of window: results are the
same bit for bit whatever the number of threads.

The backward pass computes the probabilities again from q, k and the windows: nothing else is kept.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import torch
from numba import njit, prange
from torch import Tensor

from flexattn.attention.lanes import LANES, dot, exp_block, row_add, row_set
from flexattn.attention.layout import empty_like_q, empty_outputs, rows_whole

__all__ = ["banded", "unsupported"]

_NUMBA: dict[str, Any] = {"nogil": True, "cache": True, "error_model": "numpy"}
_SMALL = 1 << 16  # elements of q below which waking other threads costs more than it saves
_STRETCH = 64  # fewest rows of one work item


@njit(inline="always", **_NUMBA)
def _reach(window, strides, choice, batch, head, t, bound):  # type: ignore[no-untyped-def]
    """Keys that a query sees, 1 .. min(t + 1, bound)."""
    at = choice * strides[0] + batch * strides[1] + head * strides[2] + t * strides[3]
    return max(1, min(window[at], min(t + 1, bound)))


@njit(inline="always", **_NUMBA)
def _scores(lanes, q, at_q, k, at_k, step_k, count, scale, slope, score):  # type: ignore[no-untyped-def]
    """score[j] = scale q.k_j - slope (i - j), oldest key first."""
    for j in range(count):
        score[j] = dot(lanes, q, at_q, k, at_k + j * step_k) * scale
    if slope != 0:
        for j in range(count):
            score[j] -= slope * (count - 1 - j)


@njit(inline="always", **_NUMBA)
def _softmax(score, first, count, p):  # type: ignore[no-untyped-def]
    """p[:count] = softmax(score[first : first + count])."""
    top = score[first]
    for j in range(count):
        p[j] = score[first + j]
        top = max(top, p[j])
    for block in range(0, count, LANES):
        exp_block(p, block, top)
    total = p[0]
    for j in range(1, count):
        total += p[j]
    inverse = 1 / total
    for j in range(count):
        p[j] *= inverse


@njit(parallel=True, **_NUMBA)
def _forward(lanes, q, sq, k, sk, v, sv, window, sw, slopes, out, so, shape, scale, bound, stretch):  # type: ignore[no-untyped-def]
    choices, batches, kv_heads, group, length = shape
    parts = (length + stretch - 1) // stretch
    room = (bound + LANES - 1) // LANES * LANES
    for item in prange(batches * kv_heads * parts):
        part, pair = item % parts, item // parts
        b, kv = pair // kv_heads, pair % kv_heads
        score, p = np.empty(room, q.dtype), np.empty(room, q.dtype)
        for h in range(kv * group, (kv + 1) * group):
            for t in range(part * stretch, min((part + 1) * stretch, length)):
                widest = 1
                for c in range(choices):
                    widest = max(widest, _reach(window, sw, c, b, h, t, bound))
                oldest = t + 1 - widest
                at_q = b * sq[0] + h * sq[1] + t * sq[2]
                at_k = b * sk[0] + kv * sk[1] + oldest * sk[2]
                _scores(lanes, q, at_q, k, at_k, sk[2], widest, scale, slopes[h], score)
                for c in range(choices):
                    count = _reach(window, sw, c, b, h, t, bound)
                    _softmax(score, widest - count, count, p)
                    at_v = b * sv[0] + kv * sv[1] + (t + 1 - count) * sv[2]
                    at_o = c * so[0] + b * so[1] + h * so[2] + t * so[3]
                    row_set(lanes, p[0], v, at_v, out, at_o)
                    for j in range(1, count):
                        row_add(lanes, p[j], v, at_v + j * sv[2], out, at_o)


@njit(parallel=True, **_NUMBA)
def _backward(  # type: ignore[no-untyped-def]
    lanes, q, sq, k, sk, v, sv, window, sw, slopes, do, sdo, dq, sdq, dk, sdk, dv, sdv,
    shape, scale, bound, stretch,
):  # fmt: skip
    choices, batches, kv_heads, group, length = shape
    parts = (length + stretch - 1) // stretch
    room = (bound + LANES - 1) // LANES * LANES
    zero, dim = q.dtype.type(0), LANES * len(lanes)
    for item in prange(batches * kv_heads * parts):
        part, pair = item % parts, item // parts
        b, kv = pair // kv_heads, pair % kv_heads
        begin, end = part * stretch, min((part + 1) * stretch, length)
        score, p, dp, ds = (
            np.empty(room, q.dtype), np.empty(room, q.dtype),
            np.empty(room, q.dtype), np.empty(room, q.dtype),
        )  # fmt: skip
        base_k, base_v = b * sk[0] + kv * sk[1], b * sv[0] + kv * sv[1]
        base_dk, base_dv = b * sdk[0] + kv * sdk[1], b * sdv[0] + kv * sdv[1]
        for t in range(begin, end):
            dk[base_dk + t * sdk[2] : base_dk + t * sdk[2] + dim] = zero
            dv[base_dv + t * sdv[2] : base_dv + t * sdv[2] + dim] = zero
        for h in range(kv * group, (kv + 1) * group):
            # queries past `end` still see keys of this stretch
            for t in range(begin, min(end + bound - 1, length)):
                widest = 1
                for c in range(choices):
                    widest = max(widest, _reach(window, sw, c, b, h, t, bound))
                oldest = t + 1 - widest
                if oldest >= end:
                    continue
                # the keys owned here are own_from <= j < own_to of this query's band
                own_from, own_to = max(0, begin - oldest), min(widest, end - oldest)
                at_q = b * sq[0] + h * sq[1] + t * sq[2]
                at_k, at_v = base_k + oldest * sk[2], base_v + oldest * sv[2]
                at_dk, at_dv = base_dk + oldest * sdk[2], base_dv + oldest * sdv[2]
                _scores(lanes, q, at_q, k, at_k, sk[2], widest, scale, slopes[h], score)
                for j in range(widest):
                    ds[j] = zero
                for c in range(choices):
                    count = _reach(window, sw, c, b, h, t, bound)
                    first = widest - count
                    _softmax(score, first, count, p)
                    at_do = c * sdo[0] + b * sdo[1] + h * sdo[2] + t * sdo[3]
                    delta = zero
                    for j in range(count):
                        dp[j] = dot(lanes, do, at_do, v, at_v + (first + j) * sv[2])
                        delta += p[j] * dp[j]
                    for j in range(count):
                        ds[first + j] += p[j] * (dp[j] - delta)
                    for j in range(max(first, own_from), own_to):
                        row_add(lanes, p[j - first], do, at_do, dv, at_dv + j * sdv[2])
                for j in range(widest):
                    ds[j] *= scale
                for j in range(own_from, own_to):
                    row_add(lanes, ds[j], q, at_q, dk, at_dk + j * sdk[2])
                if t < end:
                    at_dq = b * sdq[0] + h * sdq[1] + t * sdq[2]
                    row_set(lanes, ds[0], k, at_k, dq, at_dq)
                    for j in range(1, widest):
                        row_add(lanes, ds[j], k, at_k + j * sk[2], dq, at_dq)


def unsupported(q: Tensor) -> str | None:
    """Why this implementation can't take q, as "has .., expected ..", or None where it can."""
    if q.device.type != "cpu":
        return f"is on {q.device}, expected cpu for impl='banded'"
    if q.dtype not in (torch.float32, torch.float64):
        return f"has {q.dtype}, expected torch.float32 or torch.float64 for impl='banded'"
    if q.shape[-1] % LANES:
        return f"has head dim {q.shape[-1]}, expected a multiple of {LANES} for impl='banded'"
    return None


def _flat(x: Tensor) -> np.ndarray:
    """The memory under x as one row, from x's first element on."""
    extent = 1 + sum((size - 1) * stride for size, stride in zip(x.shape, x.stride()))
    return x.detach().as_strided((extent,), (1,)).numpy()


def _windows(window: Tensor | None, widths: list[int]) -> tuple[np.ndarray, tuple[int, ...]]:
    """Windows as int32 with strides (choice, batch, head, position)."""
    if window is None:
        return np.array(widths, dtype=np.int32), (1, 0, 0, 0)
    window = window.to(torch.int32)
    if window.dim() == 2:
        return _flat(window), (0, window.stride(0), 0, window.stride(1))
    return _flat(window), (0, *window.stride())


def _plan(q: Tensor, k: Tensor, widths: list[int]) -> tuple[tuple[int, ...], int, int]:
    """(choices, batch, kv heads, group, length), the longest reach, rows of a work item.

    A stretch reads `reach` rows past its end again, so it is long against that; how work is cut never changes a bit.
    """
    batch, heads, length, _ = q.shape
    kv_heads = k.shape[1]
    bound = min(max(widths), length)
    stretch = length if batch * kv_heads >= 16 else max(_STRETCH, 2 * bound)
    threads = 1 if q.numel() < _SMALL else torch.get_num_threads()
    numba.set_num_threads(max(1, min(threads, numba.config.NUMBA_NUM_THREADS)))
    return (len(widths), batch, kv_heads, heads // kv_heads, length), bound, stretch


def _slopes(slopes: Tensor | None, q: Tensor) -> np.ndarray:
    if slopes is None:
        slopes = q.new_zeros(q.shape[1])
    return slopes.detach().to(q.dtype).contiguous().numpy()


def _strides(x: Tensor) -> tuple[int, ...]:
    return x.stride()[:-1]


@torch.library.custom_op("flexattn::banded", mutates_args=(), device_types="cpu")
def banded(
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
      q: [B, H, T, D] float32 or float64 on CPU, D a multiple of 8.
      k, v: [B, Hkv, T, D] likewise.
      window: [B, T] or [B, H, T] integers, the only choice; None where `widths` are the C choices.
      widths: keys that any query may see at most, for each choice; windows reach no further.
      slopes: ALiBi's slopes, [H], or None.
      scale: factor of q.k.

    Returns: [C, B, H, T, D].
    """
    q, k, v = rows_whole(q), rows_whole(k), rows_whole(v)
    out = empty_outputs(q, len(widths))
    if out.numel() == 0:
        return out
    shape, bound, stretch = _plan(q, k, widths)
    flat, strides = _windows(window, widths)
    _forward(
        (0,) * (q.shape[-1] // LANES),
        *(_flat(q), _strides(q), _flat(k), _strides(k), _flat(v), _strides(v)),
        *(flat, strides, _slopes(slopes, q), _flat(out), _strides(out)),
        *(shape, _scalar(q, scale), bound, stretch),
    )
    return out


@torch.library.custom_op("flexattn::banded_backward", mutates_args=(), device_types="cpu")
def _banded_backward(
    do: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    window: Tensor | None,
    widths: list[int],
    slopes: Tensor | None,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k, v from those of the outputs, `do` [C, B, H, T, D]."""
    do, q, k, v = rows_whole(do), rows_whole(q), rows_whole(k), rows_whole(v)
    dq, dk, dv = empty_like_q(q), empty_like_q(k), empty_like_q(v)
    if q.numel() == 0:
        return dq, dk, dv
    shape, bound, stretch = _plan(q, k, widths)
    flat, strides = _windows(window, widths)
    _backward(
        (0,) * (q.shape[-1] // LANES),
        *(_flat(q), _strides(q), _flat(k), _strides(k), _flat(v), _strides(v)),
        *(flat, strides, _slopes(slopes, q), _flat(do), _strides(do)),
        *(_flat(dq), _strides(dq), _flat(dk), _strides(dk), _flat(dv), _strides(dv)),
        *(shape, _scalar(q, scale), bound, stretch),
    )
    return dq, dk, dv


def _scalar(q: Tensor, value: float) -> np.floating:
    return np.float32(value) if q.dtype == torch.float32 else np.float64(value)


@banded.register_fake
def _(q, k, v, window, widths, slopes, scale):  # type: ignore[no-untyped-def]
    return empty_outputs(rows_whole(q), len(widths))


@_banded_backward.register_fake
def _(do, q, k, v, window, widths, slopes, scale):  # type: ignore[no-untyped-def]
    return tuple(empty_like_q(rows_whole(x)) for x in (q, k, v))


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    q, k, v, window, ctx.widths, slopes, ctx.scale = inputs
    ctx.save_for_backward(q, k, v, window, slopes)


def _gradients(ctx: Any, do: Tensor) -> tuple[Tensor | None, ...]:
    q, k, v, window, slopes = ctx.saved_tensors
    dq, dk, dv = _banded_backward(do, q, k, v, window, ctx.widths, slopes, ctx.scale)
    return dq, dk, dv, None, None, None, None


banded.register_autograd(_gradients, setup_context=_keep)
