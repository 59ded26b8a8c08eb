"""Steps a second of the environment on a GPU, whole reward, nothing read back.

Steps are captured in a CUDA graph and the graph is replayed; the median of the replays counts. A
restart is no step. `random` draws windows and characters on the device, evenly from the legal ones;
`faithful` takes the teacher's character every time, so that one step in three is a hit.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator

import torch

from flexattn.bench import Row
from flexattn.env.device import DeviceCore
from flexattn.env.world import World
from flexattn.errors import FlexAttnError

STEPS = 16  # of one graph
BATCHES = (4096, 16384, 65536, 262144, 1048576)


def rows(world: World, device: str, replays: int = 12) -> Iterator[Row]:
    """Measure random steps at several batches, and faithful ones at the largest but one."""
    if not torch.cuda.is_available():
        raise FlexAttnError("bench env: --device is cuda, but torch finds no GPU here")
    for n in BATCHES:
        core = DeviceCore(world, n, device, seed=1, autoreset=True)
        rate = measure(core, core.step_random, replays)
        yield Row("env", f"device-random/{n}", "flexattn", rate, "steps/s")
    core = DeviceCore(world, BATCHES[-2], device, seed=1, autoreset=True)
    rate = measure(core, lambda: core.step(*windows(core), core.teacher()), replays)
    yield Row("env", f"device-faithful/{core.num_envs}", "flexattn", rate, "steps/s")


def windows(core: DeviceCore) -> tuple[torch.Tensor, torch.Tensor]:
    """One choice of windows for every environment, the widest."""
    return (
        core.history_choice.fill_(len(core.world.settings.history_chars) - 1),
        core.cap_choice.fill_(len(core.world.settings.hit_cap_chars) - 1),
    )


def measure(core: DeviceCore, step: Callable[[], object], replays: int) -> float:
    """Steps a second of a graph of STEPS steps, episodes at different places."""
    core.reset()
    spread = core.world.longest_answer  # so that episodes no longer stand at one place
    for _ in range(spread):
        step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(STEPS):
            step()
    graph.replay()
    seconds, resting = [], []
    for _ in range(replays):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        seconds.append(begin.elapsed_time(end) / 1e3)
        resting.append(float(core.state["done"].float().mean()))
    stepped = core.num_envs * STEPS * (1.0 - statistics.mean(resting))
    return stepped / statistics.median(seconds)
