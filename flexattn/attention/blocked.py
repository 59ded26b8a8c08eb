"""Long texts on GPU: sinks and local blocks, and windows too wide for one tile.

Rule, in blocks of 128: `visible(i, j)  <=>  j <= i and (j // 128 < sinks or i // 128 - j // 128 <
locals)`, with `sinks` and `locals` of each head read at run time; or, with a window, `0 <= i - j <
window[i]`. Only blocks that are seen are visited, so the cost follows the pattern, not T.

Backward: one kernel for dq, one for dk and dv, no atomics, the same bits on every run. A sink is
seen by every later query; its queries are cut into stretches whose sums are added in a fixed order.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from flexattn.attention.blocked_kernel import (
    BLOCK,
    blocked_again_kernel,
    blocked_bwd_kernel_dkv,
    blocked_bwd_kernel_dq,
    blocked_fwd_kernel,
)
from flexattn.attention.layout import empty_like_q, rows_whole

__all__ = ["blocked", "precision", "strides", "window_strides"]

_STRETCHES = 32  # parts that the queries of a sink are cut into
_SCANNED = 64  # tiles that one program looks over for such as ran short


def precision(q: Tensor) -> str:
    """float32 products as sums of six bfloat16 ones: exact enough, and on tensor cores."""
    if q.dtype != torch.float32:
        return "tf32"  # has no say in products of 16 bits
    return "ieee" if triton.knobs.runtime.interpret else "bf16x6"


def _forward_plan(q: Tensor, tma: int) -> dict[str, Any]:
    """BM, BN, warps, stages as measured on an H100, see docs/results/attention.md."""
    dim = q.shape[-1]
    if q.dtype == torch.float32:
        return {"BM": 64, "BN": 64, "num_warps": 8 if dim > 64 else 4, "num_stages": 1}
    if tma:
        return {"BM": 128, "BN": 64, "num_warps": 4, "num_stages": 2}
    if dim > 64:
        # 128 registers, so that two programs share a multiprocessor and one computes while one waits
        return {"BM": 128, "BN": 64, "num_warps": 8, "num_stages": 2, "maxnreg": 128}
    return {"BM": 128, "BN": 64, "num_warps": 4, "num_stages": 3}


def _backward_plan(q: Tensor) -> dict[str, Any]:
    """Likewise."""
    if q.dtype == torch.float32:
        return {"BM": 64, "BN": 64, "num_warps": 8 if q.shape[-1] > 64 else 4, "num_stages": 1}
    return {"BM": 64, "BN": 64, "num_warps": 4, "num_stages": 2}


def _described(x: Tensor, rows: int, tma: int) -> Tensor | TensorDescriptor:
    """What the copy engine needs to know of x [B, H, T, D] to fetch `rows` rows at a time."""
    if tma == 0:
        return x
    flat = x.flatten(0, 4 - tma)
    box = [1] * (tma - 2) + [rows, x.shape[-1]]
    return TensorDescriptor(flat, list(flat.shape), list(flat.stride()), box)


def _copy_engine(*tensors: Tensor) -> int:
    """How q, k and v can be fetched by Hopper's copy engine, see `_load`."""
    q = tensors[0]
    possible = (
        q.is_cuda
        and q.dtype != torch.float32
        and q.shape[-1] in (32, 64, 128)
        and all(x.data_ptr() % 16 == 0 for x in tensors)
        and all(x.shape[0] == 1 or x.stride(0) == x.shape[1] * x.stride(1) for x in tensors)
        and all(step * x.element_size() % 16 == 0 for x in tensors for step in x.stride()[:-1])
        and torch.cuda.get_device_capability(q.device) >= (9, 0)
    )
    if not possible:
        return 0
    whole = q.shape[2] % BLOCK == 0 and all(x.is_contiguous() for x in tensors)
    return 2 if whole else 3


def strides(*tensors: Tensor) -> tuple[int, ...]:
    """(batch, head, position) of each, and (choice, ..) where there is one."""
    return tuple(stride for x in tensors for stride in x.stride()[:-1])


def window_strides(window: Tensor | None) -> tuple[int, int, int]:
    """(batch, head, position); a stride that is never stepped counts as 1."""
    if window is None:
        return 0, 0, 1
    along = window.stride(-1) if window.shape[-1] > 1 else 1
    if window.dim() == 2:
        return window.stride(0), 0, along
    return window.stride(0), window.stride(1), along


def _meta(
    q: Tensor, k: Tensor, window: Tensor | None, sinks: Tensor | None, slopes: Tensor | None
) -> dict[str, Any]:
    dim = q.shape[-1]
    return {
        "H": q.shape[1],
        "G": q.shape[1] // k.shape[1],
        "D": dim,
        "BD": triton.next_power_of_2(dim),
        "BANDED": sinks is None,
        "TENSOR": window is not None,
        "ALIBI": slopes is not None,
        "PRECISION": precision(q),
    }


