"""A student that goes on with answers it began: keys and values of their last characters are kept.

A step embeds one character instead of max(H). Where a batch is stepped from its first character to
its last, the result is `Student`'s but for the order of float sums.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from flexattn.agents.decision import Choose
from flexattn.agents.networks import Actor
from flexattn.agents.policy import Student
from flexattn.attention.ring import Ring


class Ongoing(Student):
    """`Student` with a ring of keys and values for each of R answers."""

    def __init__(self, actor: Actor, answers: int, *, choose: Choose | None = None) -> None:
        """Empty rings for R answers, none of them begun."""
        super().__init__(actor, choose=choose)
        self.rings: list[Ring] = actor.encoder.rings(answers, max(actor.windows))
        self.reads = 1

    def take(self, rows: npt.NDArray[np.int64]) -> None:
        """Answer `rows[i]` now stands in place i; one may stand in several."""
        places = torch.from_numpy(rows).to(self.device)
        for ring in self.rings:
            ring.take(places)

    def _look(
        self, rows: npt.NDArray[np.int64], token: torch.Tensor, step: torch.Tensor,
        window: torch.Tensor,
    ) -> torch.Tensor:  # fmt: skip
        places = torch.from_numpy(rows).to(self.device)
        return self.actor.encoder.step(self.rings, places, token[:, 0], step, window)
