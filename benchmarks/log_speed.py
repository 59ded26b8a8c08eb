"""How fast a log is written, its chain verified and its numbers derived; plain loops beside.

Writer: the episodes are made before the clock starts; it stops when the last seal is on the disk.
Peers write the same records line by line, with a SHA-256 of each and of the whole, and no seals.
Each figure is the best of several turns: what runs beside can only slow one down.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from flexattn.audit.folder import RunFolder
from flexattn.audit.verify import verify
from flexattn.audit.writer import RunLog
from flexattn.bench import Row
from flexattn.config import dump_config
from flexattn.derivation import derivers_of
from flexattn.domain import Domain
from flexattn.env.collect import EpisodeSteps, Taken
from flexattn.env.core import Core

Episodes = list[tuple[dict[str, Any], Taken]]
LANES = 64


def speed(domain: Domain, steps: int = 200_000, turns: int = 5) -> Iterator[Row]:
    """Rows of the writer, the chain and the numbers, on a log of about `steps` steps."""
    episodes = write_episodes(domain, min(steps, 40_000))
    size = sum(len(taken) for _, taken in episodes)
    repeats = max(1, steps // size)
    records = repeats * (size + len(episodes))
    with tempfile.TemporaryDirectory(prefix="flexattn-bench-") as scratch:
        numbers = iter(range(10**6))

        def write() -> RunFolder:
            folder = _folder(domain, Path(scratch) / str(next(numbers)))
            with RunLog(folder, domain.config.log) as log:
                for _ in range(repeats):
                    for header, taken in episodes:
                        log.episode(header, taken)
                log.event("end")
            return folder

        yield Row("log", "writer", "flexattn", records / _best(write, turns), "records/s")
        rows = [orjson.loads(line) for _, taken in episodes for line in taken.lines(0).splitlines()]
        for subject, dumps in (("orjson+sha256", orjson.dumps), ("json+sha256", _dumps)):
            seconds = _best(lambda: _plain(Path(scratch) / "plain", rows, dumps), turns)  # noqa: B023
            yield Row("log", "writer", subject, len(rows) / seconds, "records/s")
        folder = write()
        logged = repeats * size
        for workers in (1, 2):
            seconds = _best(lambda: _sound(verify(folder, workers=workers)), turns)  # noqa: B023
            yield Row("log", f"chain/{workers}", "flexattn", logged / seconds, "steps/s")
        derivers = derivers_of(folder)
        for workers in (1, 2):
            check = derivers.over(workers)
            seconds = _best(lambda: _sound(verify(folder, check)), turns)  # noqa: B023
            yield Row("log", f"numbers/{workers}", "flexattn", logged / seconds, "steps/s")


def write_episodes(domain: Domain, steps: int, seed: int = 1) -> Episodes:
    """Answers of which 9 of 10 characters are the teacher's, the others legal ones."""
    world = domain.world
    core, rng = Core(world, LANES, seed), np.random.default_rng(seed)
    made: Episodes = []
    count = 0
    while count < steps:
        core.reset()
        kept, running = EpisodeSteps(core), np.ones(LANES, np.bool_)
        while running.any():
            active = running.copy()
            history = rng.integers(0, len(world.settings.history_chars), LANES).astype(np.int32)
            cap = rng.integers(0, len(world.settings.hit_cap_chars), LANES).astype(np.int32)
            faithful = rng.random(LANES) < 0.9
            char = np.where(faithful, core.teacher(), core.sample_legal(rng)).astype(np.int32)
            steps_taken = core.step(history, cap, char, None, active)
            kept.add(history, cap, steps_taken, active)
            for env in np.flatnonzero(active & (steps_taken.terminated | steps_taken.truncated)):
                taken = kept.taken(int(env))
                made.append((kept.header(int(env)), taken))
                count += len(taken)
                running[env] = False
    return made


def _folder(domain: Domain, path: Path) -> RunFolder:
    return RunFolder.create(
        path,
        config=dump_config(domain.config).encode(),
        corpus=domain.corpus_bytes,
        catalogs={domain.catalog.file: domain.catalog.canonical_bytes()},
    )


def _best(job: Callable[[], object], turns: int) -> float:
    """Seconds of the fastest turn, behind one that only warms up."""
    job()
    seconds = []
    for _ in range(turns):
        start = time.perf_counter()
        job()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def _sound(report: Any) -> None:
    if not report.sound:
        raise RuntimeError(f"the log that was just written is not sound: {report.findings[0]}")


def _dumps(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _plain(path: Path, rows: list[dict[str, Any]], dumps: Callable[[Any], bytes]) -> None:
    whole = hashlib.sha256()
    with path.open("wb") as file:
        for row in rows:
            line = dumps(row) + b"\n"
            hashlib.sha256(line).hexdigest()
            whole.update(line)
            file.write(line)
