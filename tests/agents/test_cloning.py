"""Labels of cloning: the teacher's character, or its probabilities over the legal ones."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from flexattn.agents.buffer import AnswerBuffer
from flexattn.agents.cloning import CloneBatch, TeacherAnswers
from flexattn.agents.networks import Sizes
from flexattn.agents.policy import Teacher
from flexattn.agents.sac import Learner
from flexattn.config import Config, resolve_path
from flexattn.corpus import parse_corpus
from flexattn.env.core import Core
from flexattn.env.world import World
from flexattn.experience import write_answers
from flexattn.lexicon.entries import load_catalog

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def told(config: Config) -> World:
    """The small world; the first train record carries the teacher's probabilities."""
    lines = resolve_path(config.corpus.path).read_bytes().splitlines(keepends=True)[:24]
    for n, line in enumerate(lines[:3]):
        record = json.loads(line)
        answer = record["answer"]
        # half on the teacher's character, the rest on one that follows it in the answer
        record["logprobs"] = [
            {c: float(np.log(0.5)), answer[(t + 1) % len(answer)]: float(np.log(0.25))}
            if c != answer[(t + 1) % len(answer)]
            else {c: float(np.log(0.5))}
            for t, c in enumerate(answer)
        ]
        lines[n] = json.dumps(record, ensure_ascii=False).encode() + b"\n"
    few = parse_corpus(b"".join(lines), config.corpus.path)
    return World.build(few, load_catalog(resolve_path(config.lexicon.catalog)), config)


def _batch(world: World, *, noise: float = 0.0, knows: bool = True) -> CloneBatch:
    answers = TeacherAnswers(
        [world.answer(record) for record in world.train],
        [[world.question_ids[world.question_start[record]]] for record in world.train],
    )
    settings = world.settings
    return answers.batch(
        np.random.default_rng(0), len(world.train), noise=noise, alphabet=np.arange(10, 30),
        tables=world.mask, actions=world.size, windows=settings.history_chars,
        max_history=settings.max_history, sketch_dim=settings.sketch_dim, device=CPU,
        probabilities=(world.answers, world.train) if knows else None,
    )  # fmt: skip


def test_every_state_gets_a_distribution_over_its_legal_characters(told: World) -> None:
    batch = _batch(told)
    assert batch.share is not None
    assert torch.allclose(batch.legal.sum(batch.share), torch.ones(len(batch.teacher)))
    own = batch.share[batch.teacher]
    known = told.answers.has_soft[told.train].sum()
    assert known == 3
    # records without probabilities, and every end of an answer, keep the character alone
    assert (own == 1.0).sum() > (own < 1.0).sum() > 30
    # 0.5 against 0.25: two thirds on the teacher's character where both are legal
    assert ((own - 2 / 3).abs() < 1e-6).sum() + (own == 1.0).sum() == batch.accepted.sum()


def test_cloning_follows_the_teachers_distribution(told: World, config: Config) -> None:
    torch.manual_seed(0)
    learner = Learner(config, Sizes.of(told), CPU)
    batch = _batch(told)
    for _ in range(60):
        learner.clone(batch, 5e-3)
    assert batch.share is not None
    split = (batch.share[batch.teacher] < 1.0) & batch.accepted
    with torch.no_grad():
        token, fixed = learner.actor.embed(batch.seen)
        state = learner.actor.state(
            learner.actor.encoder(token, batch.window)[batch.rows], fixed[batch.rows]
        )
        pi = learner.actor.char_log_pi(state.unsqueeze(0), batch.legal)[0].exp()
    assert float(pi[batch.teacher][split].mean()) == pytest.approx(2 / 3, abs=0.1)
    assert float(pi[batch.teacher][~split & batch.accepted].mean()) > 0.8


def test_windows_come_by_their_chances(told: World) -> None:
    answers = TeacherAnswers(
        [told.answer(record) for record in told.train],
        [[told.question_ids[told.question_start[record]]] for record in told.train],
    )
    settings = told.settings
    made = answers.batch(
        np.random.default_rng(0), 12, noise=0.0, alphabet=np.arange(10, 30), tables=told.mask,
        actions=told.size, windows=settings.history_chars, max_history=settings.max_history,
        sketch_dim=settings.sketch_dim, device=CPU, chances=np.array([0.7, 0.3, 0.0, 0.0]),
    )  # fmt: skip
    shares = torch.bincount(made.window.flatten(), minlength=7).double() / made.window.numel()
    assert shares[2].item() == pytest.approx(0.7, abs=0.05)
    assert shares[4] == shares[6] == 0.0


def test_an_answer_whose_character_the_mask_forbids_is_known_and_can_be_left_out(
    world: World,
) -> None:
    core = Core(world, 3, gain_by_cap=True)
    settings = world.settings
    windows = np.full((len(settings.history_chars), len(settings.hit_cap_chars)), 1 / 16)
    records = np.array([*world.train[:2], world.heldout[0]])
    teacher = Teacher(core, windows, np.random.default_rng(0))
    rollout = write_answers(core, records, np.zeros(3, np.int64), teacher, None, None)
    # train answers are legal under their own guide, a held-out answer's bigrams are not
    assert teacher.forbade.tolist() == [False, False, True]
    assert teacher.relabelled >= teacher.forbade.sum()
    kept = rollout.answers.only(~teacher.forbade)
    assert kept.record.tolist() == records[:2].tolist()
    buffer = AnswerBuffer(
        8, kept.emitted.shape[1], words=kept.legal.shape[2], caps=kept.gain_by_cap.shape[2],
        question_chars=kept.question.shape[1],
    )  # fmt: skip
    buffer.add(kept)
    assert len(buffer) == 2
