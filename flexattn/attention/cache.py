"""Keys and values of a long text in little memory: its first blocks and a ring of its last ones.

Rule: position p lies in slot p while it is among the first `sinks` blocks of 128, after that in the slot
`sink_rows + (p - sink_rows) % ring`, ring = 128 locals. What falls out of the ring no later query sees. A step of
decoding reads the slots that the pattern sees and nothing else, however long the text. Keys are kept as they are
given: turn them (RoPE) by their absolute position first.
"""

from __future__ import annotations

import torch
from torch import Tensor

from flexattn.attention.patterns import BLOCK, SinkLocal

__all__ = ["SinkLocalCache"]


class SinkLocalCache:
    """Ring buffers for B texts under one pattern; the same result as `sink_local_attention`'s last row.

    Attributes:
      keys, values: [B, Hkv, slots, D].
      position: characters written so far in each text, [B] int32, on the device, so that a captured CUDA graph goes on
        counting when replayed.
    """

    def __init__(
        self,
        batch: int,
        kv_heads: int,
        head_dim: int,
        pattern: SinkLocal,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        """Empty rings of sinks + locals blocks.

        Raises: ValueError where the pattern differs between heads: make a cache for each pattern.
        """
        sinks, locals_ = ({*x} for x in pattern.per_head(kv_heads))
        if len(sinks) > 1 or len(locals_) > 1:
            raise ValueError(
                "SinkLocalCache: pattern differs between heads, expected one pattern; "
                "make one cache for the heads of each"
            )
        self.locals = locals_.pop()
        self.sink_rows = sinks.pop() * BLOCK
        slots = self.sink_rows + self.locals * BLOCK
        self.keys = torch.zeros((batch, kv_heads, slots, head_dim), dtype=dtype, device=device)
        self.values = torch.zeros_like(self.keys)
        self.position = torch.zeros(batch, dtype=torch.int32, device=device)

    def fill(self, k: Tensor, v: Tensor) -> None:
        """Start all texts with the same number of keys and values, [B, Hkv, T, D]."""
        self._check("k", k)
        self._check("v", v)
        length = k.shape[2]
        ring = self.keys.shape[2] - self.sink_rows
        position = torch.arange(length, device=k.device)
        kept = position[(position < self.sink_rows) | (position >= length - ring)]
        slot = self._slot(kept)
        self.keys[:, :, slot] = k[:, :, kept]
        self.values[:, :, slot] = v[:, :, kept]
        self.position.fill_(length)

    def step(self, q: Tensor, k: Tensor, v: Tensor, scale: float | None = None) -> Tensor:
        """Write one position and attend from it; no gradient.

        Args:
          q: [B, H, D].
          k, v: [B, Hkv, D].
          scale: factor of q.k, default 1 / sqrt(D).

        Returns: [B, H, D].
        Raises: ValueError for shapes that don't fit the cache.
        """
        batch, kv_heads, _, dim = self.keys.shape
        if q.dim() != 3 or q.shape[0] != batch or q.shape[1] % kv_heads or q.shape[2] != dim:
            raise ValueError(
                f"SinkLocalCache: q has shape {list(q.shape)}, expected [{batch}, H, {dim}], "
                f"H a multiple of {kv_heads}"
            )
        self._check("k", k[:, :, None] if k.dim() == 3 else k)
        self._check("v", v[:, :, None] if v.dim() == 3 else v)
        scale = dim**-0.5 if scale is None else float(scale)
        with torch.no_grad():
            if q.is_cuda:
                from flexattn.attention.decode import decode

                return decode(
                    q.contiguous(), k.contiguous(), v.contiguous(), self.keys, self.values,
                    self.position, self.sink_rows, self.locals, scale,
                )  # fmt: skip
            return self._step(q, k, v, scale)

    def _step(self, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        batch, kv_heads, slots, dim = self.keys.shape
        p = self.position.long()[:, None]  # [B, 1]
        rows = torch.arange(batch, device=q.device)
        slot = self._slot(p[:, 0])
        self.keys[rows, :, slot] = k
        self.values[rows, :, slot] = v
        index = torch.arange(slots, device=q.device)[None]
        after, ring = p - self.sink_rows, slots - self.sink_rows
        stored = torch.where(
            index < self.sink_rows, index, p - (after - (index - self.sink_rows)) % ring
        )  # [B, slots]
        oldest = torch.clamp((p // BLOCK - self.locals + 1) * BLOCK, min=self.sink_rows)
        seen = (stored <= p) & ((index < self.sink_rows) | ((after >= 0) & (stored >= oldest)))
        grouped = q.view(batch, kv_heads, -1, dim)
        score = (grouped @ self.keys.transpose(-1, -2)) * scale  # [B, Hkv, G, slots]
        score = score.masked_fill(~seen[:, None, None], float("-inf"))
        self.position += 1
        return (score.softmax(-1) @ self.values).reshape(q.shape)

    def _slot(self, position: Tensor) -> Tensor:
        ring = self.keys.shape[2] - self.sink_rows
        after = position - self.sink_rows
        return torch.where(after < 0, position, self.sink_rows + after % ring)

    def _check(self, name: str, x: Tensor) -> None:
        batch, kv_heads, _, dim = self.keys.shape
        if x.dim() != 4 or (x.shape[0], x.shape[1], x.shape[3]) != (batch, kv_heads, dim):
            shown = [batch, kv_heads, "T", dim]
            raise ValueError(
                f"SinkLocalCache: {name} has shape {list(x.shape)}, expected {shown} like the cache"
            )
        if x.dtype != self.keys.dtype or x.device != self.keys.device:
            raise ValueError(
                f"SinkLocalCache: {name} is {x.dtype} on {x.device}, "
                f"expected {self.keys.dtype} on {self.keys.device}"
            )
