"""Counts under the network: the student begins where stage A's counts are.

    log pi_char(a|s, Lh) = log_softmax over A(s) of ( f(x_t)[a] + log p_counts(a|s, Lh) )

What followed in train answers is counted, not learned; the network learns where the counts are
wrong, so it is right from the first step and its gradients are about the rest. The head of Lp sees
the terms that the counts expect. p_counts looks at Lh characters, at the question's topics and at
the step, see `counting`; it is above 0 for every legal character.
Residual policy: Silver et al. 2018, arXiv:1812.06298.

Shapes: n states, J legal pairs, C = |H|, E = 2 |P| + 1.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from flexattn.agents.counting import CountingModel, topics_of
from flexattn.agents.legal import LegalSets
from flexattn.config import Config
from flexattn.env.spec import Observation
from flexattn.env.vocabulary import PAD
from flexattn.env.world import World

Ids = npt.NDArray[np.int32]


class Prior(NamedTuple):
    """What the counts say about n states under every Lh.

    Attributes:
      log_p: log p_counts of every legal pair, [C, J].
      expected: the terms that are expected, see `counting.Known`, [C, n, E].
    """

    log_p: Tensor
    expected: Tensor


class CountPrior:
    """Stage A's counts, of states in an environment and of whole answers."""

    def __init__(self, world: World) -> None:
        """Count over the world's train answers; a few seconds for a few thousand."""
        self.model = CountingModel(world)
        self.windows = world.settings.history_chars
        self.max_history = world.settings.max_history
        self._topics = self.model.asked()

    @classmethod
    def of(cls, config: Config, world: World) -> CountPrior | None:
        """The prior that a configuration asks for, None for none."""
        return cls(world) if config.agent.prior == "counts" else None

    def states(
        self, seen: Observation, rows: npt.NDArray[np.int64], window: npt.NDArray[np.int64],
        packed: npt.NDArray[np.uint64], actions: int,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Of some rows of an observation: log p [n, V], 0 where illegal, and expected terms [n, E].

        Args:
          seen: what the actor sees.
          rows: n of them.
          window: Lh of each, characters, [n].
          packed: their A(s), [n, W].
          actions: V.
        """
        legal = LegalSets.of(packed, actions, torch.device("cpu"))
        topics = self._topics(seen.question)[rows]
        lines, step = seen.history[rows], seen.step[rows]
        log_p, expected = self._know(lines, topics, step, window, legal, foresee=True)
        dense = torch.zeros(len(rows), actions)
        dense[legal.row, legal.ids] = log_p
        return dense, expected

    def answers(
        self, written: Ids, questions: Ids, exists: npt.NDArray[np.bool_],
        window: Ids, legal: LegalSets,
    ) -> Tensor:  # fmt: skip
        """log p before every character of whole answers, [J].

        Args:
          written: ids, [B, T].
          questions: encoded, [B, Q].
          exists: states that are wanted, [B, T + 1]; n of them.
          window: Lh of every state, characters, [B, T + 1].
          legal: A(s) of the n states.
        """
        lines, topics, step = self._states_of(written, questions, exists)
        return self._know(lines, topics, step, window[exists], legal, foresee=False)[0]

    def every_window(
        self, written: Ids, questions: Ids, exists: npt.NDArray[np.bool_], legal: LegalSets
    ) -> Prior:
        """The same under every Lh, with the terms that are expected."""
        lines, topics, step = self._states_of(written, questions, exists)
        known = [
            self._know(lines, topics, step, np.full(len(step), lh), legal, foresee=True)
            for lh in self.windows
        ]
        return Prior(*map(torch.stack, zip(*known)))

    def _states_of(
        self, written: Ids, questions: Ids, exists: npt.NDArray[np.bool_]
    ) -> tuple[Ids, npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
        reach = self.max_history
        before = np.full((len(written), reach + written.shape[1]), PAD, np.int32)
        before[:, reach:] = written
        lines = np.lib.stride_tricks.sliding_window_view(before, reach, axis=1)
        answer, step = np.nonzero(exists)
        return lines[answer, step], topics_of(questions)[answer], step

    def _know(
        self, lines: Ids, topics: npt.NDArray[np.uint64], step: npt.NDArray[np.integer],
        window: npt.NDArray[np.integer], legal: LegalSets, *, foresee: bool,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        known = self.model.know(
            np.ascontiguousarray(lines, np.int32), topics, step.astype(np.int64),
            window.astype(np.int64), (legal.start.cpu().numpy(), legal.ids.cpu().numpy()), foresee,
        )  # fmt: skip
        device = legal.ids.device
        return torch.from_numpy(known.log_p).to(device), torch.from_numpy(known.expected).to(device)
