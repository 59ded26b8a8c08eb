"""Windowed attention on CPU that costs what the windows cost.

Rule: keys are visited nearest first, for eight queries at a time, inside the band `0 <= i - j < window`; no [T, T]
matrix is formed, and no compiler is needed on the user's machine (Numba brings its own). One thread owns a stretch of
keys of one key-value head and adds to their gradients in the order of query head, tile of queries, choice of window:
results are the same bit for bit whatever the number of threads.

The backward pass computes the probabilities again from q, k and the windows: nothing else is kept.
"""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor

from flexattn.attention import lanes
from flexattn.attention.differentiable import differentiable
from flexattn.attention.lanes import LANES, ahead, dots, gather, softmax, softmax_gradient, weigh
from flexattn.attention.layout import empty_like_q, empty_outputs, rows_whole

__all__ = ["banded", "unsupported"]

_SMALL = 1 << 16  # elements of q below which waking other threads costs more than it saves
_STRETCH = 64  # fewest rows of one work item
_SHARES = 2  # pieces of work for each thread, so that one that is held up holds up little
_TILE = 32  # rows whose scores are held at a time; enough to keep a core's arithmetic busy
_SCORES = 4096  # scores held at a time, to stay in the nearest cache
_AHEAD = 32  # rows that memory is asked for in advance

_LANES_SOURCE = Path(lanes.__file__).read_bytes()


def _compiled(**options: Any) -> Any:
    """Compile without the interpreter lock; kept on disk until this file or `lanes` changes.

    Numba itself looks at a function's own file alone.
    """
    options = {"nogil": True, "error_model": "numpy", **options}

    def decorate(function: Any) -> Any:
        try:
            dispatcher = njit(cache=True, **options)(function)
        except RuntimeError:  # no folder to keep it in: compiled in every process
            return njit(**options)(function)
        index = dispatcher._cache._cache_file
        digest = hashlib.sha256(_LANES_SOURCE).hexdigest()
        index._source_stamp = (index._source_stamp, digest)
        return dispatcher

    return decorate


