"""Patterns of what a query sees, beyond one window: sinks with local blocks, and packed episodes.

Rule, in blocks of 128: `visible(i, j)  <=>  j <= i and (j // 128 < sinks or i // 128 - j // 128 < locals)`. The sinks
are the first blocks of the text, the locals the last ones up to the query's own. A head that sees everything has
`locals=FULL`.

Packed episodes need no pattern of their own: a window that never reaches over its episode's start is enough.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from flexattn.attention import reference
from flexattn.attention.local import IMPLEMENTATIONS, check_inputs

__all__ = ["BLOCK", "FULL", "SinkLocal", "episode_window", "sink_local_attention"]

BLOCK = 128  # keys in a block
FULL = 1 << 30  # locals of a head that sees every key before it


@dataclass(frozen=True)
class SinkLocal:
    """The first `sinks` and the last `locals` blocks of 128, for all heads or for each.

    Attributes:
      sinks: blocks at the start of the text, >= 0.
      locals: blocks that end with the query's own, >= 1.

    Source: StreamingLLM, arXiv:2309.17453; the per-head pairs of Block-Sparse-Attention; 1 and 7 in LongCat's ZigZag,
    arXiv:2512.23966.
    """

    sinks: int | tuple[int, ...] = 1
    locals: int | tuple[int, ...] = 7

    def __post_init__(self) -> None:
        for name, least in (("sinks", 0), ("locals", 1)):
            given = getattr(self, name)
            for value in given if isinstance(given, tuple) else (given,):
                if isinstance(value, bool) or not isinstance(value, int):
                    raise TypeError(
                        f"SinkLocal: {name} has {value!r}, expected an int or a tuple of ints"
                    )
                if value < least:
                    raise ValueError(f"SinkLocal: {name} has {value}, expected at least {least}")

    def per_head(self, heads: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Sinks and locals of each of `heads` heads.

        Raises: ValueError where a tuple has another length.
        """
        pair = []
        for name in ("sinks", "locals"):
            given = getattr(self, name)
            each = given if isinstance(given, tuple) else (given,) * heads
            if len(each) != heads:
                raise ValueError(
                    f"SinkLocal: {name} has {len(each)} entries, expected {heads}, one a head of q"
                )
            pair.append(each)
        return pair[0], pair[1]

    def visible(self, heads: int, length: int, device: torch.device | None = None) -> Tensor:
        """The mask, [H, T, T] bool, queries in rows: for tests and short texts."""
        sinks, locals_ = (
            torch.tensor(x, device=device)[:, None, None] for x in self.per_head(heads)
        )
        position = torch.arange(length, device=device)
        i, j = position[:, None], position[None, :]
        return (j <= i) & ((j // BLOCK < sinks) | (i // BLOCK - j // BLOCK < locals_))


@lru_cache(maxsize=64)
def _on_device(values: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=torch.int32, device=device)


def sink_local_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    pattern: SinkLocal,
    impl: str = "auto",
    *,
    scale: float | None = None,
    slopes: Tensor | None = None,
) -> Tensor:
    """Attention over the first and the last blocks, deterministic, forward and backward.

    Args:
      q: queries, [B, H, T, D], float.
      k, v: keys and values, [B, Hkv, T, D].
      pattern: sinks and locals of each head; other numbers compile nothing anew.
      impl: "auto", "reference" (builds [T, T]) or "triton".
      scale: factor of q.k, default 1 / sqrt(D).
      slopes: ALiBi's slopes, [H].

    Returns: [B, H, T, D]; gradients for q, k and v.
    Raises: ValueError or TypeError for a wrong shape, type, device or head dim, before anything is launched.
    """
    check_inputs(q, k, v, impl, slopes, where="sink_local_attention")
    scale = q.shape[-1] ** -0.5 if scale is None else float(scale)
    sinks, locals_ = pattern.per_head(q.shape[1])
    if impl == "banded":
        raise ValueError(
            f"sink_local_attention: impl is 'banded', expected one of "
            f"{', '.join(name for name in IMPLEMENTATIONS if name != 'banded')}"
        )
    if impl == "auto":
        impl = "triton" if q.is_cuda and q.dtype != torch.float64 else "reference"
    if impl == "triton":
        from flexattn.attention import blocked, kernel

        reason = kernel.unsupported(q)
        if reason is not None:
            raise ValueError(f"sink_local_attention: q {reason}")
        return blocked.blocked(
            q,
            k,
            v,
            scale=scale,
            sinks=_on_device(sinks, q.device),
            locals_=_on_device(locals_, q.device),
            sink_blocks=max(sinks),
            slopes=slopes,
        )
    seen = pattern.visible(q.shape[1], q.shape[2], q.device)
    return reference.attention(q, k, v, seen, scale, slopes)


def episode_window(window: int | Tensor, starts: Tensor) -> Tensor:
    """Cut windows at the starts of episodes that stand one after another in a row.

    Args:
      window: keys that a query sees, an int or [B, T].
      starts: True where an episode starts, [B, T] bool; the first position counts as one.

    Returns: [B, T] int32, min(window, positions since the episode's start, its own included).
    """
    position = torch.arange(starts.shape[1], device=starts.device).expand(starts.shape)
    begin = torch.where(starts, position, 0).cummax(1).values
    reach = position - begin + 1
    if isinstance(window, Tensor):
        return torch.minimum(window.to(reach.dtype), reach).to(torch.int32)
    return reach.clamp(max=window).to(torch.int32)
