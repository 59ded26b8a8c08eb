"""Tianshou's DQN writes the characters: python tests/compat/tianshou_dqn.py

Needs: pip install tianshou. Tianshou's agents take one discrete action, so Lh and Lp are fixed; the
mask stands in the observation.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from tianshou.algorithm.modelfree.dqn import DQN, DiscreteQLearningPolicy
from tianshou.algorithm.optim import AdamOptimizerFactory
from tianshou.data import Collector, CollectStats, VectorReplayBuffer
from tianshou.env import DummyVectorEnv
from tianshou.utils.net.common import Net
from tianshou.utils.torch_utils import policy_within_training_step

import flexattn  # noqa: F401  registers the environment


class Characters(gymnasium.Wrapper[dict[str, Any], int, dict[str, Any], np.ndarray]):
    """One action, the character; the observation holds history and mask."""

    def __init__(self) -> None:
        super().__init__(gymnasium.make("flexattn/Lexical-v0"))
        size = int(self.env.action_space.nvec[2])  # type: ignore[attr-defined]
        self.action_space = spaces.Discrete(size)
        history = self.env.observation_space["history"]  # type: ignore[index]
        mask = spaces.Box(0, 1, (size,), np.bool_)
        self.observation_space = spaces.Dict({"obs": history, "mask": mask})

    def reset(self, **options: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        observation, info = self.env.reset(**options)
        return self._masked(observation, info), {}

    def step(self, action: int) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        observation, reward, over, cut, info = self.env.step(np.array([3, 1, action]))
        return self._masked(observation, info), float(reward), over, cut, {}

    @staticmethod
    def _masked(observation: dict[str, Any], info: dict[str, Any]) -> dict[str, Any]:
        return {"obs": observation["history"], "mask": info["action_mask"]}


def train(steps: int = 200) -> CollectStats:
    """Collect `steps` steps in four environments and update once."""
    envs = DummyVectorEnv([Characters for _ in range(4)])
    env = Characters()
    model = Net(
        state_shape=env.observation_space["obs"].shape,  # type: ignore[index]
        action_shape=env.action_space.n,  # type: ignore[attr-defined]
        hidden_sizes=[32],
    )
    policy = DiscreteQLearningPolicy(model=model, action_space=env.action_space, eps_training=0.1)
    algorithm: DQN[Any] = DQN(policy=policy, optim=AdamOptimizerFactory(lr=1e-3))
    buffer = VectorReplayBuffer(1000, 4)
    collector = Collector(algorithm, envs, buffer)
    collector.reset()
    with policy_within_training_step(policy):
        stats = collector.collect(n_step=steps)
        algorithm.update(buffer=buffer, sample_size=32)
    return stats


if __name__ == "__main__":
    print(train())
