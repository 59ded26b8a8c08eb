"""Two draws agree in expectation with the exact sums: every pair of joint actions is enumerated."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from flexattn.agents.batches import Batch, Batches
from flexattn.agents.cloning import CloneBatch
from flexattn.agents.legal import LegalSets
from flexattn.agents.networks import Sizes
from flexattn.agents.policy import Teacher
from flexattn.agents.sac import HEADS, Learner, Rates
from flexattn.agents.sampled import Draws, draw, sampled_objective, sampled_values
from flexattn.agents.schedule import curriculum
from flexattn.config import Config
from flexattn.env.core import Core
from flexattn.env.world import World
from flexattn.experience import write_answers

CPU = torch.device("cpu")
ALPHA = torch.tensor([0.3, 0.2, 0.5], dtype=torch.float64)


def test_values_and_gradients_agree_with_the_sums_over_all_actions() -> None:
    """One state with 2 windows, 3 caps and 4 characters: 24 actions, 576 pairs of draws."""
    torch.manual_seed(0)
    h, p, a = (
        torch.randn(shape, dtype=torch.float64, requires_grad=True)
        for shape in ((2,), (2, 3), (2, 4))
    )
    qh, qp, q0 = (torch.randn(n, dtype=torch.float64) for n in (2, 3, 4))
    log_h, log_p, log_a = (x.log_softmax(-1) for x in (h, p, a))
    exact = torch.zeros((), dtype=torch.float64)
    for i, j, k in itertools.product(range(2), range(3), range(4)):
        joint = (log_h[i] + log_p[i, j] + log_a[i, k]).exp()
        q = qh[i] + qp[j] + q0[k]
        bonus = ALPHA[0] * log_h[i] + ALPHA[1] * log_p[i, j] + ALPHA[2] * log_a[i, k]
        exact = exact + joint * (q - bonus)

    actions = list(itertools.product(range(2), range(3), range(4)))
    pairs = torch.tensor(list(itertools.product(actions, actions)))  # [576, K, 3]
    i, j, k = pairs.permute(2, 1, 0)
    drawn = log_h[i], log_p[i, j], log_a[i, k]
    nothing = torch.zeros(i.shape)
    draws = Draws(i, j, k, *drawn, (nothing, nothing, nothing), nothing, nothing)
    chance = sum(drawn).sum(0).exp().detach()  # of both draws, [576]
    count = len(pairs)
    values = sampled_values(draws, qh.expand(count, 2), qp.expand(count, 3), q0, ALPHA)
    assert chance.sum().item() == pytest.approx(1.0)
    assert (chance * sum(values).mean(0)).sum().item() == pytest.approx(exact.item(), abs=1e-12)
    objective = (chance * sampled_objective(draws, values)).sum()
    ours = torch.autograd.grad(objective, (h, p, a), retain_graph=True)
    theirs = torch.autograd.grad(exact, (h, p, a))
    for mine, brute in zip(ours, theirs):
        assert torch.allclose(mine, brute, atol=1e-12)


def test_characters_are_drawn_from_their_own_states_by_their_chance() -> None:
    mask = np.zeros((3, 64), bool)
    mask[0, [3, 5, 60]], mask[1, 7], mask[2, [0, 63]] = True, True, True
    octets = np.packbits(mask, axis=-1, bitorder="little")
    legal = LegalSets.of(octets.view(np.uint64), 64, CPU)
    chance = torch.tensor([0.2, 0.5, 0.3, 1.0, 0.9, 0.1])
    generator = torch.Generator().manual_seed(0)
    drawn = torch.stack([legal.sample(chance.log(), generator) for _ in range(4000)])
    assert torch.equal(legal.row[drawn], torch.arange(3).expand(4000, 3))
    shares = torch.bincount(drawn.flatten(), minlength=6) / 4000
    assert torch.allclose(shares, chance, atol=0.03)


@pytest.fixture(scope="module")
def batch(world: World) -> Batch:
    core = Core(world, 2, gain_by_cap=True)
    settings = world.settings
    caps = np.full(len(settings.hit_cap_chars), 1 / len(settings.hit_cap_chars))
    windows = curriculum(0.5, len(settings.history_chars), caps)
    teacher = Teacher(core, windows, np.random.default_rng(0))
    rollout = write_answers(core, world.train[:2], np.zeros(2, np.int64), teacher, None, None)
    return Batches(world, CPU).of(rollout.answers)


def _learner(world: World, config: Config, **changes: object) -> Learner:
    torch.manual_seed(0)
    agent = config.agent.model_copy(update=changes)
    return Learner(config.model_copy(update={"agent": agent}), Sizes.of(world), CPU)


def _clones(batch: Batch) -> CloneBatch:
    window = torch.full(batch.rows.shape, 2, dtype=torch.int32)
    return CloneBatch(batch.seen, window, batch.rows, batch.legal, batch.teacher, batch.accepted)


RATES = Rates(kappa=dict.fromkeys(HEADS, 0.1), bc_weight=1.0, rho=0.5)


def test_the_mean_of_many_draws_is_the_exact_value_of_each_part(
    world: World, config: Config, batch: Batch
) -> None:
    learner = _learner(world, config)
    alpha = torch.tensor([0.3, 0.2, 0.1])
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        exact = learner._next_values(batch, *learner.policies(batch), alpha)
        found = [
            learner._sampled_next(batch, draw(learner.actor, batch, generator), alpha)
            for _ in range(40)
        ]
    for part, draws in zip(exact, zip(*found)):
        many = torch.stack(draws)  # [40, N]
        error = (many.mean(0) - part) / (many.std(0) / 40**0.5 + 1e-6)
        assert error.abs().mean() < 1.2  # 0.8 for a normal error, were it unbiased
        assert abs(float(error.mean())) < 0.6


def test_sampled_updates_learn_and_the_same_stream_gives_the_same_weights(
    world: World, config: Config, batch: Batch
) -> None:
    sides = []
    for _ in range(2):
        learner = _learner(world, config, expectation="sampled", stability_weight=0.1)
        generator = torch.Generator().manual_seed(3)
        stats = [learner.update(batch, RATES, _clones(batch), generator) for _ in range(12)]
        sides.append((learner, stats))
    (one, stats), (two, _) = sides
    assert stats[-1]["critic_loss"] < stats[0]["critic_loss"]
    assert stats[-1]["clone_loss"] < stats[0]["clone_loss"]
    assert 0.0 < stats[0]["stability"] <= 2.0
    assert all(torch.equal(a, b) for a, b in zip(one.actor.parameters(), two.actor.parameters()))


def test_drawing_without_a_stream_is_an_error(world: World, config: Config, batch: Batch) -> None:
    learner = _learner(world, config, expectation="sampled")
    with pytest.raises(ValueError, match="expected a generator"):
        learner.update(batch, RATES, None)


def test_cql_holds_down_what_the_teacher_did_not_write(
    world: World, config: Config, batch: Batch
) -> None:
    gaps = []
    for weight in (0.0, 1.0):
        learner = _learner(world, config, cql_weight=weight)
        for _ in range(30):
            stats = learner.update(batch, RATES, None)
        with torch.no_grad():
            h = learner.critics.features(batch.seen, batch.foresight, batch.rows)
            q = learner.critics.char_values(h.char, batch.legal).amin(0)
        others = batch.legal.sum(q) - q[batch.teacher]
        many = batch.accepted & (batch.legal.counts > 1)
        gap = q[batch.teacher] - others / (batch.legal.counts - 1).clamp(min=1)
        gaps.append(float(gap[many].mean()))
        assert ("cql" in stats) == bool(weight)
    assert gaps[1] > gaps[0] + 0.5


def test_the_stability_term_draws_the_windows_together(
    world: World, config: Config, batch: Batch
) -> None:
    apart = []
    for weight in (0.0, 20.0):
        learner = _learner(world, config, stability_weight=weight, actor_lr=1e-3)
        generator = torch.Generator().manual_seed(0)
        for _ in range(12):
            learner.update(batch, RATES, _clones(batch), generator)
        with torch.no_grad():
            pi = learner.policies(batch)[2].exp()
        apart.append(float(batch.legal.sum((pi[0] - pi[-1]).abs()).mean()))
    assert apart[1] < 0.5 * apart[0]
