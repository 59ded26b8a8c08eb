"""What others offer for the same attention, each in its fastest form."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from flexattn.attention.patterns import BLOCK, SinkLocal


def dense_mask(window: Tensor) -> Tensor:
    """[B, 1, T, T] bool from windows [B, T]."""
    position = torch.arange(window.shape[1], device=window.device)
    distance = position[:, None] - position[None, :]
    return ((distance >= 0) & (distance < window[:, :, None]))[:, None]


def sdpa(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def windowed(work: Any) -> dict[str, Any]:
    """Peers by name: window -> (build the mask, attend with it)."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    flex = torch.compile(flex_attention, dynamic=False)
    build_mask = torch.compile(create_block_mask, dynamic=False)

    def by_flex(window: Tensor) -> tuple[Callable[[], Any], Callable[..., Tensor]]:
        def mask_mod(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
            return (j <= i) & (j > i - window[b, i])

        def build() -> Any:
            return build_mask(mask_mod, work.batch, None, work.length, work.length, device="cuda")

        return build, lambda q, k, v, mask: flex(q, k, v, block_mask=mask)

    def by_sdpa(window: Tensor) -> tuple[Callable[[], Any], Callable[..., Tensor]]:
        return lambda: dense_mask(window), sdpa

    return {"flex_attention": by_flex, "torch.sdpa": by_sdpa}


def sink_local(pattern: SinkLocal, length: int) -> Callable[..., Tensor]:
    """FlexAttention with a block mask built once."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    sinks, locals_ = pattern.sinks, pattern.locals

    def mask_mod(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return (j <= i) & ((j // BLOCK < sinks) | (i // BLOCK - j // BLOCK < locals_))

    build = torch.compile(create_block_mask, dynamic=False)
    mask = build(mask_mod, None, None, length, length, device="cuda")
    flex = torch.compile(flex_attention, dynamic=False)
    return lambda q, k, v: flex(q, k, v, block_mask=mask, enable_gqa=True)


def compiled_shift(widest: int) -> Callable[..., Tensor] | None:
    """A loop over distances that torch.compile fuses; None where there is no C++ compiler."""
    if not (shutil.which("g++") or shutil.which("clang++")):
        return None

    def shift(q: Tensor, k: Tensor, v: Tensor, window: Tensor) -> Tensor:
        scale, length = q.shape[-1] ** -0.5, q.shape[2]
        position = torch.arange(length)
        scores = []
        for j in range(widest):
            moved = torch.nn.functional.pad(k, (0, 0, j, 0))[:, :, :length]
            seen = (j < window) & (position >= j)
            score = (q * moved).sum(-1) * scale
            scores.append(score.masked_fill(~seen[:, None], float("-inf")))
        p = torch.stack(scores, -1).softmax(-1)
        out = torch.zeros_like(q)
        for j in range(widest):
            moved = torch.nn.functional.pad(v, (0, 0, j, 0))[:, :, :length]
            out = out + p[..., j, None] * moved
        return out

    return torch.compile(shift, dynamic=False)
