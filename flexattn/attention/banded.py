"""Windowed attention on CPU that costs what the windows cost.

Rule: keys are visited nearest first inside the band `0 <= i - j < window`; no [T, T] matrix is formed, and no compiler
is needed on the user's machine (Numba brings its own). Work is cut by the shapes alone and every sum has one fixed
order: results are the same bit for bit whatever the number of threads.

The backward pass computes the probabilities again from q, k and the windows: nothing else is kept.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flexattn.attention.differentiable import differentiable
from flexattn.attention.lanes import LANES, LINE, STREAM, WRITE
from flexattn.attention.layout import empty_like_q, empty_outputs, rows_whole
from flexattn.attention.team import openmp
from flexattn.attention.tiles import BACKWARD, FORWARD, Pass, Rows, Work

__all__ = ["banded", "unsupported"]

_SMALL = 1 << 16  # elements of q below which waking other threads costs more than it saves
_LARGE = 1 << 22  # bytes of a result that it pays to write past the caches, its reading included
_STRETCH = 64  # fewest rows of one work item
_SHARES = 8  # pieces of work for each thread, so that one that is held up holds up little
_REACH = 1 << 31  # numbers of one head: tables of rows are 32 bits wide


@lru_cache(maxsize=1)
def _helpers(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="banded")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_helpers.cache_clear)  # threads do not survive a fork


def _spread(pass_: Pass, arguments: tuple[Any, ...], items: int, threads: int) -> None:
    """Do items 0 .. items - 1; the compiled loops hold no interpreter lock.

    On torch's own threads where they can be had, since after torch's operations these spin on the
    cores that others would need; else on plain ones, and not on a second OpenMP that spins too.
    """
    if threads < 2 or items < 2:
        pass_.some(*arguments, 0, items)
        return
    share = -(-items // (_SHARES * threads))
    if start := openmp():
        pass_.together(start, threads, share, items, arguments)
        return
    begins = iter(range(0, items, share))

    def work() -> None:
        for begin in begins:  # one counter for all threads; next() of a range is atomic
            pass_.some(*arguments, begin, min(begin + share, items))

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
    if q.shape[-1] % 8:
        return f"has head dim {q.shape[-1]}, expected a multiple of 8 for impl='banded'"
    if q.shape[-2] * q.shape[-1] >= _REACH:
        return f"has {q.shape[-2]} positions, expected fewer than 2^31 / D for impl='banded'"
    return None


def _flat(x: Tensor) -> np.ndarray:
    """The memory under x as one row, from x's first element on."""
    extent = 1 + sum((size - 1) * stride for size, stride in zip(x.shape, x.stride()))
    return x.detach().as_strided((extent,), (1,)).numpy()


def _rows(x: Tensor) -> Rows:
    """Of [B, H, T, D] or [C, B, H, T, D]; a copy where they lie too far from each other."""
    x = rows_whole(x)
    x = x if x.stride(-2) * x.shape[-2] < _REACH else x.contiguous()
    return Rows(_flat(x), *((0,) * (5 - x.dim())), *x.stride()[:-1])


def _in_whole_lines(results: Sequence[Tensor]) -> bool:
    """Whether each row begins and ends where a line of memory does."""
    return all(
        x.data_ptr() % LINE == 0 and x.shape[-1] * x.element_size() % LINE == 0 for x in results
    )


def _windows(window: Tensor | None, widths: list[int]) -> Rows:
    """Windows as int32; where all queries have the same, as many as are read at a time."""
    if window is None:
        return Rows(np.repeat(np.array(widths, dtype=np.int32), LANES), LANES, 0, 0, 0)
    window = rows_whole(window.to(torch.int32))
    head = window.stride(1) if window.dim() == 3 else 0
    return Rows(_flat(window), 0, window.stride(0), head, 1)


def _plan(
    q: Tensor, k: Tensor, widths: list[int], results: Sequence[Tensor]
) -> tuple[Work, int, int]:
    """What is to be done, items and threads.

    An item reads `bound` rows past its end again, so it is long against that. Threads have no say in
    how the work is cut, so their number never changes a bit of the result.
    """
    batch, heads, length, _ = q.shape
    kv_heads = k.shape[1]
    bound = min(max(widths), length)
    stretch = length if batch * kv_heads >= 16 else max(_STRETCH, 2 * bound)
    widest = widths.index(max(widths))
    group, choices = heads // kv_heads, len(widths)
    once = keys_once = WRITE
    if choices * q.numel() * q.element_size() >= _LARGE and _in_whole_lines(results):
        once = STREAM
        if group * choices == 1 and bound <= LANES:  # few rows are read again to add to them
            keys_once = STREAM
    work = Work(choices, widest, kv_heads, group, length, bound, stretch, once, keys_once)
    threads = 1 if q.numel() < _SMALL else torch.get_num_threads()
    return work, batch * kv_heads * -(-length // stretch), threads


def _given(
    work: Work,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    window: Tensor | None,
    widths: list[int],
    slopes: Tensor | None,
    scale: float,
) -> tuple[Any, ...]:
    """What both passes are given, as the compiled loops take it."""
    slopes = q.new_zeros(q.shape[1]) if slopes is None else slopes.detach().to(q.dtype)
    number = np.float32 if q.dtype == torch.float32 else np.float64
    return (
        *((0,) * (q.shape[-1] // 8), work, _rows(q), _rows(k), _rows(v)),
        *(_windows(window, widths), slopes.contiguous().numpy(), number(scale)),
    )


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
    out = empty_outputs(rows_whole(q), len(widths))
    if out.numel() == 0:
        return out
    work, items, threads = _plan(q, k, widths, (out,))
    given = _given(work, q, k, v, window, widths, slopes, scale)
    _spread(FORWARD, (*given, _rows(out)), items, threads)
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
    dq, dk, dv = (empty_like_q(rows_whole(x)) for x in (q, k, v))
    if q.numel() == 0:
        return dq, dk, dv
    work, items, threads = _plan(q, k, widths, (dq, dk, dv))
    given = _given(work, q, k, v, window, widths, slopes, scale)
    results = _rows(dq), _rows(dk), _rows(dv)
    _spread(BACKWARD, (*given, _rows(do), *results), items, threads)
    return dq, dk, dv


differentiable(banded, _banded_backward)
