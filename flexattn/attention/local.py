"""The one operator: attention in which every query has a window of its own.

Rule: `visible(i, j)  <=>  0 <= i - j < window[i]    # window keys, the query's own included`. Three implementations
give the same numbers: `reference` (any device), `banded` (CPU), `triton` (GPU). `impl="auto"` takes the fastest that
can take the inputs and says so in the log once; a named one either runs or raises.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from importlib.util import find_spec

import torch
from torch import Tensor

from flexattn.attention import reference

__all__ = ["IMPLEMENTATIONS", "check_inputs", "local_attention", "local_attention_multi"]

IMPLEMENTATIONS = ("auto", "reference", "banded", "triton")

_logger = logging.getLogger(__name__)
_said: set[tuple[str, torch.dtype, int]] = set()
_HAS_NUMBA = find_spec("numba") is not None
_HAS_TRITON = find_spec("triton") is not None


def local_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    window: int | Tensor,
    impl: str = "auto",
    *,
    max_window: int | None = None,
    scale: float | None = None,
    slopes: Tensor | None = None,
) -> Tensor:
    """softmax(scale q k^T - slope (i - j)) v over the keys 0 <= i - j < window.

    Deterministic: the same inputs give the same bits on every run, gradients included.

    Args:
      q: queries, [B, H, T, D], float.
      k, v: keys and values, [B, Hkv, T, D]; query head h reads head h // (H / Hkv).
      window: keys that a query sees, its own included, >= 1: an int, or int8 / int32 [B, T] or [B, H, T].
      impl: "auto", "reference", "banded" or "triton".
      max_window: an upper bound of a window tensor, keys. With it nothing is read back from a GPU, which CUDA graphs
        and torch.compile need; windows above it are cut to it, below 1 raised to 1. Without it the tensor is checked.
      scale: factor of q.k, default 1 / sqrt(D).
      slopes: ALiBi's slope of each head, [H], no gradient.

    Returns: [B, H, T, D], type and device of q; gradients for q, k and v.
    Raises: ValueError or TypeError for a wrong shape, type, device, window or head dim, before anything is launched.
    """
    check_inputs(q, k, v, impl, slopes)
    if isinstance(window, Tensor):
        each, widths = window, [_checked_window(window, q, max_window)]
    else:
        each, widths = None, [_checked_width(window, "window")]
    return _run(q, k, v, each, widths, impl, scale, slopes).squeeze(0)


def local_attention_multi(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    windows: Sequence[int],
    impl: str = "auto",
    *,
    scale: float | None = None,
    slopes: Tensor | None = None,
) -> Tensor:
    """One output for each choice of window, in one pass over q, k and v.

    Args:
      q, k, v, impl, scale, slopes: as in `local_attention`.
      windows: C choices, each >= 1 keys, in any order.

    Returns: [C, B, H, T, D]; gradients for q, k and v are sums over the choices.
    Raises: ValueError or TypeError as in `local_attention`.
    """
    check_inputs(q, k, v, impl, slopes)
    widths = [_checked_width(width, "windows") for width in windows]
    if not widths:
        raise ValueError("local_attention: windows is empty, expected at least one choice")
    return _run(q, k, v, None, widths, impl, scale, slopes)


def _run(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    window: Tensor | None,
    widths: list[int],
    impl: str,
    scale: float | None,
    slopes: Tensor | None,
) -> Tensor:
    scale = q.shape[-1] ** -0.5 if scale is None else float(scale)
    if impl == "auto":
        impl = fastest(q.device.type, q.dtype, q.shape[-1])
    if impl == "banded":
        from flexattn.attention import banded

        _refuse("q", banded.unsupported(q))
        return banded.banded(q, k, v, window, widths, slopes, scale)
    if impl == "triton":
        if not _HAS_TRITON:
            raise ValueError(
                "local_attention: impl='triton' needs Triton; pip install 'flexattn[triton]'"
            )
        from flexattn.attention import kernel

        _refuse("q", kernel.unsupported(q))
        return kernel.windowed(q, k, v, window, widths, slopes, scale)
    length = q.shape[2]
    if window is not None:
        choices = [window.clamp(1, widths[0])]
        choices = [choice if choice.dim() == 3 else choice[:, None] for choice in choices]
    else:
        choices = [torch.full((1, 1, length), width, device=q.device) for width in widths]
    seen = [reference.visible(choice, length) for choice in choices]
    return torch.stack([reference.attention(q, k, v, mask, scale, slopes) for mask in seen])


def fastest(device: str, dtype: torch.dtype, dim: int) -> str:
    """The implementation that impl="auto" takes, said in the log once for each kind of input."""
    if device == "cpu" and dtype in (torch.float32, torch.float64) and dim % 8 == 0 and _HAS_NUMBA:
        chosen = "banded"
    elif device == "cuda" and dtype != torch.float64 and 16 <= dim <= 128 and _HAS_TRITON:
        chosen = "triton"
    else:
        chosen = "reference"
    if not torch.compiler.is_compiling() and (device, dtype, dim) not in _said:
        _said.add((device, dtype, dim))
        _logger.info(
            "local_attention: impl='auto' took %s for %s, %s, head dim %d",
            chosen,
            device,
            dtype,
            dim,
        )
    return chosen


def _refuse(name: str, reason: str | None) -> None:
    if reason is not None:
        raise ValueError(f"local_attention: {name} {reason}")


def check_inputs(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    impl: str,
    slopes: Tensor | None,
    where: str = "local_attention",
) -> None:
    """Raise unless shapes, types and devices fit together.

    Raises: ValueError or TypeError, one sentence that starts with `where`.
    """
    if impl not in IMPLEMENTATIONS:
        raise ValueError(f"{where}: impl is {impl!r}, expected one of {', '.join(IMPLEMENTATIONS)}")
    for name, x in (("q", q), ("k", k), ("v", v)):
        if not isinstance(x, Tensor):
            raise TypeError(f"{where}: {name} is a {type(x).__name__}, expected a tensor")
        if x.dim() != 4:
            raise ValueError(
                f"{where}: {name} has shape {list(x.shape)}, expected 4 dimensions [B, H, T, D]"
            )
    if not q.is_floating_point():
        raise TypeError(f"{where}: q has {q.dtype}, expected a float type")
    batch, heads, length, dim = q.shape
    kv_heads = k.shape[1]
    if kv_heads == 0 or heads % kv_heads:
        raise ValueError(
            f"{where}: k has {kv_heads} heads, expected a divisor of the {heads} heads of q"
        )
    if k.shape != (batch, kv_heads, length, dim):
        raise ValueError(
            f"{where}: k has shape {list(k.shape)}, expected {[batch, kv_heads, length, dim]} like q"
        )
    if v.shape != k.shape:
        raise ValueError(f"{where}: v has shape {list(v.shape)}, expected {list(k.shape)} like k")
    for name, x in (("k", k), ("v", v)):
        if x.dtype != q.dtype:
            raise TypeError(f"{where}: {name} has {x.dtype}, expected {q.dtype} like q")
        if x.device != q.device:
            raise ValueError(f"{where}: {name} is on {x.device}, expected {q.device} like q")
    if slopes is not None:
        if slopes.shape != (heads,):
            raise ValueError(
                f"{where}: slopes has shape {list(slopes.shape)}, expected [{heads}], one a head of q"
            )
        if slopes.device != q.device:
            raise ValueError(f"{where}: slopes is on {slopes.device}, expected {q.device} like q")


def _checked_width(width: int, name: str) -> int:
    if isinstance(width, bool) or not isinstance(width, int):
        raise TypeError(
            f"local_attention: {name} has {type(width).__name__} {width!r}, expected an int or an integer tensor"
        )
    if width < 1:
        raise ValueError(
            f"local_attention: {name} has {width}, expected at least 1: a query sees itself"
        )
    return width


def _checked_window(window: Tensor, q: Tensor, max_window: int | None) -> int:
    """The largest window of a tensor, or the bound that stands for it."""
    batch, heads, length, _ = q.shape
    if window.dtype not in (torch.int8, torch.int16, torch.int32, torch.int64):
        raise TypeError(f"local_attention: window has {window.dtype}, expected int8 or int32")
    if window.shape not in ((batch, length), (batch, heads, length)):
        raise ValueError(
            f"local_attention: window has shape {list(window.shape)}, "
            f"expected {[batch, length]} or {[batch, heads, length]}"
        )
    if window.device != q.device:
        raise ValueError(
            f"local_attention: window is on {window.device}, expected {q.device} like q"
        )
    if max_window is not None:
        return _checked_width(max_window, "max_window")
    if window.numel() == 0 or torch.compiler.is_compiling():
        return max(1, length)
    if window.is_cuda and torch.cuda.is_current_stream_capturing():
        raise ValueError(
            "local_attention: window is a tensor inside a CUDA graph, expected max_window= with it, "
            "since its largest value can't be read there"
        )
    low, high = (int(x) for x in torch.aminmax(window))
    if low < 1:
        raise ValueError(
            f"local_attention: window has {low}, expected at least 1: a query sees itself"
        )
    return high
