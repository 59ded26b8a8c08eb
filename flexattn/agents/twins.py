"""Two critics side by side, first axis: which twin; and the target that follows them."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


class TwinLinear(nn.Module):
    """Two independent linear maps in one product: [2, ..., in] -> [2, ..., out]."""

    def __init__(self, inputs: int, outputs: int, *, zero: bool = False) -> None:
        """Initialise both maps as `torch.nn.Linear` does, or at zero."""
        super().__init__()
        bound = 0.0 if zero else inputs**-0.5
        self.weight = nn.Parameter(torch.empty(2, inputs, outputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(2, 1, outputs).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        """Apply map i to x[i]."""
        flat = torch.baddbmm(self.bias, x.flatten(1, -2), self.weight)
        return flat.view(*x.shape[:-1], -1)


@torch.no_grad()
def follow(target: Iterable[Tensor], online: Iterable[Tensor], ema: float) -> None:
    """Target <- (1 - ema) target + ema online, parameter by parameter."""
    torch._foreach_lerp_(list(target), list(online), ema)
