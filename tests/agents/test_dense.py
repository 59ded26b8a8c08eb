"""Layers by oneDNN against the formula in float64, forward and every gradient."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from flexattn.agents.dense import LEAST_STATES, dense, reference_dense

SHAPES = {  # maps, maps of the states, states, D, K
    "an actor": (1, 1, 64, 64, 256),
    "twins over one state": (2, 1, 37, 5, 50),
    "twins": (2, 2, 256, 256, 256),
    "few states": (2, 2, LEAST_STATES - 1, 33, 17),
    "odd sizes": (2, 2, 65, 63, 1),
}


def _gradients(run: object, parts: list[Tensor], out: Tensor, relu: bool) -> list[Tensor]:
    parts = [part.requires_grad_(True) for part in parts]
    y = run(*parts, relu=relu)  # type: ignore[operator]
    return [y.detach(), *torch.autograd.grad(y, parts, out.to(y.dtype))]


@pytest.mark.parametrize("relu", [True, False], ids=["ReLU", "linear"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_values_and_gradients_are_those_of_the_formula(
    shape: tuple[int, int, int, int, int], relu: bool
) -> None:
    maps, of_states, states, inputs, outputs = shape
    torch.manual_seed(0)
    parts = [
        torch.randn(of_states, states, inputs), torch.randn(maps, outputs, inputs),
        torch.randn(maps, outputs),
    ]  # fmt: skip
    out = torch.randn(maps, states, outputs)
    exact = _gradients(reference_dense, [part.double() for part in parts], out, relu)
    ours = _gradients(dense, [part.clone() for part in parts], out, relu)
    plain = _gradients(reference_dense, [part.clone() for part in parts], out, relu)
    for found, float32, expected in zip(ours, plain, exact):
        allowed = 2.0 * (float32 - expected).abs().max() + 1e-6 * expected.abs().max()
        assert (found - expected).abs().max() <= allowed


def test_states_that_need_no_gradient_get_none() -> None:
    weight, bias = torch.randn(2, 8, 4, requires_grad=True), torch.zeros(2, 8)
    y = dense(torch.randn(1, 32, 4), weight, bias, relu=True)
    (found,) = torch.autograd.grad(y.sum(), (weight,))
    assert found.shape == weight.shape


def test_the_fast_path_is_taken_here() -> None:
    y = dense(
        torch.randn(1, 32, 4),
        torch.randn(1, 8, 4, requires_grad=True),
        torch.zeros(1, 8),
        relu=True,
    )
    assert type(y.grad_fn).__name__ == "_DenseBackward"
