"""TorchRL's GymEnv and its checker on the environment as it is: python tests/compat/torchrl_env.py

Needs: pip install torchrl
"""

from __future__ import annotations

import gymnasium
from tensordict import TensorDictBase
from torchrl.envs import GymWrapper
from torchrl.envs.utils import check_env_specs

import flexattn  # noqa: F401  registers the environment


def rollout(steps: int = 20) -> TensorDictBase:
    """Check the specs, then take `steps` random steps."""
    env = GymWrapper(gymnasium.make("flexattn/Lexical-v0"), categorical_action_encoding=True)
    check_env_specs(env)
    return env.rollout(steps)


if __name__ == "__main__":
    print(rollout())
