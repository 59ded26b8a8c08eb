"""Where a character stands: RoPE turns queries and keys, ALiBi lowers a score by distance.

Rule: both depend on the distance i - j alone, so a packed batch may count positions on across episodes.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["Rotary", "alibi_slopes", "rotate"]


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """(a, b) -> (a cos - b sin, b cos + a sin) on the two halves of each row.

    Args:
      x: [..., T, D], D even.
      cos, sin: of each position and frequency, [T, D / 2].

    Returns: [..., T, D].
    Source: RoPE, Su et al. 2021, arXiv:2104.09864, in the half-split form of GPT-NeoX.
    """
    first, second = x.chunk(2, -1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), -1)


class Rotary(torch.nn.Module):
    """RoPE with its tables kept and grown on demand; no parameters, nothing in a checkpoint."""

    cos: Tensor
    sin: Tensor

    def __init__(self, dim: int, base: float = 10_000.0) -> None:
        """Tables for head dim `dim`, even; frequency i is base^(-2 i / dim) radians a position."""
        super().__init__()
        if dim % 2:
            raise ValueError(f"Rotary: dim is {dim}, expected an even number")
        self.dim, self.base = dim, base
        self.register_buffer("cos", torch.empty(0, dim // 2), persistent=False)
        self.register_buffer("sin", torch.empty(0, dim // 2), persistent=False)

    def tables(self, length: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin, [length, dim / 2] each, type and device of `like`; computed in float64."""
        known = self.cos
        if known.shape[0] < length or known.dtype != like.dtype or known.device != like.device:
            grown = max(64, 1 << (length - 1).bit_length())
            exponent = torch.arange(0, self.dim, 2, dtype=torch.float64) / self.dim
            angle = torch.arange(grown, dtype=torch.float64)[:, None] * self.base**-exponent
            self.cos = angle.cos().to(like.device, like.dtype)
            self.sin = angle.sin().to(like.device, like.dtype)
        return self.cos[:length], self.sin[:length]

    def forward(self, q: Tensor, k: Tensor, start: int = 0) -> tuple[Tensor, Tensor]:
        """q and k, [B, H, T, D], turned by their positions start .. start + T - 1."""
        cos, sin = (table[start:] for table in self.tables(start + q.shape[2], q))
        return rotate(q, cos, sin), rotate(k, cos, sin)

    def at(self, position: Tensor, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """q and k, [..., n, D], turned by positions of their own, [n] int64."""
        cos, sin = (table[position] for table in self.tables(int(position.max()) + 1, q))
        return rotate(q, cos, sin), rotate(k, cos, sin)


def alibi_slopes(heads: int) -> Tensor:
    """2^(-8 (h + 1) / n) for n heads; for n no power of 2, those of the next lower one and every other of the next.

    Returns: [heads] float32.
    Source: ALiBi, Press et al. 2021, arXiv:2108.12409.
    """
    lower = 1 << (heads.bit_length() - 1)
    slopes = [2.0 ** (-8 * (h + 1) / lower) for h in range(lower)]
    between = [2.0 ** (-8 * (h + 1) / (2 * lower)) for h in range(0, 2 * lower, 2)]
    return torch.tensor(slopes + between[: heads - lower])
