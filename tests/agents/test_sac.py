"""The learner's exact expectations against enumeration of every action, values and gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from flexattn.agents.batches import Batch, Batches
from flexattn.agents.policy import Teacher
from flexattn.agents.sac import HEADS, Learner, Rates
from flexattn.agents.schedule import curriculum, linear, zipf_probabilities
from flexattn.config import Config
from flexattn.env.core import Core
from flexattn.env.world import World
from flexattn.experience import write_answers

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def learner(world: World, config: Config) -> Learner:
    from flexattn.agents.networks import Sizes

    torch.manual_seed(0)
    return Learner(config, Sizes.of(world), CPU)


@pytest.fixture(scope="module")
def batch(world: World) -> Batch:
    core = Core(world, 2, gain_by_cap=True)
    settings = world.settings
    caps = np.full(len(settings.hit_cap_chars), 1 / len(settings.hit_cap_chars))
    windows = curriculum(0.5, len(settings.history_chars), caps)
    teacher = Teacher(core, windows, np.random.default_rng(0))
    rollout = write_answers(core, world.train[:2], np.zeros(2, np.int64), teacher, None, None)
    return Batches(world, CPU).of(rollout.answers)


def test_the_decomposed_value_is_the_sum_over_every_joint_action(
    learner: Learner, batch: Batch
) -> None:
    alpha = torch.tensor([0.3, 0.2, 0.1])
    with torch.no_grad():
        h = learner.critics.features(batch.seen, batch.foresight, batch.rows)
        q0 = learner.critics.char_values(h.char, batch.legal).amin(0)
        qh, qp = (p.amin(0) for p in learner.critics.window_values(h, batch.history_cost))

    def decomposed() -> torch.Tensor:
        log_h, log_p, log_a = learner.policies(batch)
        v_h, v_p, v_a = learner._values(learner.critics, h, batch, log_h, log_p, log_a, alpha)
        return v_h + (log_h.exp() * (v_p + v_a)).sum(-1)

    def enumerated() -> torch.Tensor:
        log_h, log_p, log_a = learner.policies(batch)
        start = batch.legal.start.tolist()
        values = []
        for s in range(0, len(log_h), 37):
            total = torch.zeros(())
            pairs = slice(start[s], start[s + 1])
            for i in range(log_h.shape[1]):
                for j in range(log_p.shape[2]):
                    joint = log_h[s, i] + log_p[i, s, j] + log_a[i, pairs]
                    q = q0[pairs] + qh[s, i] + qp[s, j]
                    bonus = (alpha[0] * log_h[s, i] + alpha[1] * log_p[i, s, j]) + alpha[2] * log_a[
                        i, pairs
                    ]
                    total = total + (joint.exp() * (q - bonus)).sum()
            values.append(total)
        return torch.stack(values)

    ours, theirs = decomposed()[::37], enumerated()
    assert torch.allclose(ours, theirs, atol=1e-5)
    parameters = [*learner.actor.parameters()]
    one = torch.autograd.grad(decomposed()[::37].sum(), parameters, allow_unused=True)
    two = torch.autograd.grad(enumerated().sum(), parameters, allow_unused=True)
    for mine, brute in zip(one, two):
        if mine is not None:
            assert brute is not None
            assert torch.allclose(mine, brute, atol=1e-4, rtol=1e-3)


def test_what_the_index_offers_is_what_a_perfect_copy_is_paid(batch: Batch) -> None:
    known = batch.foresight.offer[batch.rows][batch.here]
    assert torch.allclose(known, batch.cap_reward, atol=0.03)
    assert (known - batch.cap_reward).abs().median() < 1e-6


@pytest.mark.parametrize("target", ["parts", "sum"])
def test_critics_learn_from_either_target_and_the_actor_stays_where_it_was(
    world: World, config: Config, batch: Batch, target: str
) -> None:
    from flexattn.agents.networks import Sizes

    torch.manual_seed(0)
    agent = config.agent.model_copy(update={"critic_target": target})
    learner = Learner(config.model_copy(update={"agent": agent}), Sizes.of(world), CPU)
    before = [p.clone() for p in learner.actor.parameters()]
    rates = Rates(kappa=dict.fromkeys(HEADS, 0.1), bc_weight=1.0)
    losses = [learner.update(batch, rates, None)["critic_loss"] for _ in range(30)]
    assert losses[-1] < 0.5 * losses[0]
    assert all(torch.equal(a, b) for a, b in zip(before, learner.actor.parameters()))


def test_a_schedule_is_linear_between_its_ends_and_constant_outside() -> None:
    assert [linear((1.0, 0.0), n, 5) for n in (-1, 0, 2, 4, 9)] == [1.0, 1.0, 0.5, 0.0, 0.0]
    assert linear((1.0, 0.2), 0, 1) == 0.2


def test_the_curriculum_goes_from_zipf_to_the_domains_own_lengths() -> None:
    caps = np.array([0.1, 0.6, 0.2, 0.1])
    assert np.allclose(curriculum(1.0, 4, caps).sum(0), caps)
    assert np.allclose(curriculum(0.0, 4, caps).sum(1), zipf_probabilities(4))
    assert curriculum(0.3, 4, caps).sum() == pytest.approx(1.0)
