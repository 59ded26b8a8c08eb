from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import flexattn  # noqa: F401  registers the environment
from flexattn.env.lexical import LexicalEnv
from flexattn.env.vector import LexicalVectorEnv
from flexattn.env.world import World
from flexattn.errors import EnvironmentSpecError


def assert_same(one: Any, other: Any, where: str = "") -> None:
    if isinstance(one, dict):
        assert set(one) == set(other), where
        for name in one:
            assert_same(one[name], other[name], f"{where}/{name}")
        return
    one, other = np.asarray(one), np.asarray(other)
    assert one.dtype == other.dtype, where
    assert np.array_equal(one, other), where


def test_it_has_the_numbers_of_as_many_single_environments(world: World) -> None:
    n = 4
    kwargs = {"world": world, "privileged": True}
    native = gymnasium.make_vec("flexattn/Lexical-v0", num_envs=n, **kwargs)
    single = SyncVectorEnv([lambda: LexicalEnv(**kwargs) for _ in range(n)])
    assert native.single_observation_space == single.single_observation_space
    assert native.action_space == single.action_space
    for mine, theirs in zip(native.reset(seed=11), single.reset(seed=11)):
        assert_same(mine, theirs)
    rng = np.random.default_rng(0)
    ended = 0
    for _ in range(300):
        core = native.unwrapped.core  # type: ignore[attr-defined]
        legal = core.sample_legal(rng)
        char = np.where(rng.random(n) < 0.8, core.teacher(), legal)
        char = np.where(rng.random(n) < 0.02, rng.integers(0, world.size, n), char)
        action = np.stack([rng.integers(4, size=n), rng.integers(4, size=n), char], axis=1)
        mine, theirs = native.step(action), single.step(action)
        for a, b in zip(mine, theirs):
            assert_same(a, b)
        assert native.observation_space.contains(mine[0])
        ended += int(mine[2].sum() + mine[3].sum())
    assert ended > 5


def test_the_step_after_an_end_begins_the_next_answer_and_pays_nothing(world: World) -> None:
    env = LexicalVectorEnv(1, world=world)
    assert env.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    env.reset(seed=0)
    while True:
        teacher = int(env.core.teacher()[0])
        _, _, over, cut, _ = env.step([[0, 0, teacher]])
        if over[0] or cut[0]:
            break
    observation, reward, over, cut, info = env.step([[0, 0, 3]])
    assert observation["step"][0, 0] == 0
    assert reward[0] == 0.0
    assert not over[0]
    assert not cut[0]
    assert "term" not in info


def test_seeds_may_be_given_one_by_one(world: World) -> None:
    env = LexicalVectorEnv(3, world=world)
    some = env.reset(seed=[5, 6, 7])[1]["record"]
    assert np.array_equal(some, env.reset(seed=5)[1]["record"])
    with pytest.raises(EnvironmentSpecError, match="seed has 2 entries, expected 3"):
        env.reset(seed=[1, 2])


def test_masks_come_on_request_only(world: World) -> None:
    env = LexicalVectorEnv(2, world=world, action_mask=False)
    _, info = env.reset(seed=0)
    assert "action_mask" not in info
    assert env.action_masks().shape == (2, 8 + world.size)


def test_a_new_catalog_version_is_taken_up_at_the_next_episode(world: World) -> None:
    env = LexicalVectorEnv(2, world=world)
    env.reset(seed=0)
    env.world = newer = world.with_catalog(world.catalog)
    assert env.core.world_of(0) is world
    seen = False
    for _ in range(2 * world.longest_answer):
        chars = env.core.teacher()
        env.step(np.stack([[0, 0], [0, 0], chars], axis=1))
        for i in range(2):
            began = env.core.state.t[i] == 0
            seen = seen or bool(began)
            if began:
                assert env.core.world_of(i) is newer
    assert seen
    assert env.core.world_of(0) is newer


def test_no_environment_is_refused(world: World) -> None:
    with pytest.raises(EnvironmentSpecError, match="num_envs is 0"):
        LexicalVectorEnv(0, world=world)
