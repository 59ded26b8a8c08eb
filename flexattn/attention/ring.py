"""Keys and values of the last few positions of many texts: what a step of decoding looks back at.

Rule: position p of a text lies in slot p % slots, so a text costs `slots` rows however long it gets, and a query at p
with window w <= slots reads the slots of p - w + 1 .. p and no other. Texts may stand at different positions. Keys are
kept as they are given: turn them (RoPE) by their absolute position first.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["Ring"]


class Ring:
    """Rings for B texts of one layer; a step gives `local_attention`'s last row.

    Attributes:
      keys, values: [B, Hkv, slots, D].
    """

    def __init__(
        self,
        batch: int,
        kv_heads: int,
        slots: int,
        head_dim: int,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        """Empty rings; `slots` is the largest window there will be."""
        self.keys = torch.zeros((batch, kv_heads, slots, head_dim), dtype=dtype, device=device)
        self.values = torch.zeros_like(self.keys)

    def step(
        self,
        rows: Tensor,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        position: Tensor,
        window: Tensor,
        slopes: Tensor | None = None,
    ) -> Tensor:
        """Write one position of some texts and attend from it; no gradient.

        Args:
          rows: which texts, [n] int64, none twice.
          q: [n, H, D].
          k, v: [n, Hkv, D].
          position: of the query in its text, [n] int64; each text's positions come one after the other from 0.
          window: keys that it sees, its own included, [n], at most position + 1 and the slots.
          slopes: ALiBi's, [H].

        Returns: [n, H, D].
        """
        _, kv_heads, slots, dim = self.keys.shape
        slot = position % slots
        self.keys[rows, :, slot] = k
        self.values[rows, :, slot] = v
        ago = (slot[:, None] - torch.arange(slots, device=q.device)) % slots  # [n, slots]
        grouped = q.view(len(rows), kv_heads, -1, dim)
        score = grouped @ self.keys[rows].transpose(-1, -2) * dim**-0.5  # [n, Hkv, G, slots]
        if slopes is not None:
            score = score - slopes.view(kv_heads, -1, 1) * ago[:, None, None]
        score = score.masked_fill((ago >= window[:, None])[:, None, None], float("-inf"))
        return (score.softmax(-1) @ self.values[rows]).reshape(q.shape)

    def take(self, rows: Tensor) -> None:
        """Put text `rows[i]` in place i; one text may come to stand in several places."""
        self.keys, self.values = self.keys[rows], self.values[rows]
