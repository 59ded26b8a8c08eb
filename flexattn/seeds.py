"""Many runs side by side: one for each seed of each configuration, each in a process of its own.

A run lies in `<run.folder>/<run.name>/seed-<n>`, so that a pattern such as logs/flex/seed-* names
an arm. A run that is finished is skipped, one that was begun goes on from its newest checkpoint;
so the same command, given again, goes on where it stopped. A process that was killed or failed is
started again, unless it fails again and again without a new checkpoint.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path

from flexattn.audit.folder import CONFIG, MANIFEST, RunFolder
from flexattn.config import (
    Config,
    RunSection,
    dump_config,
    load_config,
    parse_config,
    resolve_path,
)
from flexattn.corpus import load_corpus
from flexattn.display import Display, Together
from flexattn.errors import ConfigError, FlexAttnError

SAID = "said.txt"  # what a run that nobody watches prints
FAILURES = 3  # in a row without a new checkpoint, then a run is given up
TELL_EVERY_S = 0.25
STOP_S = 20.0
REFUSED = 2  # exit code: something that a user can mend, trying again won't help
MOST_SEEDS = 10_000


@dataclass(frozen=True)
class Task:
    """One run: a complete configuration, which names its folder and its seed."""

    config: Config

    @property
    def path(self) -> Path:
        """The run folder."""
        return Path(self.config.run.folder) / self.config.run.name

    @property
    def name(self) -> str:
        """The arm and the seed, such as flex/seed-3."""
        return f"{self.path.parent.name}/{self.path.name}"

    @cached_property
    def steps(self) -> int:
        """Steps of the whole run: rollouts in stage A, gradient steps else."""
        train, stages = self.config.train, self.config.stages
        if stages.stage == "a":
            corpus = self.config.corpus
            answers = len(load_corpus(resolve_path(corpus.path), corpus.records).train)
            return stages.passes * -(-answers // min(train.rollout_answers, answers))
        alone = train.clone_steps + train.dagger_steps if stages.stage == "c" else 0
        return alone + train.warmup_steps + train.sac_steps

    def finished(self) -> bool:
        """Whether the run came to its end.

        Raises: ConfigError where the folder holds a run of another configuration.
        """
        if not (self.path / MANIFEST).is_file():
            return False
        folder = RunFolder.open(self.path)
        found = parse_config(folder.config_text(), str(self.path / CONFIG))
        if found.model_copy(update={"run": self.config.run}) != self.config:
            raise ConfigError(
                f"{self.path}: holds a run of another configuration; choose another run.name, such "
                f"as --set run.name={self.path.parent.name}-2"
            )
        return folder.ended()

    def newest(self) -> int:
        """The step of the newest checkpoint, 0 without one."""
        names = [place.name for place in (self.path / "checkpoints").glob("step-*")]
        return max((int(name.removeprefix("step-")) for name in names), default=0)


def parse_seeds(text: str) -> tuple[int, ...]:
    """Seeds from "0-9", "3" or "0-3,7".

    Raises: ConfigError where it isn't that, or names a seed twice.
    """
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise ConfigError(f"--seeds {text}: expected whole numbers such as 0-9 or 1,2,5")
        low, high = int(first), int(last or first)
        if high < low or high - low >= MOST_SEEDS:
            raise ConfigError(
                f"--seeds {text}: {part.strip()} is no range of at most {MOST_SEEDS:,}, "
                f"expected the lower seed first"
            )
        found.extend(range(low, high + 1))
    if len(set(found)) != len(found):
        raise ConfigError(f"--seeds {text}: names a seed twice, expected each once")
    return tuple(found)


def tasks(
    configs: Sequence[str], overrides: Sequence[str], seeds: Sequence[int]
) -> tuple[Task, ...]:
    """A run for each seed of each configuration; arms take turns, so that they grow together.

    Raises: ConfigError where a file is wrong, or two of them have one name.
    """
    arms: dict[str, tuple[str, Config]] = {}
    for path in configs:
        config = load_config(path, overrides)
        if config.run.name in arms:
            raise ConfigError(
                f"{path}: run.name is {config.run.name} like in {arms[config.run.name][0]}; "
                f"expected a name of its own for each arm"
            )
        arms[config.run.name] = (path, config)
    return tuple(
        Task(
            config.model_copy(
                update={
                    "seed": seed,
                    "run": RunSection(
                        name=f"seed-{seed}", folder=str(Path(config.run.folder) / name)
                    ),
                }
            )
        )
        for seed in seeds
        for name, (_, config) in arms.items()
    )


def workers(asked: int | None, found: Sequence[Task]) -> int:
    """How many runs go side by side: as asked, else one a CPU.

    Raises: ConfigError below 1.
    """
    if asked is not None and asked < 1:
        raise ConfigError(f"--workers {asked}: expected 1 or more")
    return max(1, min(asked or os.cpu_count() or 1, len(found)))


# ---- the watching side -------------------------------------------------------------------


@dataclass
class _Place:
    """A running process and what it told last."""

    task: Task
    process: SpawnProcess
    slot: int
    checkpoint: int
    refused: str = ""


@dataclass
class _Pool:
    """The runs that are left, those that run, and why some were given up."""

    waiting: deque[Task]
    display: Together
    running: dict[Connection, _Place] = field(default_factory=dict)
    failed: dict[str, int] = field(default_factory=dict)
    given_up: dict[Task, str] = field(default_factory=dict)

    def start(self, task: Task) -> None:
        context = get_context("spawn")
        here, there = context.Pipe(duplex=False)
        slot = min(set(range(len(self.running) + 1)) - {p.slot for p in self.running.values()})
        process = context.Process(
            target=work, args=(dump_config(task.config), there, slot), name=task.name
        )
        # blocked there for good: Ctrl-C is for the watching side, which then asks each to stop
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            process.start()
            there.close()
            self.running[here] = _Place(task, process, slot, task.newest())
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        self.display.begun(task.name)

    def hear(self, pipe: Connection) -> None:
        """Take what a process tells; where it has ended, see how."""
        place = self.running[pipe]
        try:
            told = pipe.recv()
        except (EOFError, OSError):
            del self.running[pipe]
            pipe.close()
            place.process.join()
            self._ended(place)
            return
        if isinstance(told, str):
            place.refused = told
        else:
            self.display.reached(place.task.name, *told)

    def _ended(self, place: _Place) -> None:
        task, code = place.task, place.process.exitcode
        if code == 0:
            self.display.finished(task.name, task.steps)
            return
        if code == REFUSED:
            self.given_up[task] = place.refused
            self.display.gone(task.name)
            return
        forward = task.newest() > place.checkpoint
        failures = 1 if forward else self.failed.get(task.name, 0) + 1
        self.failed[task.name] = failures
        how = f"was killed by signal {-code}" if code and code < 0 else f"ended with code {code}"
        if failures >= FAILURES:
            self.given_up[task] = (
                f"{task.path}: {how}, {failures} times without a new checkpoint; "
                f"{task.path / SAID} says more"
            )
            self.display.gone(task.name)
            return
        self.display.say(f"{task.name} {how}; it goes on from step {task.newest()}")
        self.waiting.appendleft(task)

    def stop(self) -> None:
        """Ask all to stop, and end those that don't."""
        for place in self.running.values():
            place.process.terminate()
        until = time.monotonic() + STOP_S
        for place in self.running.values():
            place.process.join(max(0.0, until - time.monotonic()))
            if place.process.is_alive():
                place.process.kill()
                place.process.join()


