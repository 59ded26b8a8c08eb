r"""Projections into heads and back: multi-head, grouped-query, multi-query.

Rule: with H query heads and Hkv key-value heads, query head h reads key-value head h // (H / Hkv); Hkv = H is
multi-head, Hkv = 1 multi-query.

    query heads       0 1 2 3 | 4 5 6 7        H = 8
                      \ | | / | \ | | /
    key-value heads      0    |    1           Hkv = 2

q, k and v come out of one product and stay where it wrote them: [B, T, heads, D] seen as [B, heads, T, D].
"""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["Heads"]


class Heads(nn.Module):
    """x -> q, k, v and back."""

    def __init__(self, dim: int, heads: int, kv_heads: int | None = None) -> None:
        """Heads of D = dim / heads each.

        Raises: ValueError where heads don't divide dim, or kv_heads don't divide heads.
        """
        super().__init__()
        kv_heads = heads if kv_heads is None else kv_heads
        if heads < 1 or dim % heads:
            raise ValueError(f"Heads: heads is {heads}, expected a divisor of dim {dim}")
        if kv_heads < 1 or heads % kv_heads:
            raise ValueError(f"Heads: kv_heads is {kv_heads}, expected a divisor of heads {heads}")
        self.heads, self.kv_heads, self.head_dim = heads, kv_heads, dim // heads
        self.enter = nn.Linear(dim, (heads + 2 * kv_heads) * self.head_dim, bias=False)
        self.leave = nn.Linear(dim, dim, bias=False)

    def split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x [B, T, dim] -> q [B, H, T, D], k and v [B, Hkv, T, D]."""
        batch, length, _ = x.shape
        rows = self.enter(x).view(batch, length, -1, self.head_dim).transpose(1, 2)
        q, k, v = rows.split((self.heads, self.kv_heads, self.kv_heads), 1)
        return q, k, v

    def join(self, out: Tensor) -> Tensor:
        """out [..., T, H, D] -> [..., T, dim]."""
        return self.leave(out.flatten(-2))
