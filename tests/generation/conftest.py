"""A voice without a network: what it says is a function of the last two characters."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from flexattn.agents.decision import Choose, Decision, nothing
from flexattn.env.lexical import open_world
from flexattn.env.spec import Observation
from flexattn.env.world import World
from flexattn.generation.sampling import Voice

Pi = Callable[[npt.NDArray[np.int32], npt.NDArray[np.bool_]], npt.NDArray[np.float64]]


def unpacked(legal: npt.NDArray[np.uint64], size: int) -> npt.NDArray[np.bool_]:
    """Legal characters, [N, |V|] bool."""
    bits = np.unpackbits(legal.view(np.uint8), axis=1, bitorder="little")
    return bits[:, :size].astype(bool)


def scattered(history: npt.NDArray[np.int32], legal: npt.NDArray[np.bool_]) -> npt.NDArray:
    """pi(.|s) that differs between histories: a hash of the last two characters as logits."""
    key = history[:, -1].astype(np.int64) * 1009 + history[:, -2] * 9176 + 7
    chars = np.arange(legal.shape[1], dtype=np.int64)
    logits = ((key[:, None] * 2654435761 + chars * 40503 * (key[:, None] % 97 + 1)) >> 7) % 1000
    weight = np.where(legal, np.exp(logits / 150.0), 0.0)
    return weight / weight.sum(-1, keepdims=True)


def speaker(world: World, pi: Pi) -> Voice:
    """A voice that says `pi`, with windows that follow the step."""

    class Said:
        """Keeps count of its own steps, so that answers that change places are noticed."""

        def __init__(self, choose: Choose, answers: int) -> None:
            self.choose = choose
            self.steps = np.zeros(answers, np.int32)

        def __call__(
            self, seen: Observation, legal: npt.NDArray[np.uint64], active: npt.NDArray[np.bool_]
        ) -> Decision:
            rows = np.flatnonzero(active)
            assert (self.steps[rows] == seen.step[rows]).all()
            likely = pi(seen.history[rows], unpacked(legal[rows], world.size))
            decision, settings = nothing(len(active)), world.settings
            decision.char[rows], decision.kept[rows] = self.choose(likely)
            decision.history[rows] = self.steps[rows] % len(settings.history_chars)
            decision.cap[rows] = self.steps[rows] % len(settings.hit_cap_chars)
            decision.probability[rows] = likely[np.arange(len(rows)), decision.char[rows]]
            self.steps[rows] += 1
            return decision

        def take(self, rows: npt.NDArray[np.int64]) -> None:
            self.steps = self.steps[rows]

    return Said


@pytest.fixture(scope="session")
def medical() -> World:
    return open_world()


@pytest.fixture(scope="session")
def voice(medical: World) -> Voice:
    return speaker(medical, scattered)
