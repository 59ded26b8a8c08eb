"""Teacher answers as a batch for cloning, with noise in the history that the student will see.

A student that has only seen perfect histories can't come back after a wrong character; so a share
of the history's characters is replaced by random ones, and the label stays the teacher's character
at that place. A teacher's character that the mask forbids there is rejected and counted. Where the
corpus carries the teacher's probabilities they can be the label instead, over A(s) alone.
Source: DAgger, Ross et al. 2011, arXiv:1011.0686.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flexattn.agents.legal import LegalSets
from flexattn.agents.networks import Sequence
from flexattn.agents.prior import CountPrior
from flexattn.env.mask import MaskTables, fill_legal
from flexattn.env.sketch import sketch_sequence
from flexattn.env.tables import AnswerTables
from flexattn.env.vocabulary import END, PAD
from flexattn.lexicon.compiled import compiled


@dataclass(frozen=True)
class CloneBatch:
    """Teacher answers with noise in their history.

    Attributes:
      seen: what the actor sees, [B, T].
      window: one Lh a position, [B, T] int32.
      rows: positions that exist, [B, T] bool.
      legal: A(s) of those positions.
      teacher: pair of the teacher's character in `legal`, [N] int64.
      accepted: it is legal there, [N] bool.
      share: the teacher's probability of every legal pair, [J], each state's sum is 1; None: all
        of it on `teacher`.
      prior: log p_counts of every legal pair, [J], see `CountPrior`; None: there is none.
    """

    seen: Sequence
    window: Tensor
    rows: Tensor
    legal: LegalSets
    teacher: Tensor
    accepted: Tensor
    share: Tensor | None = None
    prior: Tensor | None = None


@compiled(allocates=True)
def _legal_along(written: Any, lengths: Any, rows: Any, M: Any) -> None:
    """A(s) before every character of given histories, [B, T + 1, W] into `rows`."""
    for b in range(written.shape[0]):
        state = np.int32(0)
        for t in range(lengths[b] + 1):
            fill_legal(rows[b, t], written[b], t, state, M)
            if t < lengths[b]:
                state = M.goto[state, written[b, t]]


def legal_along(written: np.ndarray, lengths: np.ndarray, tables: MaskTables) -> np.ndarray:
    """A(s) at every step of histories that were not stepped through an environment.

    Args:
      written: ids, [B, T] int32, anything past a row's length.
      lengths: characters of each row, [B].
      tables: the environment's mask tables.

    Returns: packed rows, [B, T + 1, W] uint64; entry t is before character t.
    """
    b, t = written.shape
    rows = np.zeros((b, t + 1, len(tables.writable)), np.uint64)
    _legal_along(
        np.ascontiguousarray(written, np.int32), np.asarray(lengths, np.int64), rows, tables
    )
    return rows


@compiled()
def _tell(
    start: Any, ids: Any, place: Any, soft_start: Any, soft_id: Any, soft_p: Any, told: Any
) -> None:
    """The teacher's probabilities at `place` of each state, -1 for none, onto its legal pairs."""
    for n in range(place.shape[0]):
        if place[n] < 0:
            continue
        first, last = soft_start[place[n]], soft_start[place[n] + 1]
        k, mass = first, 0.0
        for j in range(start[n], start[n + 1]):  # both lists of ids increase
            while k < last and soft_id[k] < ids[j]:
                k += 1
            if k < last and soft_id[k] == ids[j]:
                mass += soft_p[k]
        if mass <= 0.0:
            continue
        k = first
        for j in range(start[n], start[n + 1]):
            told[j] = 0.0
            while k < last and soft_id[k] < ids[j]:
                k += 1
            if k < last and soft_id[k] == ids[j]:
                told[j] = soft_p[k] / mass


def teacher_probabilities(
    legal: LegalSets, teacher: torch.Tensor, place: np.ndarray, answers: AnswerTables
) -> torch.Tensor:
    """The teacher's probability of every legal pair, [J] float32, each state's sum is 1.

    Args:
      legal: A(s) of N states.
      teacher: pair of the teacher's own character, [N]; it gets all where nothing is known.
      place: place of each state's target in `answers`, -1 past the end, [N] int64.
      answers: the tables that hold the corpus's probabilities.
    """
    told = np.zeros(len(legal.ids), np.float32)
    told[teacher.cpu().numpy()] = 1.0
    _tell(
        legal.start.cpu().numpy(), legal.ids.cpu().numpy(), np.asarray(place, np.int64),
        answers.soft_start, answers.soft_id, answers.soft_p, told,
    )  # fmt: skip
    return torch.from_numpy(told).to(legal.ids.device)


