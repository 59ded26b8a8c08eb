"""Gymnasium's own tools around the environment: make_vec, autoreset modes, wrappers."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers import TransformObservation
from gymnasium.wrappers import vector as around

import flexattn  # noqa: F401  registers the environment
from flexattn.env.vector import LexicalVectorEnv

NAME = "flexattn/Lexical-v0"


def act(envs: Any, info: dict[str, Any]) -> np.ndarray:
    """The narrowest windows and the last legal character: long answers that end by being cut."""
    mask = info["action_mask"]
    chars = mask.shape[1] - 1 - mask[:, ::-1].argmax(axis=1)
    return np.column_stack([np.zeros((len(chars), 2), np.int64), chars])


def test_make_vec_gives_the_native_environment_or_gymnasiums_own() -> None:
    native = gymnasium.make_vec(NAME, num_envs=3)
    assert isinstance(native.unwrapped, LexicalVectorEnv)
    sync = gymnasium.make_vec(NAME, num_envs=3, vectorization_mode="sync")
    first, second = (envs.reset(seed=4) for envs in (native, sync))
    for _ in range(20):
        assert np.array_equal(first[0]["history"], second[0]["history"])
        action = act(native, first[1])
        first, second = (
            (lambda out: (out[0], out[4]))(envs.step(action)) for envs in (native, sync)
        )


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_gymnasiums_vector_environment_takes_every_autoreset_mode(mode: AutoresetMode) -> None:
    envs = gymnasium.make_vec(
        NAME, num_envs=2, vectorization_mode="sync", vector_kwargs={"autoreset_mode": mode}
    )
    _, info = envs.reset(seed=1)
    ended = 0
    for _ in range(400):
        observation, reward, over, cut, info = envs.step(act(envs, info))
        done = over | cut
        if not done.any():
            continue
        ended += int(done.sum())
        if mode is AutoresetMode.SAME_STEP:
            assert (observation["step"][done] == 0).all()
            assert "final_obs" in info
        elif mode is AutoresetMode.DISABLED:
            _, info = envs.reset(options={"reset_mask": done})
        else:
            assert (observation["step"][done] > 0).all()
            observation, reward, _, _, info = envs.step(act(envs, info))
            assert (observation["step"][done] == 0).all()
            assert (reward[done] == 0.0).all()
    assert ended >= 2


def test_vector_wrappers_go_around_the_native_environment() -> None:
    envs = gymnasium.make_vec(NAME, num_envs=4)
    single = spaces.Box(0, 1, (2,), np.float32)
    short = around.TransformObservation(
        around.RecordEpisodeStatistics(envs),
        lambda seen: np.stack([seen["step"][:, 0] / 100, seen["sketch"].sum(1)], 1).astype("f4"),
        single_observation_space=single,
    )
    observation, info = short.reset(seed=2)
    assert observation.shape == (4, 2)
    lengths: list[int] = []
    for _ in range(200):
        observation, _, _, _, info = short.step(act(envs, info))
        if "episode" in info:
            lengths += info["episode"]["l"][info["_episode"]].tolist()
    assert lengths
    world = envs.unwrapped.world  # type: ignore[attr-defined]
    assert max(lengths) <= world.longest_answer + world.settings.slack


def test_a_single_environments_observation_is_transformed() -> None:
    space = spaces.Box(0, 2**20, (16,), np.int64)
    env = TransformObservation(
        gymnasium.make(NAME), lambda seen: seen["history"].astype(np.int64), space
    )
    observation, info = env.reset(seed=0)
    for _ in range(5):
        chars = np.flatnonzero(info["action_mask"])
        observation, _, _, _, info = env.step(np.array([0, 0, chars[-1]]))
        assert observation.shape == (16,)
    assert (observation > 0).sum() == 5
