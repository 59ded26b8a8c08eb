"""Steps a second of the environment, whole reward, actions given, SyncVectorEnv beside it.

Actions are drawn once (the teacher's character nine times of ten, else a random legal one) and
played again inside the clock, resets counted in. A value is the best of several windows: whatever
runs beside can only slow one down.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from flexattn.bench import Row
from gymnasium.vector import SyncVectorEnv

from flexattn.env.core import Core
from flexattn.env.lexical import LexicalEnv, open_world
from flexattn.env.vector import LexicalVectorEnv
from flexattn.env.world import World
from flexattn.lexicon.entries import Catalog, Entry

Ids = npt.NDArray[np.int32]


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
    parser.add_argument("--windows", type=int, default=7, help="windows of each measurement")
    parser.add_argument("--million", type=int, default=1_000_000, help="terms of the big catalog")


def run(args: argparse.Namespace) -> Iterator[Row]:
    """Measure the core at three sizes, the vector environment, the sampler, and a large catalog."""
    world = open_world(args.config)
    for n, steps in ((1, 1000), (64, 600), (4096, 60)):
        script = write_script(world, n, steps)
        rate = best(lambda: play(world, n, script), args.windows) * n * steps  # noqa: B023
        yield Row("env", f"core/{n}", "flexattn", rate, "steps/s")
    yield from _gymnasium(world, args.windows)
    yield _sampler(world, args.windows)
    yield from _catalogs(world, args.windows, args.million)


def best(job: Callable[[], float], windows: int) -> float:
    """Jobs a second in the fastest of `windows` runs; `job` returns its seconds."""
    job()
    return 1.0 / min(job() for _ in range(windows))


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


def play(world: World, n: int, script: Script) -> float:
    """Seconds that a fresh core takes for the script."""
    core = Core(world, n)
    start = time.perf_counter()
    for t in range(len(script.char)):
        envs, records = script.resets[t]
        if len(envs):
            core.reset(envs, records)
        core.step(script.history[t], script.cap[t], script.char[t])
    return time.perf_counter() - start


def _gymnasium(world: World, windows: int, n: int = 64, steps: int = 60) -> Iterator[Row]:
    """The Gymnasium interface: native, native without the bool mask, and SyncVectorEnv."""
    script = write_script(world, n, steps)
    actions = np.stack([script.history, script.cap, script.char], axis=2)
    subjects = {
        "flexattn": LexicalVectorEnv(n, world=world),
        "flexattn, packed mask": LexicalVectorEnv(n, world=world, action_mask=False),
        "gymnasium.SyncVectorEnv": SyncVectorEnv([lambda: LexicalEnv(world=world)] * n),
    }
    seconds = dict.fromkeys(subjects, np.inf)
    for _ in range(windows):
        for subject, env in subjects.items():
            env.reset(seed=1)
            start = time.perf_counter()
            for action in actions:
                env.step(action)
            seconds[subject] = min(seconds[subject], time.perf_counter() - start)
    for subject, elapsed in seconds.items():
        yield Row("env", f"gymnasium/{n}", subject, n * steps / elapsed, "steps/s")


def _sampler(world: World, windows: int, n: int = 4096, draws: int = 20) -> Row:
    core, rng = Core(world, n), np.random.default_rng(0)
    core.reset()

    def job() -> float:
        start = time.perf_counter()
        for _ in range(draws):
            core.sample_legal(rng)
        return time.perf_counter() - start

    return Row("env", f"sample-legal/{n}", "flexattn", best(job, windows) * n * draws, "steps/s")


def _catalogs(world: World, windows: int, million: int, n: int = 4096) -> Iterator[Row]:
    """What a large catalog costs a step: one of 1,000 terms beside one of a million."""
    assert world.catalog is not None
    scripts = {}
    for size in (1000, million):
        grown = world.with_catalog(grown_catalog(world.catalog, size, world))
        scripts[size] = (grown, write_script(grown, n, 60))
    seconds = dict.fromkeys(scripts, np.inf)
    for _ in range(windows):
        for size, (grown, script) in scripts.items():
            seconds[size] = min(seconds[size], play(grown, n, script))
    for size, elapsed in seconds.items():
        yield Row("env", f"core/{n}/terms-{size}", "flexattn", n * 60 / elapsed, "steps/s")


def grown_catalog(catalog: Catalog, size: int, world: World) -> Catalog:
    """`catalog` cut or filled up to `size` terms of characters that the answers have."""
    rng = np.random.default_rng(size)
    terms = dict.fromkeys(entry.term for entry in catalog.entries[:size])
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
