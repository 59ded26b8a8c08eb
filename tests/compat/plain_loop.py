"""A loop as in CleanRL, on the vector environment: python tests/compat/plain_loop.py"""

from __future__ import annotations

import gymnasium
import numpy as np
from gymnasium.wrappers.vector import RecordEpisodeStatistics

import flexattn  # noqa: F401  registers the environment


def returns(num_envs: int = 8, steps: int = 300) -> list[float]:
    """Write random legal characters; returns of the episodes that ended."""
    envs = RecordEpisodeStatistics(gymnasium.make_vec("flexattn/Lexical-v0", num_envs=num_envs))
    rng = np.random.default_rng(0)
    _, info = envs.reset(seed=0)
    found: list[float] = []
    for _ in range(steps):
        scores = rng.random(info["action_mask"].shape)
        chars = np.where(info["action_mask"], scores, -1.0).argmax(axis=1)
        windows = rng.integers(0, 4, (num_envs, 2))
        _, _, _, _, info = envs.step(np.column_stack([windows, chars]))
        if "episode" in info:
            found.extend(info["episode"]["r"][info["_episode"]].tolist())
    return found


if __name__ == "__main__":
    print(np.mean(returns()))
