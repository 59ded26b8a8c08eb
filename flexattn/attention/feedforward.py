"""SwiGLU: (silu(x W_gate) * x W_value) W_out.

Source: Shazeer 2020, arXiv:2002.05202.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

__all__ = ["SwiGLU"]


class SwiGLU(nn.Module):
    """The gated feed-forward layer, gate and value in one product."""

    def __init__(self, dim: int, hidden: int) -> None:
        """`hidden` units between two projections without bias."""
        super().__init__()
        self.enter = nn.Linear(dim, 2 * hidden, bias=False)
        self.leave = nn.Linear(hidden, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., dim] -> [..., dim]."""
        gate, value = self.enter(x).chunk(2, -1)
        return self.leave(functional.silu(gate) * value)
