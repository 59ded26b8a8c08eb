"""Every decision behind answers that are written side by side, and the answers made of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from flexattn.agents.decision import Decision
from flexattn.env.freehand import Freehand
from flexattn.generation.request import Request

Ids = npt.NDArray[np.int32]
Options = list[tuple[str, float]]


@dataclass(frozen=True)
class Answer:
    """One written answer and the decisions behind it, T steps.

    Attributes:
      request: what was asked.
      subjects: catalog terms that the question names.
      text: the answer.
      ended: whether the student ended it, which is a step of its own.
      history_chars, cap_chars: Lh and Lp of each step, characters.
      n_legal: |A(s)| of each step.
      probability: pi(a|s) of each step.
      kept: mass that the strategy kept of pi(.|s); None where it cuts nothing.
      options: characters that the strategy left at each step with their probability under pi,
        likeliest first, "" for the end; None where it cuts nothing.
      score: what an answer was preferred by, larger is better; None where it had no rival.
      rank: place among the answers to its request, 0 for the one that is given.
    """

    request: Request
    subjects: list[str]
    text: str
    ended: bool
    history_chars: list[int]
    cap_chars: list[int]
    n_legal: list[int]
    probability: list[float]
    kept: list[float] | None = None
    options: list[Options] | None = None
    score: float | None = None
    rank: int = 0

    @property
    def log_likelihood(self) -> float:
        """Log probability of the whole answer under pi, nats."""
        return float(np.log(self.probability).sum())


@dataclass
class Trace:
    """Decisions of R answers, column by column.

    Attributes:
      history, cap: indices into H and P, [R, limit + 1] int32.
      n_legal: |A(s)|, [R, limit + 1] int32.
      probability, kept: [R, limit + 1] float64.
      length: steps taken, [R] int32.
      ended: which answers the student ended, [R] bool.
    """

    rows: int
    limit: int
    options: list[list[Options]] = field(init=False)

    def __post_init__(self) -> None:
        """Room for `limit` characters and the end of each answer."""
        shape = (self.rows, self.limit + 1)
        self.history, self.cap, self.n_legal = (np.zeros(shape, np.int32) for _ in range(3))
        self.probability, self.kept = (np.zeros(shape, np.float64) for _ in range(2))
        self.length = np.zeros(self.rows, np.int32)
        self.ended = np.zeros(self.rows, np.bool_)
        self.options = [[] for _ in range(self.rows)]

    def note(
        self,
        rows: npt.NDArray[np.int64],
        decision: Decision,
        n_legal: Ids,
        options: Sequence[Options] | None = None,
    ) -> None:
        """Add one step of the answers `rows`; every array has one value for each of all R."""
        at = rows, self.length[rows]
        self.history[at] = decision.history[rows]
        self.cap[at] = decision.cap[rows]
        self.n_legal[at] = n_legal[rows]
        self.probability[at] = decision.probability[rows]
        self.kept[at] = decision.kept[rows]
        self.length[rows] += 1
        for row, left in zip(rows.tolist(), options or ()):
            self.options[row].append(left)

    def take(self, rows: npt.NDArray[np.int64]) -> None:
        """Put answer `rows[i]` in place i; one answer may come to stand in several places."""
        for name in ("history", "cap", "n_legal", "probability", "kept", "length", "ended"):
            setattr(self, name, getattr(self, name)[rows])
        self.options = [list(self.options[row]) for row in rows.tolist()]

    def answer(self, paper: Freehand, row: int, request: Request, *, cut: bool) -> Answer:
        """One finished answer; `cut` says whether the strategy leaves characters out."""
        settings, n = paper.world.settings, int(self.length[row])
        return Answer(
            request=request,
            subjects=paper.world.questions.find(request.question),
            text=paper.text(row),
            ended=bool(self.ended[row]),
            history_chars=[settings.history_chars[i] for i in self.history[row, :n]],
            cap_chars=[settings.hit_cap_chars[i] for i in self.cap[row, :n]],
            n_legal=self.n_legal[row, :n].tolist(),
            probability=self.probability[row, :n].tolist(),
            kept=self.kept[row, :n].tolist() if cut else None,
            options=self.options[row] if self.options[row] else None,
        )
