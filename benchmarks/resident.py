"""Characters trained a second where everything lives on one GPU, and what a step is made of.

Each character is in one gradient update; the steps are those of a training, schedules and the
stream included, without log and evaluation. `--kernels N` prints the N longest kernels of a step.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator

import torch

from flexattn.bench import Row
from flexattn.config import Config
from flexattn.display import Display
from flexattn.domain import Domain
from flexattn.errors import FlexAttnError
from flexattn.resident import ResidentTraining

WARM = 4  # steps until a phase is recorded
GROUPS = {
    "step_kernel": "environment",
    "_sample_kernel": "legal rows",
    "_values_kernel": "legal rows",
    "_gradient_kernel": "legal rows",
    "windowed_": "attention",
    "nvjet": "matrix products",
    "gemm": "matrix products",
    "gemv": "matrix products",
    "splitK": "matrix products",
    "triton_": "fused elementwise and sums",
    "multi_tensor": "optimiser",
    "FusedAdam": "optimiser",
    "": "other elementwise, copies, gathers",
}


def rows(config: Config, steps: int, kernels: int = 0) -> Iterator[Row]:
    """Measure every phase, and rollout and update of the last alone."""
    if not torch.cuda.is_available():
        raise FlexAttnError("bench train: train.device is cuda, but torch finds no GPU here")
    domain = Domain.of_config(config)
    with Display(plain=True) as display:
        training = ResidentTraining(config, domain.world, None, display, torch.device("cuda"))
        for phase, _ in training.phases:
            rate, took = _phase(training, phase, steps)
            yield Row("train", f"resident/{phase}", "flexattn", rate, "tokens/s")
            yield Row("train", f"resident/{phase}/step", "flexattn", took * 1e3, "ms")
        parts = {"rollout": training.roll_out, "update": training.learn}
        for name, part in parts.items():
            seconds = _seconds(lambda: part("sac"), steps)  # noqa: B023
            yield Row("train", f"resident/{name}", "flexattn", seconds * 1e3, "ms")
        peak = torch.cuda.max_memory_allocated() / 1e6
        yield Row("train", "resident/memory", "flexattn", peak, "MB")
        if kernels:
            for name, part in parts.items():
                _print_kernels(name, lambda: part("sac"), kernels)  # noqa: B023


def _phase(training: ResidentTraining, phase: str, steps: int) -> tuple[float, float]:
    """Characters a second, and seconds a step."""
    for n in range(WARM):
        training.one(phase, n, steps + WARM)
    before = training.characters  # waits
    seconds = _seconds(lambda: training.one(phase, WARM, steps + WARM), steps)
    return (training.characters - before) / (seconds * steps), seconds


def _seconds(work: Callable[[], None], times: int) -> float:
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(times):
        work()
    torch.cuda.synchronize()
    return (time.perf_counter() - start) / times


def _group(kernel: str) -> str:
    return next(group for part, group in GROUPS.items() if part in kernel)


def _print_kernels(name: str, work: Callable[[], None], most: int) -> None:
    """Shares of the device's busy time, by kernel."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        work()
        torch.cuda.synchronize()
    took: Counter[str] = Counter()
    count: Counter[str] = Counter()
    for event in seen.events():
        if event.device_type.name == "CUDA":
            took[event.name] += event.device_time
            count[event.name] += 1
    whole = sum(took.values())
    print(f"{name}: {sum(count.values())} kernels, busy {whole / 1e3:.2f} ms")
    for group in dict.fromkeys(GROUPS.values()):
        part = sum(us for kernel, us in took.items() if _group(kernel) == group)
        print(f"{part / whole:7.1%} {part / 1e3:8.3f} ms {group}")
    for kernel, us in took.most_common(most):
        print(f"{us / whole:7.1%} {us / 1e3:8.3f} ms x{count[kernel]:<5d} {kernel[:90]}")
