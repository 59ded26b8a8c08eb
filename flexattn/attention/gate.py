"""The head-wise sigmoid gate after attention: a head may say nothing.

Rule: o_h <- sigmoid(x W_h + b_h) o_h, one number for each head and position, from the same input as the queries.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["HeadGate"]


class HeadGate(nn.Module):
    """sigmoid(x W + b) for each head, times what the head found.

    Source: gated attention, Qiu et al. 2025, arXiv:2505.06708 (the head-wise form, G1).
    """

    def __init__(self, dim: int, heads: int) -> None:
        """One logit a head from inputs of `dim`."""
        super().__init__()
        self.logit = nn.Linear(dim, heads)

    def forward(self, x: Tensor, out: Tensor) -> Tensor:
        """Gate `out` [..., B, T, H, D] by x [B, T, dim]."""
        return out * torch.sigmoid(self.logit(x))[..., None]
