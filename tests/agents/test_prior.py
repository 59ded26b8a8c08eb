"""Counts under the network: one definition, whole answers and single steps, and what it is for."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from flexattn.agents.cloning import TeacherAnswers, legal_along, sequence
from flexattn.agents.legal import LegalSets
from flexattn.agents.masked import masked_log_softmax
from flexattn.agents.networks import Actor, Sizes
from flexattn.agents.policy import Student
from flexattn.agents.prior import CountPrior
from flexattn.config import Config
from flexattn.env.core import Core
from flexattn.env.world import World


@pytest.fixture(scope="module")
def prior(world: World) -> CountPrior:
    return CountPrior(world)


@pytest.fixture(scope="module")
def actor(world: World, config: Config, prior: CountPrior) -> Actor:
    torch.manual_seed(0)
    agent = config.agent.model_copy(update={"prior": "counts"})
    actor = Actor(Sizes.of(world), config.env, agent, config.attention)
    actor.prior = prior
    return actor


def damaged(world: World, record: int) -> np.ndarray:
    """An answer with every seventh character replaced, [1, T]."""
    answer = world.answer(record)[None].copy()
    answer[0, 3::7] = world.answer(int(world.train[5]))[: len(answer[0, 3::7])]
    return answer


def test_it_is_what_stage_a_writes_with(world: World, prior: CountPrior) -> None:
    core = Core(world, 4)
    core.reset(record_indices=world.train[:4])
    everyone = np.arange(4)
    for t in range(12):
        seen, legal = core.observe(), core.legal_packed()
        window = np.array([2, 3, 4, 6])
        topics = prior.model.asked()(seen.question)
        made = prior.model.write(
            everyone, seen.history, topics, seen.step, window, legal, dense=True
        )
        pi = made.pi
        log_p, expected = prior.states(seen, everyone, window, legal, world.size)
        got = log_p.numpy()
        assert expected.numpy() == pytest.approx(
            prior.model.expected(made.size, made.worth, made.inside)
        )
        inside = pi > 0
        assert inside.sum() == core.state.n_legal.sum()
        assert got[inside] == pytest.approx(np.log(pi[inside]), rel=1e-5)
        assert not got[~inside].any()
        char = core.teacher() if t % 3 else core.sample_legal(np.random.default_rng(t))
        core.step(np.zeros(4, int), np.zeros(4, int), char)


def test_whole_answers_have_the_probabilities_of_single_steps(
    world: World, prior: CountPrior, actor: Actor
) -> None:
    record = int(world.train[3])
    answer = damaged(world, record)
    core = Core(world, 1)
    core.reset(record_indices=[record])
    question, settings = core.observe().question, world.settings
    device = torch.device("cpu")
    seen = sequence(answer, question, settings.max_history, settings.sketch_dim, device)
    exists = np.ones((1, answer.shape[1] + 1), np.bool_)
    packed = legal_along(answer, np.array([answer.shape[1]]), world.mask)
    legal = LegalSets.of(packed[exists], world.size, device)
    with torch.no_grad():
        token, fixed = actor.embed(seen)
        log_h = masked_log_softmax(actor.history_logits(token, fixed), None)
        states = actor.state(actor.encoder.forward_multi(token, actor.windows), fixed)[:, 0]
        known = prior.every_window(answer, question, exists, legal)
        log_a = actor.char_log_pi(states, legal, known.log_p)
        log_p = masked_log_softmax(
            actor.cap_logits(states, token[0], fixed[0], known.expected), None
        )
    student = Student(actor)
    start = legal.start.tolist()
    for t in range(answer.shape[1]):
        decided = student(core.observe(), core.legal_packed(), np.ones(1, bool))
        choice = int(log_h[0, t].argmax())
        assert decided.history[0] == choice
        assert decided.cap[0] == int(log_p[choice, t].argmax())
        expected = log_a[choice, start[t] : start[t + 1]].exp().max()
        assert decided.probability[0] == pytest.approx(float(expected), rel=2e-4)
        core.step(decided.history, decided.cap, answer[:, t], enforce=False)


def test_an_untrained_network_on_counts_writes_the_teachers_characters(
    world: World, config: Config, actor: Actor
) -> None:
    def right(actor: Actor) -> float:
        core = Core(world, 16)
        core.reset(record_indices=world.train[:16])
        student, found = Student(actor), []
        while not core.state.done.all():
            active = ~core.state.done
            target = core.teacher()
            decided = student(core.observe(), core.legal_packed(), active)
            found += (decided.char == target)[active].tolist()
            core.step(decided.history, decided.cap, target, enforce=False)
        return float(np.mean(found))

    torch.manual_seed(0)
    assert right(Actor(Sizes.of(world), config.env, config.agent, config.attention)) < 0.2
    assert right(actor) > 0.95


def test_a_cloning_batch_has_it_under_the_windows_drawn(world: World, prior: CountPrior) -> None:
    settings = world.settings
    teacher = TeacherAnswers(
        [world.answer(record) for record in world.train[:6]],
        [[world.question_ids[world.question_start[record]]] for record in world.train[:6]],
    )
    batch = teacher.batch(
        np.random.default_rng(0), 3, noise=0.2, alphabet=np.arange(3, world.size, dtype=np.int32),
        tables=world.mask, actions=world.size, windows=settings.history_chars,
        max_history=settings.max_history, sketch_dim=settings.sketch_dim,
        device=torch.device("cpu"), prior=prior,
    )  # fmt: skip
    assert batch.prior is not None
    mass = batch.legal.sum(batch.prior.exp())
    assert mass.numpy() == pytest.approx(1.0, abs=1e-5)
    written = batch.seen.token[:, 1:].numpy().astype(np.int32)
    again = prior.answers(
        written, batch.seen.question.numpy().astype(np.int32), batch.rows.numpy(),
        batch.window.numpy(), batch.legal,
    )  # fmt: skip
    assert torch.equal(again, batch.prior)


def test_counts_that_are_missing_are_named(world: World, config: Config, actor: Actor) -> None:
    core = Core(world, 1)
    core.reset()
    agent = config.agent.model_copy(update={"prior": "counts"})
    bare = Actor(Sizes.of(world), config.env, agent, config.attention)
    with pytest.raises(
        ValueError, match=r"expected is missing, but the actor.s agent\.prior is counts"
    ):
        Student(bare)(core.observe(), core.legal_packed(), np.ones(1, bool))