class TeacherAnswers:
    """The train answers as padded ids, ready to be drawn from."""

    def __init__(self, answers: list[np.ndarray], questions: list[list[np.ndarray]]) -> None:
        """Take each answer's ids and its encoded train questions."""
        self.lengths = np.array([len(ids) for ids in answers])
        self.ids = np.full((len(answers), int(self.lengths.max())), PAD, np.int32)
        for row, ids in enumerate(answers):
            self.ids[row, : len(ids)] = ids
        self.questions = questions
        self._order = np.zeros(0, np.int64)

    def draw(self, rng: np.random.Generator, answers: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows and encoded questions; every answer comes once before one comes twice."""
        while len(self._order) < answers:
            self._order = np.concatenate([self._order, rng.permutation(len(self.lengths))])
        rows, self._order = self._order[:answers], self._order[answers:]
        picks = [self.questions[row][rng.integers(len(self.questions[row]))] for row in rows]
        return rows, np.stack(picks)

    @property
    def order(self) -> np.ndarray:
        """Rows that are still to come in this pass, for a checkpoint."""
        return self._order

    @order.setter
    def order(self, rows: np.ndarray) -> None:
        self._order = np.asarray(rows, np.int64)

    def batch(
        self,
        rng: np.random.Generator,
        answers: int,
        *,
        noise: float,
        alphabet: np.ndarray,
        tables: MaskTables,
        actions: int,
        windows: tuple[int, ...],
        max_history: int,
        sketch_dim: int,
        device: torch.device,
        share: Callable[[np.ndarray], np.ndarray] = lambda rows: rows,
        chances: np.ndarray | None = None,
        probabilities: tuple[AnswerTables, np.ndarray] | None = None,
        prior: CountPrior | None = None,
    ) -> CloneBatch:
        """Draw answers and put noise into their histories.

        Args:
          rng: source of the draws.
          answers: B.
          noise: share of history characters replaced, 0..1.
          alphabet: ids that a replacement may be, [K].
          tables: the environment's mask tables.
          actions: |V|.
          windows: choices of Lh, one is drawn for each position.
          max_history: characters of an observation; the sketch counts what lies further back.
          sketch_dim: S.
          device: where the batch goes.
          share: picks the rows of the whole batch that are built, [B] -> [b]; all is drawn for all.
          chances: of each window, sum 1; None: all alike.
          probabilities: tables with the teacher's probabilities, and the record of each answer
            there; None: the teacher's character alone is the label.
          prior: counts under the network.
        """
        rows, questions = self.draw(rng, answers)
        lengths = self.lengths[rows]
        steps = int(lengths.max())
        teacher = self.ids[rows, :steps]
        replaced = rng.random(teacher.shape) < noise
        written = np.where(replaced, rng.choice(alphabet, teacher.shape), teacher).astype(np.int32)
        place = np.arange(steps + 1)
        exists = place <= lengths[:, None]  # [B, T + 1]
        window = rng.choice(np.asarray(windows, np.int32), exists.shape, p=chances)
        whole = (rows, lengths, teacher, written, questions, exists, window)
        rows, lengths, teacher, written, questions, exists, window = map(share, whole)
        legal = LegalSets.of(legal_along(written, lengths, tables)[exists], actions, device)
        target = np.full(exists.shape, END, np.int64)
        target[:, :steps] = np.where(place[:steps] < lengths[:, None], teacher, END)
        pair, accepted = legal.find(torch.from_numpy(target[exists]).to(device))
        seen = sequence(written, questions, max_history, sketch_dim, device)
        told = None
        if probabilities is not None:
            soft, records = probabilities
            first = soft.start[records[rows]][:, None]
            at = np.where(place < lengths[:, None], first + place, -1)
            told = teacher_probabilities(legal, pair, at[exists], soft)
        return CloneBatch(
            seen=seen,
            window=torch.from_numpy(window).to(device),
            rows=torch.from_numpy(exists).to(device),
            legal=legal,
            teacher=pair,
            accepted=accepted,
            share=told,
            prior=None
            if prior is None
            else prior.answers(written, questions, exists, window, legal),
        )


def sequence(
    written: np.ndarray,
    questions: np.ndarray,
    max_history: int,
    sketch_dim: int,
    device: torch.device,
) -> Sequence:
    """What an actor sees before each character of whole answers and after the last.

    Args:
      written: ids, [B, T] int32.
      questions: encoded, [B, Q].
      max_history: characters of an observation.
      sketch_dim: S.
      device: where it goes.

    Returns: a `Sequence` of [B, T + 1].
    """
    answers, steps = written.shape
    longer = np.full((answers, steps + 1), PAD, np.int32)
    longer[:, :steps] = written
    token = np.full((answers, steps + 1), PAD, np.int64)
    token[:, 1:] = written
    step = np.broadcast_to(np.arange(steps + 1), token.shape)
    return Sequence(
        token=torch.from_numpy(token).to(device),
        sketch=torch.from_numpy(sketch_sequence(longer, max_history, sketch_dim)).to(device),
        question=torch.from_numpy(questions.astype(np.int64)).to(device),
        step=torch.from_numpy(step.copy()).to(device),
    )
