"""The definition of windowed attention, for any device and float type, float64 included.

Rule: `visible(i, j)  <=>  0 <= i - j < window[i]    # window keys, the query's own included`, and a query's output is
the softmax over its visible keys of `scale * q.k - slope * (i - j)`, times v. Every other implementation is tested
against this one; it builds the whole [T, T] matrix and is not meant to be fast.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["attention", "visible"]


def visible(window: Tensor, length: int) -> Tensor:
    """Which keys a query sees: 0 <= i - j < window[i].

    Args:
      window: keys a query sees, its own included, integer, broadcastable to [B, H, T].
      length: T, positions.

    Returns: [..., T, T] bool, queries in rows.
    """
    position = torch.arange(length, device=window.device)
    distance = position[:, None] - position[None, :]  # [T, T]
    return (distance >= 0) & (distance < window[..., None])


def attention(
    q: Tensor, k: Tensor, v: Tensor, seen: Tensor, scale: float, slopes: Tensor | None = None
) -> Tensor:
    """Softmax attention over the visible keys, in the type of q throughout.

    Args:
      q: queries, [B, H, T, D].
      k, v: keys and values, [B, Hkv, S, D]; query head h reads head h // (H / Hkv).
      seen: which keys a query sees, bool, broadcastable to [B, H, T, S]; each row has one at least.
      scale: factor of q.k.
      slopes: ALiBi's slope of each head, [H], or None.

    Returns: [B, H, T, D].
    """
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    score = (q @ k.transpose(-1, -2)) * scale  # [B, H, T, S]
    if slopes is not None:
        position = torch.arange(q.shape[2], device=q.device, dtype=score.dtype)
        distance = position[:, None] - position[None, :]
        score = score - slopes.to(score.dtype)[:, None, None] * distance
    return score.masked_fill(~seen, float("-inf")).softmax(-1) @ v
