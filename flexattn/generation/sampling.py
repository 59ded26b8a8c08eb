"""Answers written one character at a time, all requests side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from flexattn.agents.decision import Choose, Decision
from flexattn.env.freehand import Freehand
from flexattn.env.spec import Observation
from flexattn.env.vocabulary import END, Vocabulary
from flexattn.env.world import World
from flexattn.evaluation.decoding import Decoding, pick, reshape
from flexattn.generation.request import Request
from flexattn.generation.trace import Answer, Options, Trace

CUTTING = ("top_k", "top_p", "joint")


class Speaker(Protocol):
    """Decides every step of R answers, from the first to the last."""

    def __call__(
        self, seen: Observation, legal: npt.NDArray[np.uint64], active: npt.NDArray[np.bool_]
    ) -> Decision:
        """A decision for the active answers."""

    def take(self, rows: npt.NDArray[np.int64]) -> None:
        """Answer `rows[i]` now stands in place i; one may stand in several."""


class Voice(Protocol):
    """Makes speakers of one student."""

    def __call__(self, choose: Choose, answers: int) -> Speaker:
        """A speaker for R answers whose characters `choose` picks from pi(.|s)."""


def write(
    world: World,
    voice: Voice,
    requests: Sequence[Request],
    decoding: Decoding,
    seed: int,
    *,
    copies: int = 1,
    alternatives: int = 0,
) -> list[list[Answer]]:
    """Answer every request, by one strategy.

    Args:
      world: vocabulary, masks, question encoder.
      voice: who writes.
      requests: what is asked, N.
      decoding: how a character is picked.
      seed: of the draws; a request's answers depend on it, on the request and on the draw alone.
      copies: answers to each request, C.
      alternatives: likeliest characters that each step keeps for a reader; where the strategy cuts
        the distribution, what it left is kept in any case.

    Returns: [N][C] answers.
    """
    asked = [request for request in requests for _ in range(copies)]
    limit = world.longest_answer + world.settings.slack
    cut = decoding.strategy in CUTTING
    picker = _Picker(decoding, np.stack([
        request.uniforms(seed, n % copies, limit + 1) for n, request in enumerate(asked)
    ]))  # fmt: skip
    speaker = voice(picker, len(asked))
    paper = Freehand(world, [request.question for request in asked], limit)
    trace = Trace(len(asked), limit)
    while not paper.done.all():
        active = ~paper.done
        rows = np.flatnonzero(active)
        picker.at(rows, trace.length[rows])
        decision = speaker(paper.observe(), paper.legal, active)
        options = None
        if cut:
            options = likeliest(picker.pi, picker.left > 0, world.size, world.vocabulary)
        elif alternatives:
            options = likeliest(picker.pi, picker.pi > 0, alternatives, world.vocabulary)
        trace.note(rows, decision, paper.n_legal, options)
        trace.ended[rows] = decision.char[rows] == END
        paper.write(decision.char)
    answers = [trace.answer(paper, row, request, cut=cut) for row, request in enumerate(asked)]
    return [answers[n : n + copies] for n in range(0, len(asked), copies)]


class _Picker:
    """Picks by a strategy with each answer's own random numbers, and remembers what it saw."""

    def __init__(self, decoding: Decoding, uniforms: npt.NDArray[np.float64]) -> None:
        self.decoding, self.uniforms = decoding, uniforms
        self.level: npt.NDArray[np.float64] = uniforms[:, 0]
        self.pi: npt.NDArray[np.float64] = np.zeros((0, 0))
        self.left: npt.NDArray[np.float64] = np.zeros((0, 0))

    def at(self, rows: npt.NDArray[np.int64], steps: npt.NDArray[np.int32]) -> None:
        """Turn to the next step of the answers `rows`."""
        self.level = self.uniforms[rows, steps]

    def __call__(
        self, pi: npt.NDArray[np.float64]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        self.pi = pi
        self.left, kept = reshape(pi, self.decoding)
        return pick(self.left, self.level), kept


def likeliest(
    pi: npt.NDArray[np.float64], among: npt.NDArray[np.bool_], most: int, names: Vocabulary
) -> list[Options]:
    """The likeliest characters of each row and their probability, "" for the end.

    Args:
      pi: [N, |V|], sums to 1.
      among: which may be named, [N, |V|].
      most: how many a row at most.
      names: of the characters.
    """
    made: list[Options] = []
    for row, may in zip(pi, among):
        ids = np.flatnonzero(may)
        ids = ids[np.argsort(-row[ids], kind="stable")][:most]
        made.append([(names.char(n), float(row[n])) for n in ids.tolist()])
    return made
