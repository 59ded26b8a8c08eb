"""The formulas against brute force on a problem small enough to enumerate."""

from __future__ import annotations

import math

import torch

from flexattn.agents import losses
from flexattn.agents.masked import masked_log_softmax


def _problem() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 5, generator=generator, dtype=torch.float64)
    q = torch.randn(3, 5, generator=generator, dtype=torch.float64)
    legal = torch.tensor([[1, 1, 0, 1, 0], [0, 0, 1, 0, 0], [1, 1, 1, 1, 1]], dtype=torch.bool)
    return logits, q, legal


def test_soft_value_is_the_sum_over_legal_actions_alone() -> None:
    logits, q, legal = _problem()
    found = losses.soft_value(masked_log_softmax(logits, legal), q, 0.3)
    for row in range(3):
        actions = [a for a in range(5) if legal[row, a]]
        mass = sum(math.exp(logits[row, a]) for a in actions)
        pi = {a: math.exp(logits[row, a]) / mass for a in actions}
        expected = sum(p * (float(q[row, a]) - 0.3 * math.log(p)) for a, p in pi.items())
        assert math.isclose(float(found[row]), expected, rel_tol=1e-12)


def test_the_policy_that_minimises_j_pi_is_softmax_of_q_over_alpha_on_legal_actions() -> None:
    logits, q, legal = _problem()
    logits = logits.clone().requires_grad_(True)
    alpha = 0.4
    optimiser = torch.optim.Adam([logits], 0.05)
    for _ in range(3000):
        loss = -losses.soft_value(masked_log_softmax(logits, legal), q, alpha).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    optimal = torch.softmax((q / alpha).masked_fill(~legal, -torch.inf), -1)
    assert torch.allclose(masked_log_softmax(logits, legal).exp(), optimal, atol=1e-4)
    closed_form = alpha * torch.logsumexp((q / alpha).masked_fill(~legal, -torch.inf), -1)
    value = losses.soft_value(masked_log_softmax(logits, legal), q, alpha)
    assert torch.allclose(value, closed_form, atol=1e-6)


def test_a_terminated_step_does_not_bootstrap_and_a_truncated_one_does() -> None:
    y = losses.td_target(torch.ones(2), torch.tensor([True, False]), torch.full((2,), 10.0), 0.5)
    assert y.tolist() == [1.0, 6.0]


def test_alpha_rises_where_entropy_is_too_low_and_falls_where_it_is_too_high() -> None:
    valid = torch.ones(2, dtype=torch.bool)
    target = losses.entropy_target(torch.tensor([10, 20]), 0.5)
    low = losses.temperature_step(torch.tensor(0.0), torch.zeros(2), target, valid, 0.1)
    high = losses.temperature_step(torch.tensor(0.0), torch.full((2,), 5.0), target, valid, 0.1)
    assert low > 0 > high


def test_one_legal_action_has_entropy_target_zero() -> None:
    assert losses.entropy_target(torch.tensor([1]), 0.98).item() == 0.0