@torch.library.custom_op("flexattn::blocked", mutates_args=())
def _blocked(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    window: Tensor | None,
    sinks: Tensor | None,
    locals_: Tensor | None,
    slopes: Tensor | None,
    bound: int,
    scale: float,
    sink_blocks: int,
) -> tuple[Tensor, Tensor]:
    """Outputs [B, H, T, D] and base-2 log-sum-exp [B, H, T]; see `blocked`."""
    q, k, v = rows_whole(q), rows_whole(k), rows_whole(v)
    out = empty_like_q(q)
    batch, heads, length, _ = q.shape
    lse = q.new_empty((batch, heads, length), dtype=torch.float32)
    if out.numel():
        tma = _copy_engine(q, k, v) if sinks is not None else 0
        chosen = _forward_plan(q, tma)
        tiles = triton.cdiv(length, chosen["BM"])
        lazy = sinks is not None and q.dtype == torch.bfloat16
        again = q.new_empty((batch, heads, tiles), dtype=torch.int32) if lazy else None
        rows = (chosen["BM"], chosen["BN"], chosen["BN"])
        fetched = [_described(x, n, tma) for x, n in zip((q, k, v), rows)]
        tensors = (window, sinks, locals_, slopes, out, lse, again)
        numbers = (
            *strides(q, k, v), *window_strides(window), *strides(out),
            scale, length, min(bound, length),
        )  # fmt: skip
        meta = _meta(q, k, window, sinks, slopes)
        blocked_fwd_kernel[(heads * tiles, batch)](
            *fetched, *tensors, *numbers, LAZY=lazy, TMA=tma, **meta, **chosen
        )
        if lazy:
            blocked_again_kernel[(triton.cdiv(heads * tiles, _SCANNED), batch)](
                q, k, v, *tensors, *numbers, SCANNED=_SCANNED, **meta,
                BM=chosen["BM"], BN=chosen["BN"], num_warps=8, num_stages=1,
            )  # fmt: skip
    return out, lse


@torch.library.custom_op("flexattn::blocked_backward", mutates_args=())
def _blocked_backward(
    do: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    window: Tensor | None,
    sinks: Tensor | None,
    locals_: Tensor | None,
    slopes: Tensor | None,
    bound: int,
    scale: float,
    sink_blocks: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v."""
    do, q, k, v = rows_whole(do), rows_whole(q), rows_whole(k), rows_whole(v)
    dq, dk, dv = empty_like_q(q), empty_like_q(k), empty_like_q(v)
    batch, heads, length, dim = q.shape
    if q.numel() == 0:
        return dq, dk, dv
    chosen = _backward_plan(q)
    meta = _meta(q, k, window, sinks, slopes)
    delta = torch.empty_like(lse)
    grid = (heads * triton.cdiv(length, chosen["BM"]), batch)
    blocked_bwd_kernel_dq[grid](
        q, k, v, window, sinks, locals_, slopes, out, do, lse, delta, dq,
        *strides(q, k, v), *window_strides(window), *strides(out, do, dq),
        scale, length, min(bound, length), **meta, **chosen,
    )  # fmt: skip
    key_tiles = triton.cdiv(length, chosen["BN"])
    sink_tiles = min(sink_blocks * BLOCK // chosen["BN"], key_tiles)
    kv_heads, rows = k.shape[1], sink_tiles * chosen["BN"]
    part = q.new_empty((2, _STRETCHES, batch, kv_heads, rows, dim), dtype=torch.float32)
    chunk = triton.cdiv(triton.cdiv(length, _STRETCHES), BLOCK) * BLOCK
    grid = (key_tiles + sink_tiles * (_STRETCHES - 1), batch * kv_heads)
    blocked_bwd_kernel_dkv[grid](
        q, k, v, window, sinks, locals_, slopes, do, lse, delta, dk, dv, part,
        *strides(q, k, v), *window_strides(window), *strides(do, dk, dv),
        scale, length, min(bound, length), chunk, sink_tiles,
        STRETCHES=_STRETCHES, **meta, **chosen,
    )  # fmt: skip
    if sink_tiles:
        whole = part.sum(1)
        rows = min(rows, length)
        dk[:, :, :rows] = whole[0, :, :, :rows]
        dv[:, :, :rows] = whole[1, :, :, :rows]
    return dq, dk, dv


@_blocked.register_fake
def _(q, k, v, window, sinks, locals_, slopes, bound, scale, sink_blocks):  # type: ignore[no-untyped-def]
    return empty_like_q(rows_whole(q)), q.new_empty(q.shape[:-1], dtype=torch.float32)


@_blocked_backward.register_fake
def _(do, q, k, v, out, lse, window, sinks, locals_, slopes, bound, scale, sink_blocks):  # type: ignore[no-untyped-def]
    return tuple(empty_like_q(rows_whole(x)) for x in (q, k, v))


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.bound, ctx.scale, ctx.sink_blocks = inputs
    ctx.save_for_backward(*tensors, *output)
    ctx.mark_non_differentiable(output[1])


def _gradients(ctx: Any, do: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    q, k, v, window, sinks, locals_, slopes, out, lse = ctx.saved_tensors
    grads = _blocked_backward(
        do, q, k, v, out, lse, window, sinks, locals_, slopes, ctx.bound, ctx.scale, ctx.sink_blocks
    )
    return *grads, None, None, None, None, None, None, None


_blocked.register_autograd(_gradients, setup_context=_keep)


def blocked(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    scale: float,
    window: Tensor | None = None,
    bound: int = 0,
    sinks: Tensor | None = None,
    locals_: Tensor | None = None,
    sink_blocks: int = 0,
    slopes: Tensor | None = None,
) -> Tensor:
    """Attention over sinks and local blocks, or under a window of any width.

    Args:
      q: [B, H, T, D] on GPU.
      k, v: [B, Hkv, T, D].
      scale: factor of q.k.
      window: [B, T] or [B, H, T] integers, or None where `bound` is every query's window.
      bound: keys that any query may see at most.
      sinks, locals_: of each head, [H] int32, blocks of 128; with these there is no window.
      sink_blocks: the largest of `sinks`.
      slopes: ALiBi's slopes, [H], or None.

    Returns: [B, H, T, D].
    """
    return _blocked(q, k, v, window, sinks, locals_, slopes, bound, scale, sink_blocks)[0]
