"""V(s) and H(pi(.|s)) of legal actions in one sweep, the gradient in closed form.

    V(s)  = sum over a in A(s) of pi(a|s) [min_i Q_i(s, a) - alpha log pi(a|s)]
    dV/dz = pi(a|s) [min_i Q_i(s, a) - alpha log pi(a|s) - V(s)],  z the logits, Q held fixed

The actor's loss is -V, so neither log pi nor its graph need ever be stored.
Shapes: N states, J legal pairs. Where every action is legal the sets are None and rows are dense.
Source: discrete SAC, Christodoulou 2019, arXiv:1910.07207; the gradient follows from its J_pi.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import njit, prange
from torch import Tensor
from torch.autograd.function import once_differentiable

from flexattn.agents import losses
from flexattn.agents.legal import LegalSets, legal_log_softmax
from flexattn.agents.masked import entropy


def soft_values(
    logits: Tensor, q: Tensor, alpha: Tensor, legal: LegalSets | None
) -> tuple[Tensor, Tensor]:
    """V(s) with its gradient to the logits alone, and H(pi(.|s)) without one.

    Args:
      logits: z, [J], or [N, A] where everything is legal.
      q: twin Q of the same actions, [2, J] or [2, N, A], reward units; held fixed.
      alpha: temperature, scalar, reward units per nat; held fixed.
      legal: A(s); None: everything is legal.

    Returns: V, [N], reward units; H, [N], nats.
    """
    if logits.device.type == "cpu":
        if legal is None:
            return _DenseSoftValues.apply(logits, q, float(alpha))
        return _SoftValues.apply(logits, q, float(alpha), legal)
    return reference_soft_values(logits, q, alpha, legal)


def reference_soft_values(
    logits: Tensor, q: Tensor, alpha: Tensor, legal: LegalSets | None
) -> tuple[Tensor, Tensor]:
    """The same by `losses.soft_value`; any device and type."""
    least = q.detach().amin(0)
    if legal is None:
        log_pi = torch.log_softmax(logits, -1)
        return losses.soft_value(log_pi, least, alpha), entropy(log_pi.detach())
    log_pi = legal_log_softmax(logits.unsqueeze(0), legal)[0]
    value = legal.sum(losses.soft_terms(log_pi, least, alpha))
    held = log_pi.detach()
    return value, -legal.sum(held.exp() * held)


class _DenseSoftValues(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, q: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
        log_pi = torch.log_softmax(logits, -1)
        pi = log_pi.exp()
        terms = torch.sub(torch.minimum(q[0], q[1]), log_pi, alpha=alpha).mul_(pi)
        value = terms.sum(-1)
        nats = log_pi.mul_(pi).sum(-1).neg_()
        ctx.save_for_backward(terms.addcmul_(pi, value.unsqueeze(-1), value=-1.0))
        ctx.mark_non_differentiable(nats)
        return value, nats

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor, None, None]:
        (slope,) = ctx.saved_tensors
        return slope * grad.unsqueeze(-1), None, None


class _SoftValues(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, q: Tensor, alpha: float, legal: LegalSets
    ) -> tuple[Tensor, Tensor]:
        logits, q = logits.detach().contiguous(), q.detach().contiguous()
        value = logits.new_empty(len(legal.start) - 1)
        nats = torch.empty_like(value)
        slope = torch.empty_like(logits)
        _sweep(
            logits.numpy(), q.numpy(), logits.numpy().dtype.type(alpha), legal.start.numpy(),
            value.numpy(), nats.numpy(), slope.numpy(),
        )  # fmt: skip
        ctx.save_for_backward(slope)
        ctx.legal = legal
        ctx.mark_non_differentiable(nats)
        return value, nats

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor, None, None, None]:
        (slope,) = ctx.saved_tensors
        return slope * grad.index_select(0, ctx.legal.row), None, None, None


@njit(nogil=True, cache=True, parallel=True)
def _sweep(logits: Any, q: Any, alpha: Any, start: Any, value: Any, nats: Any, slope: Any) -> None:
    for n in prange(start.shape[0] - 1):
        first, last = start[n], start[n + 1]
        top = logits[first]
        for j in range(first, last):
            top = max(top, logits[j])
        mass = 0.0
        for j in range(first, last):
            e = np.exp(logits[j] - top)
            slope[j] = e
            mass += e
        norm = np.log(mass)
        total = spread = 0.0
        for j in range(first, last):
            pi, log_pi = slope[j] / mass, logits[j] - top - norm
            total += pi * (min(q[0, j], q[1, j]) - alpha * log_pi)
            spread -= pi * log_pi
        for j in range(first, last):
            pi, log_pi = slope[j] / mass, logits[j] - top - norm
            slope[j] = pi * (min(q[0, j], q[1, j]) - alpha * log_pi - total)
        value[n] = total
        nats[n] = spread
