"""What an actor may see, and that one pass over an answer equals one step at a time."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch

from flexattn.agents.cloning import legal_along, sequence
from flexattn.agents.legal import LegalSets
from flexattn.agents.masked import masked_log_softmax, unpack_legal
from flexattn.agents.networks import Actor, Critics, Foresight, Sequence, Sizes
from flexattn.agents.policy import Student
from flexattn.config import Config
from flexattn.env.core import Core
from flexattn.env.world import World


@pytest.fixture(scope="module")
def actor(world: World, config: Config) -> Actor:
    torch.manual_seed(0)
    return Actor(Sizes.of(world), config.env, config.agent, config.attention)


def test_no_method_of_the_actor_accepts_the_privileged_channel() -> None:
    for name, method in inspect.getmembers(Actor, inspect.isfunction):
        if name in vars(Actor):
            assert "Foresight" not in str(inspect.signature(method)), name
    assert "Foresight" in str(inspect.signature(Critics.features))


def test_changing_the_future_changes_the_critics_and_no_output_of_the_actor(
    world: World, config: Config, actor: Actor
) -> None:
    core = Core(world, 2, seed=1)
    core.reset(record_indices=[int(world.train[0])] * 2)
    other = int(
        next(
            r
            for r in world.train
            if world.records[r].answer[1] != world.records[world.train[0]].answer[1]
        )
    )
    student = Student(actor)
    decided = student(core.observe(), core.legal_packed(), np.ones(2, bool))
    seen = core.observe()
    core.state.record[1] = other  # another teacher answer behind the same history and question
    again = student(core.observe(), core.legal_packed(), np.ones(2, bool))
    for before, after in zip(decided, again):
        assert (before == after).all()
    future = core.privileged()
    assert (future.future[0] != future.future[1]).any()
    torch.manual_seed(1)
    critics = Critics(Sizes.of(world), config.env, config.agent)
    question = torch.from_numpy(seen.question.astype(np.int64))
    state = Sequence(
        torch.zeros(2, 1, dtype=torch.int64),
        torch.zeros(2, 1, config.env.sketch_dim),
        question,
        torch.zeros(2, 1, dtype=torch.int64),
    )
    ahead = np.concatenate([future.target[:, None], future.future], 1)[:, None].astype(np.int64)
    rows = torch.ones(2, 1, dtype=torch.bool)
    caps = torch.zeros(2, 1, len(config.env.hit_cap_chars))
    foresight = Foresight(torch.from_numpy(ahead), torch.zeros(2, 1), caps)
    h = critics.features(state, foresight, rows).char
    assert not torch.allclose(h[:, 0], h[:, 1])


def test_one_pass_over_an_answer_gives_the_probabilities_of_single_steps(
    world: World, actor: Actor
) -> None:
    core = Core(world, 1)
    core.reset(record_indices=[int(world.train[3])])
    answer = world.answer(int(world.train[3]))[None]
    question = core.observe().question
    settings = world.settings
    seen = sequence(
        answer, question, settings.max_history, settings.sketch_dim, torch.device("cpu")
    )
    legal = unpack_legal(legal_along(answer, np.array([answer.shape[1]]), world.mask), world.size)
    with torch.no_grad():
        token, fixed = actor.embed(seen)
        log_h = masked_log_softmax(actor.history_logits(token, fixed), None)
        states = actor.state(actor.encoder.forward_multi(token, actor.windows), fixed)
        log_a = masked_log_softmax(actor.char_head(states), legal)
    student = Student(actor)
    for t in range(answer.shape[1]):
        assert (unpack_legal(core.legal_packed(), world.size)[0] == legal[0, t]).all()
        decided = student(core.observe(), core.legal_packed(), np.ones(1, bool))
        choice = int(log_h[0, t].argmax())
        assert decided.history[0] == choice
        expected = log_a[choice, 0, t].exp().max()
        assert decided.probability[0] == pytest.approx(float(expected), rel=2e-4)
        core.step(decided.history, decided.cap, answer[:, t])


def test_critics_are_two_and_the_taken_row_is_one_of_all(world: World, config: Config) -> None:
    torch.manual_seed(0)
    critics = Critics(Sizes.of(world), config.env, config.agent)
    n = 3
    state = Sequence(
        torch.zeros(n, 1, dtype=torch.int64),
        torch.zeros(n, 1, config.env.sketch_dim),
        torch.zeros(n, config.env.question_chars, dtype=torch.int64),
        torch.zeros(n, 1, dtype=torch.int64),
    )
    ahead = torch.zeros(n, 1, config.env.future_chars + 1, dtype=torch.int64)
    core = Core(world, n, seed=0)
    core.reset()
    legal = LegalSets.of(core.legal_packed(), world.size, torch.device("cpu"))
    h = critics.features(
        state,
        Foresight(ahead, torch.zeros(n, 1), torch.zeros(n, 1, len(config.env.hit_cap_chars))),
        torch.ones(n, 1, dtype=torch.bool),
    ).char
    q = critics.char_values(h, legal)
    assert not torch.allclose(q[0], q[1])
    taken = torch.from_numpy(core.teacher().astype(np.int64))
    place, found = legal.find(taken)
    assert found.all()
    assert torch.allclose(critics.char_value(h, taken), q[:, place], atol=1e-6)