@_compiled(forceinline=True)
def _measure(window, sw, b, h, begin, last, rows, bound, choices, reach, wide):  # type: ignore[no-untyped-def]
    """reach[c * rows + r] = keys that query begin + r sees under choice c, 1 .. min(t + 1, bound).

    Row `choices` has the widest of all choices; wide[g] the widest of eight queries. Lines past the
    last query repeat it.
    """
    for r in range(rows):
        t = min(begin + r, last)
        widest = 1
        for c in range(choices):
            wanted = window[c * sw[0] + b * sw[1] + h * sw[2] + t * sw[3]]
            seen = max(1, min(wanted, min(t + 1, bound)))
            reach[c * rows + r] = seen
            widest = max(widest, seen)
        reach[choices * rows + r] = widest
        wide[r // LANES] = widest if r % LANES == 0 else max(wide[r // LANES], widest)


@_compiled(forceinline=True)
def _tile_rows(bound):  # type: ignore[no-untyped-def]
    """Queries whose scores are held at a time, a multiple of LANES."""
    return max(LANES, min(_TILE, _SCORES // bound // LANES * LANES))


@_compiled(forceinline=True)
def _scores(  # type: ignore[no-untyped-def]
    lanes, a, base_a, sa, b, base_b, sb, start, stop, length, tile, wide, out
):  # fmt: skip
    """Products of rows start .. stop - 1 of a with the rows of b that they may see."""
    for r in range(0, stop - start, LANES):
        t = start + r
        ahead(lanes, a, base_a + (t + _AHEAD) * sa, sa)
        ahead(lanes, b, base_b + (t + _AHEAD) * sb, sb)
        for n in range(wide[r // LANES]):
            dots(
                lanes, a, base_a + t * sa, sa, base_a + (stop - 1) * sa,
                b, base_b + (t - n) * sb, sb, base_b, base_b + (length - 1) * sb, out, n * tile + r,
            )  # fmt: skip


@_compiled()
def _forward_item(  # type: ignore[no-untyped-def]
    lanes, q, sq, k, sk, v, sv, window, sw, slopes, out, so, shape, scale, bound,
    b, kv, begin, end,
):  # fmt: skip
    choices, _, _, group, length = shape
    tile = _tile_rows(bound)
    score, p = np.empty(bound * tile, q.dtype), np.empty(bound * tile, q.dtype)
    reach = np.empty((choices + 1) * tile, np.int32)
    wide = np.empty(tile // LANES, np.int64)
    base_k, base_v = b * sk[0] + kv * sk[1], b * sv[0] + kv * sv[1]
    for h in range(kv * group, (kv + 1) * group):
        base_q, slope = b * sq[0] + h * sq[1], slopes[h]
        for start in range(begin, end, tile):
            stop = min(start + tile, end)
            _measure(window, sw, b, h, start, end - 1, tile, bound, choices, reach, wide)
            _scores(
                lanes, q, base_q, sq[2], k, base_k, sk[2], start, stop, length, tile, wide, score
            )
            for c in range(choices):
                base_o = c * so[0] + b * so[1] + h * so[2]
                for r in range(0, stop - start, LANES):
                    softmax(score, r, tile, wide[r // LANES], reach, c * tile + r, scale, slope, p)
                for t in range(start, stop):
                    r = t - start
                    weigh(
                        lanes, p, r, tile, wide[r // LANES], reach, c * tile + r,
                        v, base_v + t * sv[2], sv[2], out, base_o + t * so[3],
                    )  # fmt: skip


@_compiled()
def _forward(  # type: ignore[no-untyped-def]
    lanes, q, sq, k, sk, v, sv, window, sw, slopes, out, so, shape, scale, bound, stretch,
    first, last,
):  # fmt: skip
    parts = (shape[4] + stretch - 1) // stretch
    for item in range(first, last):
        pair, begin = item // parts, item % parts * stretch
        _forward_item(
            lanes, q, sq, k, sk, v, sv, window, sw, slopes, out, so, shape, scale, bound,
            pair // shape[2], pair % shape[2], begin, min(begin + stretch, shape[4]),
        )  # fmt: skip


@_compiled()
def _backward_item(  # type: ignore[no-untyped-def]
    lanes, q, sq, k, sk, v, sv, window, sw, slopes, do, sdo, dq, sdq, dk, sdk, dv, sdv,
    shape, scale, bound, b, kv, begin, end,
):  # fmt: skip
    choices, _, _, group, length = shape
    last = min(end + bound - 1, length)  # queries past `end` still see keys of this stretch
    tile = _tile_rows(bound)
    score, p = np.empty(bound * tile, q.dtype), np.empty(bound * tile, q.dtype)
    dp, ds = np.empty(bound * tile, q.dtype), np.empty(bound * tile, q.dtype)
    reach = np.empty((choices + 1) * tile, np.int32)
    wide = np.empty(tile // LANES, np.int64)
    base_k, base_v = b * sk[0] + kv * sk[1], b * sv[0] + kv * sv[1]
    base_dk, base_dv = b * sdk[0] + kv * sdk[1], b * sdv[0] + kv * sdv[1]
    for h in range(kv * group, (kv + 1) * group):
        base_q, base_dq, slope = b * sq[0] + h * sq[1], b * sdq[0] + h * sdq[1], slopes[h]
        for start in range(begin, last, tile):
            stop = min(start + tile, last)
            _measure(window, sw, b, h, start, last - 1, tile, bound, choices, reach, wide)
            _scores(
                lanes, q, base_q, sq[2], k, base_k, sk[2], start, stop, length, tile, wide, score
            )
            low, high = max(begin, start - bound + 1), min(stop, end)  # keys that these queries see
            for c in range(choices):
                base_do = c * sdo[0] + b * sdo[1] + h * sdo[2]
                _scores(
                    lanes, do, base_do, sdo[3], v, base_v, sv[2], start, stop, length, tile, wide,
                    dp,
                )  # fmt: skip
                for r in range(0, stop - start, LANES):
                    count, at = wide[r // LANES], c * tile + r
                    softmax(score, r, tile, count, reach, at, scale, slope, p)
                    softmax_gradient(p, dp, r, tile, count, reach, at, scale, ds, c == 0)
                for s in range(low, high):
                    gather(
                        lanes, p, s - start, tile, max(0, start - s), min(bound, stop - s),
                        reach, c * tile + s - start, do, base_do + s * sdo[3], sdo[3],
                        dv, base_dv + s * sdv[2], s >= start and c == 0 and h == kv * group,
                    )  # fmt: skip
            for s in range(low, high):
                gather(
                    lanes, ds, s - start, tile, max(0, start - s), min(bound, stop - s),
                    reach, choices * tile + s - start, q, base_q + s * sq[2], sq[2],
                    dk, base_dk + s * sdk[2], s >= start and h == kv * group,
                )  # fmt: skip
            for t in range(start, min(stop, end)):
                r = t - start
                weigh(
                    lanes, ds, r, tile, wide[r // LANES], reach, choices * tile + r,
                    k, base_k + t * sk[2], sk[2], dq, base_dq + t * sdq[2],
                )  # fmt: skip


@_compiled()
def _backward(  # type: ignore[no-untyped-def]
    lanes, q, sq, k, sk, v, sv, window, sw, slopes, do, sdo, dq, sdq, dk, sdk, dv, sdv,
    shape, scale, bound, stretch, first, last,
):  # fmt: skip
    parts = (shape[4] + stretch - 1) // stretch
    for item in range(first, last):
        pair, begin = item // parts, item % parts * stretch
        _backward_item(
            lanes, q, sq, k, sk, v, sv, window, sw, slopes, do, sdo, dq, sdq, dk, sdk, dv, sdv,
            shape, scale, bound, pair // shape[2], pair % shape[2],
            begin, min(begin + stretch, shape[4]),
        )  # fmt: skip


@lru_cache(maxsize=1)
def _helpers(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="banded")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_helpers.cache_clear)  # threads do not survive a fork


def _spread(job: Any, arguments: tuple[Any, ...], items: int, threads: int) -> None:
    """Do items 0 .. items - 1 on plain threads; the compiled loops hold no interpreter lock.

    Not OpenMP: its waiting threads spin on the cores that torch's own waiting threads spin on.
    """
    if threads < 2 or items < 2:
        job(*arguments, 0, items)
        return
    share = -(-items // (_SHARES * threads))
    begins = iter(range(0, items, share))

    def work() -> None:
        for begin in begins:  # one counter for all threads; next() of a range is atomic
            job(*arguments, begin, min(begin + share, items))

    others = [_helpers(threads - 1).submit(work) for _ in range(threads - 1)]
    work()
    for other in others:
        other.result()


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


def _plan(q: Tensor, k: Tensor, widths: list[int]) -> tuple[tuple[int, ...], int, int, int, int]:
    """(choices, batch, kv heads, group, length), the longest reach, rows of an item, items, threads.

    An item reads `reach` rows past its end again, so it is long against that. Threads have no say in
    how the work is cut, so their number never changes a bit of the result.
    """
    batch, heads, length, _ = q.shape
    kv_heads = k.shape[1]
    bound = min(max(widths), length)
    stretch = length if batch * kv_heads >= 16 else max(_STRETCH, 2 * bound)
    items = batch * kv_heads * -(-length // stretch)
    threads = 1 if q.numel() < _SMALL else torch.get_num_threads()
    shape = (len(widths), batch, kv_heads, heads // kv_heads, length)
    return shape, bound, stretch, items, threads


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
    shape, bound, stretch, items, threads = _plan(q, k, widths)
    arguments = (
        (0,) * (q.shape[-1] // LANES),
        *(_flat(q), _strides(q), _flat(k), _strides(k), _flat(v), _strides(v)),
        *(*_windows(window, widths), _slopes(slopes, q), _flat(out), _strides(out)),
        *(shape, _scalar(q, scale), bound, stretch),
    )
    _spread(_forward, arguments, items, threads)
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
    shape, bound, stretch, items, threads = _plan(q, k, widths)
    arguments = (
        (0,) * (q.shape[-1] // LANES),
        *(_flat(q), _strides(q), _flat(k), _strides(k), _flat(v), _strides(v)),
        *(*_windows(window, widths), _slopes(slopes, q), _flat(do), _strides(do)),
        *(_flat(dq), _strides(dq), _flat(dk), _strides(dk), _flat(dv), _strides(dv)),
        *(shape, _scalar(q, scale), bound, stretch),
    )
    _spread(_backward, arguments, items, threads)
    return dq, dk, dv


def _scalar(q: Tensor, value: float) -> np.floating:
    return np.float32(value) if q.dtype == torch.float32 else np.float64(value)


differentiable(banded, _banded_backward)
