"""Rows of steps for tests of what prints and reads them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from flexattn.env.records import FLOATS, STEP
from flexattn.env.vocabulary import END, UNK
from flexattn.env.world import World


def rows_of(world: World, count: int, seed: int) -> npt.NDArray[Any]:
    """Steps in which everything happens that a line can say."""
    rng = np.random.default_rng(seed)
    rows = np.zeros(count, STEP)
    rows["char"] = rng.integers(0, world.vocabulary.alphabet, count)
    rows["char"][:2] = END, UNK
    other = rng.integers(0, world.vocabulary.alphabet, count)
    rows["written"] = np.where(rng.random(count) < 0.3, other, rows["char"])
    rows["term"] = rng.integers(-1, len(world.term_list), count)
    rows["n_legal"] = rng.integers(0, 10**5, count)
    rows["history"] = rng.integers(0, len(world.settings.history_chars), count)
    rows["cap"] = rng.integers(0, len(world.settings.hit_cap_chars), count)
    rows["illegal"] = rng.random(count) < 0.2
    for name in FLOATS:
        rows[name] = rng.normal(size=count) * 10.0 ** rng.integers(-9, 5, count)
        rows[name][rng.random(count) < 0.5] = 0.0
    return rows
