"""Dense layers through oneDNN on CPU, forward and backward.

    y = act(x W^T + b),  g = dy act'(y),  dx = g W,  dW = g^T x,  db = sum of g over the states

torch gives its float32 products to MKL, which keeps to AVX2 on AMD: 97 GFLOP/s on one core of an
EPYC on which oneDNN, with AVX-512, reaches 186. torch's operator for it knows no gradient, so it
is written out here. Elsewhere the same formulas run as torch's own operations.
Shapes: G maps side by side (1, or 2 for twins), N states, D numbers in, K numbers out.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

LEAST_STATES = 16  # below it, calling costs more than multiplying


class DenseLayer(nn.Module):
    """G independent linear maps, with or without ReLU, initialised as `torch.nn.Linear` is."""

    def __init__(self, maps: int, inputs: int, outputs: int, *, relu: bool) -> None:
        """Take G, D and K."""
        super().__init__()
        self.relu = relu
        bound = inputs**-0.5
        self.weight = nn.Parameter(torch.empty(maps, outputs, inputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(maps, outputs).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        """[G, N, D], or [1, N, D] for states that all maps share, to [G, N, K]."""
        return dense(x, self.weight, self.bias, relu=self.relu)


def dense(x: Tensor, weight: Tensor, bias: Tensor, *, relu: bool) -> Tensor:
    """act(x[g] W[g]^T + b[g]) for every map.

    Args:
      x: [G, N, D], or [1, N, D] for states that all maps share.
      weight: [G, K, D].
      bias: [G, K].
      relu: act is ReLU, else the identity.

    Returns: [G, N, K].
    """
    here = x.device.type == "cpu" and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    if here and x.dtype == torch.float32 and x.shape[1] >= LEAST_STATES:
        return _Dense.apply(x, weight, bias, relu)
    return reference_dense(x, weight, bias, relu=relu)


def reference_dense(x: Tensor, weight: Tensor, bias: Tensor, *, relu: bool) -> Tensor:
    """The same by `torch.baddbmm`; any device and type."""
    wide = x.expand(len(weight), *x.shape[1:])
    y = torch.baddbmm(bias.unsqueeze(1), wide, weight.transpose(1, 2))
    return y.relu() if relu else y


def _product(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *, relu: bool = False
) -> Tensor:
    """act(x W^T + b); x is copied where it isn't contiguous, W is taken as it lies."""
    act = "relu" if relu else "none"
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, act, [], "")
    return out


class _Dense(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, relu: bool) -> Tensor:
        sources = x.expand(len(weight), *x.shape[1:])
        y = _stack([_product(*each, relu=relu) for each in zip(sources, weight, bias)])
        ctx.save_for_backward(x, weight, y)
        ctx.relu = relu
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, Tensor, None]:
        x, weight, y = ctx.saved_tensors
        d_weight, d_x = [], []
        passed = torch.ops.aten.threshold_backward(grad, y, 0.0) if ctx.relu else grad
        for g, source in enumerate(x.expand(len(weight), *x.shape[1:])):
            d_weight.append(_product(passed[g].t(), source.t()))
            if ctx.needs_input_grad[0]:
                d_x.append(_product(passed[g], weight[g].t()))
        to_x = None
        if d_x:
            to_x = _stack(d_x) if len(x) == len(weight) else _stack(d_x).sum(0, keepdim=True)
        return to_x, _stack(d_weight), passed.sum(1), None


def _stack(parts: list[Tensor]) -> Tensor:
    return parts[0].unsqueeze(0) if len(parts) == 1 else torch.stack(parts)