def run_here(found: Sequence[Task], side_by_side: int, display: Together) -> dict[Task, str]:
    """Bring every run to its end, so many at a time, on this machine.

    Returns: the runs that were given up, and why.
    Raises: ConfigError before anything starts, where a folder holds another run.
    """
    left = deque(task for task in found if not skip(task, display))
    pool = _Pool(left, display)
    with display:
        try:
            while pool.waiting or pool.running:
                while pool.waiting and len(pool.running) < side_by_side:
                    pool.start(pool.waiting.popleft())
                for pipe in wait(list(pool.running), timeout=TELL_EVERY_S):
                    pool.hear(pipe)  # type: ignore[arg-type]
                display.show()
        except BaseException:
            pool.stop()
            display.say("stopped; the same command goes on where each run was")
            raise
    return pool.given_up


def skip(task: Task, display: Together) -> bool:
    """Whether there is nothing left to do for a run; the display knows it then."""
    ended = task.finished()
    if ended:
        display.finished(task.name, task.steps, before=True)
    else:
        display.expect(task.name, task.newest(), task.steps)
    return ended


def farewell(found: Sequence[Task], given_up: dict[Task, str]) -> int:
    """Say where the runs are and what to do next.

    Returns: exit code, 1 where a run was given up.
    """
    for reason in given_up.values():
        print(f"error: {reason}", file=sys.stderr)
    folders = list(dict.fromkeys(task.path.parent for task in found))
    done = len(found) - len(given_up)
    listed = ", ".join(f"{folder}/seed-*" for folder in folders)
    print(f"{done} of {len(found)} runs are finished: {listed}")
    if given_up:
        return 1
    print("\nwhat to do next:")
    if len(folders) > 1:
        print(
            f"  python -m flexattn.report --baseline {folders[0]}/seed-* "
            f"--candidate {folders[1]}/seed-* --out reports/{folders[1].name}"
        )
    print(f"  python -m flexattn.replay {found[0].path}")
    return 0


# ---- the working side --------------------------------------------------------------------


class Told(Display):
    """Tells a pipe how far a run is; lines go where stdout goes."""

    def __init__(self, pipe: Connection) -> None:
        """Take the pipe's writing end."""
        super().__init__(plain=True)
        self.pipe, self.told, self.trained = pipe, 0.0, 0

    def advance(self, characters: int, values: Mapping[str, float]) -> None:
        """Count the characters of this process."""
        super().advance(characters, values)
        self.trained += characters

    def reached(self, step: int, steps: int) -> None:
        """Tell now and then."""
        now = time.monotonic()
        if now - self.told > TELL_EVERY_S or step == steps:
            self.told = now
            self.pipe.send((step, self.trained))


def work(text: str, pipe: Connection, slot: int) -> None:
    """A process: bring the run of a configuration to its end.

    Args:
      text: the complete configuration, YAML.
      pipe: gets (step, characters), or one line where the run is refused.
      slot: 0.. among the runs side by side; picks the GPU.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    config = parse_config(text, "the task")
    path = Path(config.run.folder) / config.run.name
    path.mkdir(parents=True, exist_ok=True)
    with (path / SAID).open("ab") as said:
        os.dup2(said.fileno(), 1)
        os.dup2(said.fileno(), 2)
    try:
        from flexattn import job  # here, so that what it prints is kept too

        job.choose_gpu(config, slot)
        job.finish(config, Told(pipe))
    except FlexAttnError as error:
        pipe.send(str(error))
        sys.exit(REFUSED)
    except KeyboardInterrupt:
        sys.exit(130)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _end_with_parent() -> None:
    """A run that nobody watches any more ends as if killed; the next call goes on with it."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
