from __future__ import annotations

import importlib.util
import runpy
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent


def script(name: str) -> dict[str, Any]:
    return runpy.run_path(str(HERE / f"{name}.py"))


def needs(package: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(
        importlib.util.find_spec(package) is None, reason=f"{package} isn't installed"
    )


def test_a_plain_loop_over_the_vector_environment_ends_episodes() -> None:
    assert len(script("plain_loop")["returns"]()) > 8


def test_a_masked_ppo_in_one_file_learns() -> None:
    found = script("cleanrl_ppo")["train"](8192)
    assert len(found) > 60
    assert sum(found[-30:]) / 30 > sum(found[:30]) / 30


@needs("sb3_contrib")
@pytest.mark.filterwarnings("ignore")
def test_maskable_ppo_trains_on_it_unmodified() -> None:
    assert script("maskable_ppo")["train"](128).num_timesteps >= 128


@needs("torchrl")
@pytest.mark.filterwarnings("ignore")
def test_torchrl_checks_its_specs_and_steps_it() -> None:
    assert script("torchrl_env")["rollout"](10)["next", "reward"].shape[0] >= 1


@needs("tianshou")
@pytest.mark.filterwarnings("ignore")
def test_tianshous_dqn_collects_and_updates_with_the_mask() -> None:
    assert script("tianshou_dqn")["train"](80).n_collected_steps >= 80
