"""Steps a second of the environment, whole reward, actions given, SyncVectorEnv beside it.

Actions are drawn once (the teacher's character nine times of ten, else a random legal one) and
played again inside the clock, resets counted in. Every window does the very same steps, and each
step's time is its smallest: whatever runs beside can only slow one down. Subjects take turns.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from gymnasium.vector import SyncVectorEnv, VectorEnv

from flexattn.bench import Row
from flexattn.env.core import Core
from flexattn.env.lexical import LexicalEnv, open_world
from flexattn.env.vector import LexicalVectorEnv
from flexattn.env.world import World
from flexattn.lexicon.entries import Catalog, Entry

Ids = npt.NDArray[np.int32]
Seconds = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Script:
    """Actions of N environments, [T, N] each, and which record each began when."""

    history: Ids
    cap: Ids
    char: Ids
    resets: list[tuple[npt.NDArray[np.int64], Ids]]  # before step t: environments, records


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `flexattn bench env`."""
    parser.add_argument(
        "--config", help="configuration file; the medical default where none is given"
    )
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), default="cpu", help="cuda: the step on a GPU alone"
    )
    parser.add_argument("--windows", type=int, default=7, help="windows of each measurement")
    parser.add_argument("--million", type=int, default=1_000_000, help="terms of the big catalog")


def run(args: argparse.Namespace) -> Iterator[Row]:
    """Measure the core at three sizes, the vector environment, the sampler, and a large catalog."""
    world = open_world(args.config)
    if args.device == "cuda":
        from benchmarks import env_device

        yield from env_device.rows(world, args.device)
        return
    for n, steps in ((1, 1000), (64, 600), (4096, 100)):
        script = write_script(world, n, steps)
        seconds = quiet(lambda: play(world, n, script), args.windows)  # noqa: B023
        yield Row("env", f"core/{n}", "flexattn", n * steps / seconds, "steps/s")
    yield from _gymnasium(world, args.windows)
    yield _sampler(world, args.windows)
    yield from _catalogs(world, args.windows, args.million)


def quiet(job: Callable[[], Seconds], windows: int) -> float:
    """Seconds of a job whose every call is taken from the window in which it was fastest.

    Args:
      job: does the same calls each time and returns the seconds of each, [T].
      windows: how often it is done.
    """
    return float(np.min([job() for _ in range(windows)], axis=0).sum())


def write_script(world: World, n: int, steps: int, seed: int = 1) -> Script:
    """Draw the actions: 9 of 10 characters are the teacher's, the others legal ones."""
    core, rng = Core(world, n, seed), np.random.default_rng(seed)
    core.reset()
    everybody = np.arange(n)
    resets = [(everybody, core.state.record.copy())]
    history = rng.integers(0, len(world.settings.history_chars), (steps, n), dtype=np.int32)
    cap = rng.integers(0, len(world.settings.hit_cap_chars), (steps, n), dtype=np.int32)
    char = np.empty((steps, n), np.int32)
    for t in range(steps):
        faithful = rng.random(n) < 0.9
        char[t] = np.where(faithful, core.teacher(), core.sample_legal(rng))
        core.step(history[t], cap[t], char[t])
        done = np.flatnonzero(core.state.done)
        if len(done):
            core.reset(done)
        resets.append((done, core.state.record[done]))
    return Script(history, cap, char, resets)


def play(world: World, n: int, script: Script) -> Seconds:
    """Seconds of each step that a fresh core takes for the script, resets counted in, [T]."""
    core = Core(world, n)
    seconds = np.empty(len(script.char))
    for t in range(len(seconds)):
        start = time.perf_counter()
        envs, records = script.resets[t]
        if len(envs):
            core.reset(envs, records)
        core.step(script.history[t], script.cap[t], script.char[t])
        seconds[t] = time.perf_counter() - start
    return seconds


def _gymnasium(world: World, windows: int, n: int = 64, steps: int = 60) -> Iterator[Row]:
    """The Gymnasium interface: native, native without the bool mask, and SyncVectorEnv."""
    script = write_script(world, n, steps)
    actions = np.stack([script.history, script.cap, script.char], axis=2)
    subjects: dict[tuple[str, str], VectorEnv] = {
        ("gymnasium", "flexattn"): LexicalVectorEnv(n, world=world),
        ("gymnasium", "gymnasium.SyncVectorEnv"): SyncVectorEnv(
            [lambda: LexicalEnv(world=world)] * n
        ),
        ("gymnasium-packed-mask", "flexattn"): LexicalVectorEnv(n, world=world, action_mask=False),
    }

    def play_gymnasium(env: VectorEnv) -> Seconds:
        seconds = np.empty(steps)
        env.reset(seed=1)
        for t, action in enumerate(actions):
            start = time.perf_counter()
            env.step(action)
            seconds[t] = time.perf_counter() - start
        return seconds

    runs: dict[tuple[str, str], list[Seconds]] = {name: [] for name in subjects}
    for _ in range(windows):
        for name, env in subjects.items():
            runs[name].append(play_gymnasium(env))
    for (case, subject), taken in runs.items():
        rate = n * steps / np.min(taken, axis=0).sum()
        yield Row("env", f"{case}/{n}", subject, float(rate), "steps/s")


def _sampler(world: World, windows: int, n: int = 4096, draws: int = 20) -> Row:
    core, rng = Core(world, n), np.random.default_rng(0)
    core.reset()

    def job() -> Seconds:
        seconds = np.empty(draws)
        for t in range(draws):
            start = time.perf_counter()
            core.sample_legal(rng)
            seconds[t] = time.perf_counter() - start
        return seconds

    rate = n * draws / quiet(job, windows)
    return Row("env", f"sample-legal/{n}", "flexattn", rate, "steps/s")


def _catalogs(world: World, windows: int, million: int, n: int = 4096) -> Iterator[Row]:
    """What a large catalog costs a step: one of 1,000 terms beside one of a million."""
    assert world.catalog is not None
    worlds = {
        size: world.with_catalog(grown_catalog(world.catalog, size, world))
        for size in (1000, million)
    }
    scripts = {size: write_script(grown, n, 60) for size, grown in worlds.items()}
    runs: dict[int, list[Seconds]] = {size: [] for size in worlds}
    for _ in range(windows):
        for size, grown in worlds.items():
            runs[size].append(play(grown, n, scripts[size]))
    for size, taken in runs.items():
        rate = float(n * 60 / np.min(taken, axis=0).sum())
        yield Row("env", f"core/{n}/terms-{size}", "flexattn", rate, "steps/s")


def grown_catalog(catalog: Catalog, size: int, world: World) -> Catalog:
    """`catalog` cut to its `size` commonest terms, or filled up to so many with random ones."""
    rng = np.random.default_rng(size)
    by_use = sorted(catalog.entries, key=lambda entry: -entry.df)
    terms = dict.fromkeys(entry.term for entry in by_use[:size])
    alphabet = np.array(list(world.vocabulary.train))
    while len(terms) < size:
        lengths = rng.choice([3, 4, 5, 6, 8], 10_000)
        chars = "".join(rng.choice(alphabet, int(lengths.sum())))
        ends = np.cumsum(lengths)
        terms.update((chars[e - n : e], None) for n, e in zip(lengths, ends))
    entries = tuple(Entry(n, term, 0, None) for n, term in enumerate(list(terms)[:size]))
    return Catalog(
        catalog.name, catalog.version, catalog.language, catalog.documents, (2, 3, 4, 5, 6, 7, 8),
        entries, catalog.banned, catalog.sha256, catalog.file,
    )  # fmt: skip
