"""sb3-contrib's MaskablePPO on the environment as it is: python tests/compat/maskable_ppo.py

Needs: pip install sb3-contrib
"""

from __future__ import annotations

import gymnasium
from sb3_contrib import MaskablePPO

import flexattn  # noqa: F401  registers the environment


def train(steps: int = 256) -> MaskablePPO:
    """Take `steps` steps; the policy finds `action_masks()` by itself."""
    env = gymnasium.make("flexattn/Lexical-v0")
    model = MaskablePPO("MultiInputPolicy", env, n_steps=64, batch_size=32, n_epochs=1, seed=0)
    return model.learn(steps)


if __name__ == "__main__":
    print(train().num_timesteps, "steps")
