"""The formulas of masked discrete SAC, pure: values in, values out, the paper's letters.

Sums run over legal actions and means over positions, since |A(s)| changes from step to step.
Source: discrete SAC, Christodoulou 2019, arXiv:1910.07207; the entropy target kappa log|A(s)| and
the decomposition Q = Q_0 + Q_h + Q_p are this project's.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

Mean = Callable[[Tensor, Tensor], Tensor]  # of values over the True positions of a mask


def soft_value(log_pi: Tensor, q_min: Tensor, alpha: Tensor | float) -> Tensor:
    """V(s) = sum over a in A(s) of pi(a|s) [min_i Q_i(s, a) - alpha log pi(a|s)].

    Args:
      log_pi: log pi(.|s), [..., A]; finite, so illegal actions weigh exactly 0.
      q_min: smaller of the twin soft Q, [..., A], reward units, finite.
      alpha: temperature, > 0, reward units per nat.

    Returns: V(s), [...], reward units; J_pi is its negative.
    """
    return soft_terms(log_pi, q_min, alpha).sum(-1)


def soft_terms(log_pi: Tensor, q_min: Tensor, alpha: Tensor | float) -> Tensor:
    """The terms of V(s), pi(a|s) [min_i Q_i(s, a) - alpha log pi(a|s)], one for each action."""
    return log_pi.exp() * (q_min - alpha * log_pi)


def td_target(reward: Tensor, terminated: Tensor, next_value: Tensor, gamma: float) -> Tensor:
    """The target y = r + gamma (1 - terminated) V(s'); a truncated step bootstraps."""
    return reward + gamma * torch.where(terminated, torch.zeros_like(next_value), next_value)


def critic_loss(
    q: Tensor, y: Tensor, valid: Tensor, huber: float = 1.0, mean: Mean | None = None
) -> Tensor:
    """J_Q = E 1/2 sum_i (Q_i - y)^2, linear beyond an error of `huber`.

    Args:
      q: twin estimates, [2, ...], reward units.
      y: targets, [...], without gradient.
      valid: positions that exist, [...] bool.
      huber: error beyond which the loss is linear, reward units; inf: nowhere.
      mean: how positions are averaged, by default `mean_over`.

    Returns: scalar, the mean over valid positions.
    """
    if huber == math.inf:
        error = 0.5 * (q - y).square().sum(0)
    else:
        error = functional.huber_loss(q, y.expand_as(q), reduction="none", delta=huber).sum(0)
    return (mean or mean_over)(error, valid)


def conservative(log_share: Tensor) -> Tensor:
    """CQL's sum_i [log sum over a in A(s) of exp Q_i(s, a) - Q_i(s, a*)], a* the teacher's.

    Args:
      log_share: Q_i(s, a*) - log sum exp Q_i(s, .) for both twins, [2, ...], reward units.

    Returns: [...], at least 0; 0 where a* is the only legal action.
    Source: conservative Q-learning, Kumar et al. 2020, arXiv:2006.04779.
    """
    return -log_share.sum(0)


def stability(one: Tensor, two: Tensor) -> Tensor:
    """||stopgrad(y1) - y2||_1 of each action, [...]; y a state's distribution under two windows."""
    return (one.detach() - two).abs()


def temperature_step(
    log_alpha: Tensor,
    entropy: Tensor,
    target: Tensor,
    valid: Tensor,
    rate: float,
    mean: Mean | None = None,
) -> Tensor:
    """log alpha + rate * (H_tgt(s) - H(pi(.|s))): entropy too low, alpha rises.

    Args:
      log_alpha: scalar, log(reward units per nat).
      entropy: H(pi(.|s)), [...], nats.
      target: kappa log|A(s)|, [...], nats.
      valid: positions that exist, [...] bool.
      rate: alpha's learning rate, > 0.
      mean: how positions are averaged, by default `mean_over`.

    Returns: the new log alpha, scalar.
    """
    return log_alpha + rate * (mean or mean_over)(target - entropy, valid)


def entropy_target(n_legal: Tensor, kappa: float) -> Tensor:
    """H_tgt(s) = kappa log|A(s)|, nats; 0 where one action is legal."""
    return kappa * torch.log(n_legal.to(torch.float32))


def mean_over(values: Tensor, valid: Tensor) -> Tensor:
    """Mean over the True positions of `valid`; 0 where there is none."""
    weight = valid.to(values.dtype)
    return (values * weight).sum() / weight.sum().clamp(min=1.0)
