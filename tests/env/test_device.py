"""The step on a device against `Core`: Triton's interpreter where there is no GPU."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
if importlib.util.find_spec("triton") is None:
    pytest.skip("Triton is not installed", allow_module_level=True)

import numpy as np

from flexattn.config import load_config, resolve_path
from flexattn.env.core import Core
from flexattn.env.lexical import open_world
from flexattn.env.world import World

STATE = ("record", "t", "pointer", "covered", "automaton", "n_legal", "widened", "done")
ROOT = Path(__file__).parents[2]
PATHS = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])


def differences(
    world: World, device: str, n: int, steps: int, *, faithful: float, put: float
) -> tuple[dict[str, int], dict[str, float], int]:
    """Play the same actions on both; illegal characters and replaced histories among them.

    Returns: how often an integer differed, the largest difference of each number, and the hits.
    """
    from flexattn.env.device import DeviceCore

    core = Core(world, n, gain_by_cap=True)
    there = DeviceCore(world, n, device, gain_by_cap=True)
    rng = np.random.default_rng(n)
    records = rng.choice(len(world.records), n)
    core.reset(record_indices=records)
    there.reset(records)
    wrong: dict[str, int] = {}
    worst: dict[str, float] = {}
    hits = 0

    def compare(name: str, mine: np.ndarray, theirs: torch.Tensor) -> None:
        other = theirs.cpu().numpy()
        if mine.dtype == np.float64:
            worst[name] = max(worst.get(name, 0.0), float(np.abs(mine - other).max()))
        else:
            same = np.asarray(mine).astype(np.int64) == other.astype(np.int64)
            wrong[name] = wrong.get(name, 0) + int((~same).sum())

    def to(values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(values.astype(np.int32)).to(device)

    for _ in range(steps):
        done = np.flatnonzero(core.state.done)
        if len(done):
            records[done] = rng.choice(len(world.records), len(done))
            core.reset(done, records[done])
            which = torch.from_numpy(np.isin(np.arange(n), done)).to(device)
            there.reset(records, which=which)
        compare("teacher", core.teacher(), there.teacher())
        char = np.where(rng.random(n) < faithful, core.teacher(), core.sample_legal(rng))
        char = np.where(rng.random(n) < 0.02, rng.integers(0, world.vocabulary.alphabet, n), char)
        history = rng.integers(0, len(world.settings.history_chars), n)
        cap = rng.integers(0, len(world.settings.hit_cap_chars), n)
        other = np.where(rng.random(n) < put, rng.integers(3, world.vocabulary.alphabet, n), -1)
        mine = core.step(history, cap, char, other)
        theirs = there.step(to(history), to(cap), to(char), to(other) if put else None)
        for name, values in vars(mine).items():
            compare(name, values, getattr(theirs, name))
        for name in STATE:
            compare(name, getattr(core.state, name), there.state[name])
        compare("legal", core.state.legal.view(np.int64), there.legal_packed())
        hits += int((mine.term >= 0).sum())
    for name, values in vars(core.observe()).items():
        compare(name, np.asarray(values, np.float64), there.observe()[name])
    for name, values in vars(core.privileged()).items():
        compare(name, np.asarray(values), there.privileged()[name])
    return {name: count for name, count in wrong.items() if count}, worst, hits


def random_steps(world: World, steps: int) -> tuple[set[int], float]:
    """Draw legal actions there and play them here; which characters, and the worst reward."""
    from flexattn.env.device import DeviceCore

    there = DeviceCore(world, 32, "cpu", seed=3, autoreset=True)
    there.reset(np.arange(32))
    core = Core(world, 32)
    core.reset(record_indices=np.arange(32))
    drawn: set[int] = set()
    worst = 0.0
    for _ in range(steps):
        legal = core.legal()
        ended = core.state.done.copy()
        got = there.step_random()
        char = got.char.numpy()
        assert legal[~ended, char[~ended]].all()
        mine = core.step(there.history_choice.numpy(), there.cap_choice.numpy(), char)
        worst = max(worst, float(np.abs(mine.reward - got.reward.numpy()).max()))
        if ended.any():
            core.reset(np.flatnonzero(ended), there.state["record"].numpy()[ended])
        assert np.array_equal(core.state.n_legal, there.state["n_legal"].numpy())
        drawn |= set(char[~ended].tolist())
    return drawn, worst


def main() -> None:
    """What the interpreter is asked, in a process of its own: Triton looks for it when loaded."""
    world = open_world(None)
    wrong, worst, hits = differences(world, "cpu", 32, 8, faithful=0.8, put=0.1)
    assert not wrong, wrong
    assert max(worst.values()) < 1e-6, worst
    assert hits > 10
    config = load_config(
        resolve_path("configs/medical.yaml"),
        ["env.align=resync", "env.guide=none", "lexicon.nested=true", "env.slack=1"],
    )
    other = open_world(config)
    wrong, worst, hits = differences(other, "cpu", 32, 3, faithful=0.6, put=0.0)
    assert not wrong, wrong
    assert max(worst.values()) < 1e-6, worst
    config = load_config(resolve_path("configs/medical.yaml"), ["env.guide_reach=4"])
    wrong, worst, hits = differences(open_world(config), "cpu", 32, 6, faithful=0.6, put=0.2)
    assert not wrong, wrong
    assert max(worst.values()) < 1e-6, worst
    drawn, far = random_steps(world, 4)
    assert far < 1e-6
    assert len(drawn) > 60


def test_the_interpreted_step_has_the_cores_numbers_and_decisions() -> None:
    ran = subprocess.run(
        [sys.executable, __file__],
        env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": PATHS},
        capture_output=True, text=True, cwd=ROOT, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-2000:]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(("faithful", "put"), [(0.0, 0.0), (0.85, 0.1)], ids=["random", "faithful"])
def test_ten_thousand_steps_on_the_gpu_have_the_cores_numbers(
    world: World, faithful: float, put: float
) -> None:
    wrong, worst, _ = differences(world, "cuda", 256, 40, faithful=faithful, put=put)
    assert not wrong
    assert max(worst.values()) < 1e-5


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_steps_replay_from_a_cuda_graph_as_they_run(world: World) -> None:
    from flexattn.env.device import DeviceCore

    cores = [DeviceCore(world, 256, "cuda", seed=5, autoreset=True) for _ in range(2)]
    for core in cores:
        core.reset(np.arange(256))
        core.step_random()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        cores[1].step_random()
    for _ in range(100):
        one = cores[0].step_random().reward.clone()
        graph.replay()
        assert torch.equal(one, cores[1].steps.reward)


def test_a_world_too_large_for_sixteen_bits_is_refused(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flexattn.env import device
    from flexattn.errors import EnvironmentSpecError

    monkeypatch.setattr(device, "LARGEST_ALPHABET", 100)
    with pytest.raises(EnvironmentSpecError, match="characters, expected at most 100; step on the"):
        device.DeviceCore(world, 2, "cpu")


if __name__ == "__main__":
    main()
