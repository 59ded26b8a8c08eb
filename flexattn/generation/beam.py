"""Beam search for the likeliest answer under A(s): of all continuations the B likeliest go on.

An answer counts by the probability of all its characters, its end among them, and a finished answer
keeps its place as long as no B others are likelier. With B = 1 this is greedy; with B as large as
the number of answers it is exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from flexattn.env.freehand import Freehand
from flexattn.env.vocabulary import END
from flexattn.env.world import World
from flexattn.generation.request import Request
from flexattn.generation.sampling import Voice, likeliest
from flexattn.generation.trace import Answer, Trace


def search(
    world: World,
    voice: Voice,
    requests: Sequence[Request],
    beams: int,
    *,
    alternatives: int = 0,
) -> list[list[Answer]]:
    """The `beams` likeliest answers that the search finds to each request, likeliest first.

    Args:
      world: vocabulary, masks, question encoder.
      voice: who writes; its Lh and Lp are taken as it decides them.
      requests: what is asked, N.
      beams: B, answers that go on.
      alternatives: likeliest characters that each step keeps for a reader.

    Returns: [N][<= B] answers with their log probability, nats, as score.
    """
    count = len(requests) * beams
    limit = world.longest_answer + world.settings.slack
    paper = Freehand(world, [r.question for r in requests for _ in range(beams)], limit)
    trace = Trace(count, limit)
    seen = _Seen()
    speaker = voice(seen, count)
    score = np.full((len(requests), beams), -np.inf)
    score[:, 0] = 0.0  # all places begin alike, so only one of them may count
    paper.done[score.ravel() == -np.inf] = True
    while not paper.done.all():
        active = ~paper.done
        rows = np.flatnonzero(active)
        decision = speaker(paper.observe(), paper.legal, active)
        options = likeliest(seen.pi, seen.pi > 0, alternatives, world.vocabulary)
        trace.note(rows, decision, paper.n_legal, options if alternatives else None)
        parent, char, score = _best(score, seen.pi, rows, ~active)
        probability = np.zeros((count, world.size))
        probability[rows] = seen.pi
        goes_on = active[parent]
        paper.take(parent)
        trace.take(parent)
        speaker.take(parent)
        paper.done |= score.ravel() == -np.inf
        goes_on &= ~paper.done
        on = np.flatnonzero(goes_on)
        trace.probability[on, trace.length[on] - 1] = probability[parent[on], char[on]]
        trace.ended[on] = char[on] == END
        paper.write(char)
    return [
        [
            replace(trace.answer(paper, n * beams + place, request, cut=False),
                    score=float(score[n, place]), rank=rank)
            for rank, place in enumerate(np.argsort(-score[n], kind="stable").tolist())
            if score[n, place] > -np.inf
        ]
        for n, request in enumerate(requests)
    ]  # fmt: skip


class _Seen:
    """Stands in for a picker: lets the search see pi(.|s)."""

    def __init__(self) -> None:
        self.pi: npt.NDArray[np.float64] = np.zeros((0, 0))

    def __call__(
        self, pi: npt.NDArray[np.float64]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        self.pi = pi
        return pi.argmax(-1), np.ones(len(pi))


def _best(
    score: npt.NDArray[np.float64],
    pi: npt.NDArray[np.float64],
    rows: npt.NDArray[np.int64],
    finished: npt.NDArray[np.bool_],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32], npt.NDArray[np.float64]]:
    """The B best continuations of each request.

    Args:
      score: log probability so far, [N, B]; -inf where a place is empty.
      pi: of the answers that go on, [len(rows), |V|].
      rows: which of all N * B these are.
      finished: which answers don't go on, [N * B].

    Returns: (place that each goes on from, [N * B]; its character, END where none is written;
      log probability, [N, B]). Of equals the lower place and character come first.
    """
    requests, beams = score.shape
    width = pi.shape[1]
    with np.errstate(divide="ignore"):
        step = np.full((requests * beams, width), -np.inf)
        step[rows] = np.log(pi)
    # a finished answer goes on as itself, by the one entry that a going one never has
    total = np.concatenate([step, np.where(finished, 0.0, -np.inf)[:, None]], 1)
    total = (total + score.reshape(-1, 1)).reshape(requests, -1)
    order = np.argsort(-total, axis=1, kind="stable")[:, :beams]
    parent = order // (width + 1) + beams * np.arange(requests)[:, None]
    char = order % (width + 1)
    char = np.where(char == width, END, char).astype(np.int32)
    return parent.ravel(), char.ravel(), np.take_along_axis(total, order, 1)
