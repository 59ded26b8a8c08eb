"""Windowed attention on GPU, one launch forward and one backward.

Rule: rows of all sequences stand one after another, and a program takes a tile of BN of them: those it owns, and a
halo of `bound - 1` before them whose keys they may see. `0 <= i - j < min(window, t + 1)` keeps a row inside its own
sequence, so tiles need not know where sequences begin, and sequences of 6 fill a tile as well as those of 600.

The backward tile has a halo on both sides: every query that can see an owned key has its whole window inside, so the
probabilities are computed again and nothing but q, k, v and the windows is kept: no log-sum-exp, no second launch, no
atomics, the same bits on every run. All choices of window share one product q k^T.

`tile_kernel` takes a tile's scores in one product; `keywise_kernel` goes key by key, where float32 has few of them.

Windows are read at run time. Compiled into a kernel are types, head counts, D and tile sizes, never T, B or a window.
Windows too wide for a tile go to `blocked`.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor

from flexattn.attention.blocked import blocked, precision, strides, window_strides
from flexattn.attention.differentiable import differentiable
from flexattn.attention.keywise_kernel import (
    windowed_bwd_kernel_keywise,
    windowed_fwd_kernel_keywise,
)
from flexattn.attention.layout import empty_like_q, empty_outputs, rows_whole
from flexattn.attention.tile_kernel import windowed_bwd_kernel, windowed_fwd_kernel

__all__ = ["fits_tile", "unsupported", "windowed"]

_CHOICES = 8  # choices of window in one launch, 16 bits each in two integers


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
    kernel = windowed_fwd_kernel_keywise if shift else windowed_fwd_kernel
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
    kernel = windowed_bwd_kernel_keywise if shift else windowed_bwd_kernel
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
