"""What every choice was worth to the critics: Q = Q_0(s, a) + Q_h(s, Lh) + Q_p(s, Lp) step by step.

The student answers a question of the corpus greedily. Critics look at the teacher's answer, so a
question that belongs to no record has no values. Q is the smaller twin, in reward units from this
step to the end of the answer; under `critic_target: sum` only the sum of the parts is learned.
Takes a domain and a checkpoint, gives figures and a rich table; prints nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from rich.table import Table

from flexattn.agents.batches import Batch, Batches
from flexattn.agents.checkpoint import Checkpoint
from flexattn.agents.masked import entropy
from flexattn.agents.networks import Sizes
from flexattn.agents.policy import Student
from flexattn.agents.prior import CountPrior
from flexattn.agents.sac import Learner
from flexattn.domain import Domain
from flexattn.env.core import Core
from flexattn.env.vocabulary import END
from flexattn.env.world import World
from flexattn.errors import CheckpointError, FlexAttnError
from flexattn.experience import write_answers

END_MARK = "(end)"
TOP = 5  # characters shown a step


@dataclass(frozen=True)
class Candidate:
    """One of the likeliest characters of a step: its probability and its Q_0."""

    a: str
    p: float
    Q_0: float


@dataclass(frozen=True)
class StepValues:
    """One step; keys of the mappings are characters of history or cap.

    Attributes:
      step: from 1.
      a: character written; target: the teacher's.
      Lh, Lp: what was chosen, characters.
      n_legal: |A(s)|.
      Q_0: worth of the written character, reward units.
      Q_h, Q_p: worth of every choice, reward units.
      pi_h, pi_p: probability of every choice; pi_p under the chosen Lh.
      H_h, H_p, H_char: entropies of the three heads there, nats.
      top: the likeliest characters.
    """

    step: int
    a: str
    target: str
    Lh: int
    Lp: int
    n_legal: int
    Q_0: float
    Q_h: dict[str, float]
    Q_p: dict[str, float]
    pi_h: dict[str, float]
    pi_p: dict[str, float]
    H_h: float
    H_p: float
    H_char: float
    top: list[Candidate]

    def row(self) -> dict[str, object]:
        """The figures as JSON takes them, rounded to 6 decimals."""
        return {key: _rounded(value) for key, value in asdict(self).items()}


def question_of(world: World, question: str) -> tuple[int, int]:
    """Record and number of a question of the corpus.

    Raises: FlexAttnError where no record asks it.
    """
    for record, source in enumerate(world.records):
        if question in source.questions:
            return record, source.questions.index(question)
    raise FlexAttnError(
        f"--values: 「{question}」 is no question of the run's corpus, and critics need the "
        f"teacher's answer; ask it as corpus.jsonl does, or use --explain, which needs none"
    )


def load_learner(domain: Domain, saved: Checkpoint) -> Learner:
    """Actor and critics with a checkpoint's weights.

    Raises: CheckpointError where it holds other networks.
    """
    torch.set_num_threads(domain.config.train.threads)
    torch.manual_seed(0)
    learner = Learner(domain.config, Sizes.of(domain.world), torch.device("cpu"))
    learner.actor.prior = CountPrior.of(domain.config, domain.world)
    try:
        learner.actor.load_state_dict(saved.module("actor"))
        learner.critics.load_state_dict(saved.module("critics"))
    except RuntimeError:
        raise CheckpointError(
            f"checkpoint step {saved.step}: holds no actor and critics that write characters, "
            f"expected those of stage C; use the version and the stage that trained it"
        ) from None
    return learner


@torch.no_grad()
def answer_values(world: World, learner: Learner, question: str) -> list[StepValues]:
    """The greedy answer to a question of the corpus, a row a step."""
    record, number = question_of(world, question)
    core = Core(world, 1, gain_by_cap=True)
    rollout = write_answers(
        core, np.array([record]), np.array([number]), Student(learner.actor), None, None
    )
    batch = Batches(world, torch.device("cpu"), learner.actor.prior).of(rollout.answers)
    return values_of(world, learner, batch, rollout.answers.teacher[0])


def values_of(
    world: World, learner: Learner, batch: Batch, teacher: np.ndarray
) -> list[StepValues]:
    """Every step of a batch of one answer; `teacher` holds the target of each step, [T]."""
    settings = world.settings
    log_h, log_p, log_a = learner.policies(batch)
    h = learner.critics.features(batch.seen, batch.foresight, batch.rows)
    q0 = learner.critics.char_values(h.char, batch.legal).amin(0)
    qh, qp = (part.amin(0) for part in learner.critics.window_values(h, batch.history_cost))
    char = -batch.legal.sum(log_a.exp() * log_a)  # [C, M]
    pairs, start = batch.legal.ids, batch.legal.start.tolist()
    rows = []
    for t, (history, cap, taken) in enumerate(
        zip(batch.history_choice.tolist(), batch.cap_choice.tolist(), batch.taken.tolist())
    ):
        span = slice(start[t], start[t + 1])
        pi = log_a[history, span].exp()
        likeliest = pi.argsort(descending=True, stable=True)[:TOP].tolist()
        own = int((pairs[span] == taken).nonzero()[0])
        rows.append(StepValues(
            step=t + 1, a=_char(world, taken), target=_char(world, int(teacher[t])),
            Lh=settings.history_chars[history], Lp=settings.hit_cap_chars[cap],
            n_legal=start[t + 1] - start[t], Q_0=float(q0[span][own]),
            Q_h=_named(settings.history_chars, qh[t]), Q_p=_named(settings.hit_cap_chars, qp[t]),
            pi_h=_named(settings.history_chars, log_h[t].exp()),
            pi_p=_named(settings.hit_cap_chars, log_p[history, t].exp()),
            H_h=float(entropy(log_h[t])), H_p=float(entropy(log_p[history, t])),
            H_char=float(char[history, t]),
            top=[
                Candidate(_char(world, int(pairs[span][j])), float(pi[j]), float(q0[span][j]))
                for j in likeliest
            ],
        ))  # fmt: skip
    return rows


def table(question: str, rows: Sequence[StepValues]) -> Table:
    """A line a step; the chosen Lh and Lp stand in brackets beside their rivals' worth."""
    made = Table(title=question, show_edge=False, pad_edge=False)
    names = ("step", "a", "target", "Q_0", "Q_h by Lh", "Q_p by Lp", "H h/p/char", "legal", "top")
    for name in names:
        numbers = name in ("step", "Q_0", "legal")
        made.add_column(name, justify="right" if numbers else "left")
    for row in rows:
        made.add_row(
            str(row.step), row.a, row.target, f"{row.Q_0:.3f}", _choices(row.Q_h, row.Lh),
            _choices(row.Q_p, row.Lp), f"{row.H_h:.2f}/{row.H_p:.2f}/{row.H_char:.2f}",
            str(row.n_legal), " ".join(f"{c.a} {c.p:.3f}" for c in row.top[:3]),
        )  # fmt: skip
    return made


def _choices(values: dict[str, float], chosen: int) -> str:
    return " ".join(
        f"\\[{name} {value:.3f}]" if name == str(chosen) else f"{name} {value:.3f}"
        for name, value in values.items()
    )


def _named(choices: Sequence[int], values: torch.Tensor) -> dict[str, float]:
    return {str(choice): value for choice, value in zip(choices, values.tolist())}


def _char(world: World, char: int) -> str:
    return END_MARK if char == END else world.vocabulary.decode([char])


def _rounded(value: object) -> object:
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    return [_rounded(inner) for inner in value] if isinstance(value, list) else value
