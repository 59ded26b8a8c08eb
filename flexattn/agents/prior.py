"""Counts under the network: the actor's characters begin where stage A's counts are.

    log pi_char(a|s, Lh) = log_softmax over A(s) of ( f(x_t)[a] + log p_counts(a|s, Lh) )

What followed in train answers is counted, not learned; the network learns where the counts are
wrong, so it is right from the first step and its gradients are about the rest. p_counts looks at Lh
characters, at the question's topics and at the step, see `counting`; it is above 0 for every legal
character. Residual policy: Silver et al. 2018, arXiv:1812.06298.

Shapes: n states, J legal pairs, C = |H|.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from flexattn.agents.counting import CountingModel, topics_of
from flexattn.agents.counting_kernel import log_probabilities
from flexattn.agents.legal import LegalSets
from flexattn.config import Config
from flexattn.env.spec import Observation
from flexattn.env.vocabulary import PAD
from flexattn.env.world import World

Ids = npt.NDArray[np.int32]


class CountPrior:
    """log p_counts(a|s, Lh), of states in an environment and of whole answers."""

    def __init__(self, world: World) -> None:
        """Count over the world's train answers; a few seconds for a few thousand."""
        self.model = CountingModel(world)
        self.windows = world.settings.history_chars
        self._topics = self.model.asked()

    @classmethod
    def of(cls, config: Config, world: World) -> CountPrior | None:
        """The prior that a configuration asks for, None for none."""
        return cls(world) if config.agent.prior == "counts" else None

    def states(
        self, seen: Observation, rows: npt.NDArray[np.int64], window: npt.NDArray[np.int64],
        packed: npt.NDArray[np.uint64], actions: int,
    ) -> Tensor:  # fmt: skip
        """Of some rows of an observation, [n, V] float32, 0 where illegal.

        Args:
          seen: what the actor sees.
          rows: n of them.
          window: Lh of each, characters, [n].
          packed: their A(s), [n, W].
          actions: V.
        """
        legal = LegalSets.of(packed, actions, torch.device("cpu"))
        topics = self._topics(seen.question)[rows]
        found = self._of(seen.history[rows], topics, seen.step[rows], window, legal)
        dense = torch.zeros(len(rows), actions)
        dense[legal.row, legal.ids] = found
        return dense

    def answers(
        self, written: Ids, questions: Ids, exists: npt.NDArray[np.bool_],
        window: Ids, legal: LegalSets,
    ) -> Tensor:  # fmt: skip
        """Before every character of whole answers, for each legal pair, [J] float32.

        Args:
          written: ids, [B, T].
          questions: encoded, [B, Q].
          exists: states that are wanted, [B, T + 1]; n of them.
          window: Lh of every state, characters, [B, T + 1].
          legal: A(s) of the n states.
        """
        reach = max(self.windows)
        before = np.full((len(written), reach + written.shape[1]), PAD, np.int32)
        before[:, reach:] = written
        lines = np.lib.stride_tricks.sliding_window_view(before, reach, axis=1)
        answer, step = np.nonzero(exists)
        topics = topics_of(questions)[answer]
        return self._of(lines[answer, step], topics, step, window[answer, step], legal)

    def windows_of(
        self, written: Ids, questions: Ids, exists: npt.NDArray[np.bool_], legal: LegalSets
    ) -> Tensor:
        """The same under every Lh, [C, J]."""
        return torch.stack([
            self.answers(written, questions, exists, np.full(exists.shape, lh, np.int32), legal)
            for lh in self.windows
        ])  # fmt: skip

    def _of(
        self, lines: Ids, topics: npt.NDArray[np.uint64], step: npt.NDArray[np.integer],
        window: npt.NDArray[np.integer], legal: LegalSets,
    ) -> Tensor:  # fmt: skip
        out = torch.empty(len(legal.ids))
        log_probabilities(
            np.ascontiguousarray(lines, np.int32), topics, step.astype(np.int64),
            window.astype(np.int64), legal.start.cpu().numpy(), legal.ids.cpu().numpy(),
            *self.model.room, self.model.tables, out.numpy(),
        )  # fmt: skip
        return out.to(legal.ids.device)
