"""Train a student: read a configuration, open a run folder, run the loop, say what came of it."""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numba
import torch

from flexattn import __version__
from flexattn.agents import checkpoint as checkpoints
from flexattn.assess import Assessment
from flexattn.audit.folder import EVALUATIONS, RunFolder
from flexattn.audit.writer import RunLog
from flexattn.config import Config, dump_config, load_config
from flexattn.display import Display
from flexattn.domain import Domain
from flexattn.errors import ConfigError, MissingExtraError, command
from flexattn.evaluation.optimum import Rules, optimum_of
from flexattn.evaluation.rows import REGIMES, Row, summary
from flexattn.training import Training

EPILOG = """example:
  python -m flexattn.train --config configs/medical.yaml --set agent.actor_lr=1e-4
  python -m flexattn.train --resume logs/medical
"""
LIBRARIES = ("numpy", "numba", "torch", "gymnasium", "orjson", "pydantic", "safetensors")
SHOWN = (
    "term_recall",
    "rouge_l",
    "word_noncompliance",
    "typo_rate",
    "net_lexical",
    "lp_selectivity",
)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="flexattn.train",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument(
        "--config", metavar="FILE", help="YAML file; every key is explained in configs/medical.yaml"
    )
    made.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        dest="overrides",
        help="override one key, such as train.sac_steps=200; may be given again",
    )
    made.add_argument(
        "--resume", metavar="RUN", help="run folder to go on with, from its newest checkpoint"
    )
    made.add_argument("--plain", action="store_true", help="plain lines also on a terminal")
    return made


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Train, and end by saying where things are and what to do next."""
    given = parser().parse_args(argv)
    if given.resume:
        folder = RunFolder.open(given.resume)
        domain = Domain.of_run(folder)
        _same_config(given.config, given.overrides, domain.config, folder)
        if folder_ended(folder):
            print(
                f"{folder.path}: is finished; nothing to do. Verify it: "
                f"python -m flexattn.replay {folder.path}"
            )
            return 0
    elif given.config:
        domain = Domain.of_config(load_config(given.config, given.overrides))
        _check_device(domain.config)
        folder = create_folder(domain)
    else:
        raise ConfigError("--config or --resume is missing; try --config configs/smoke.yaml")
    _settle_torch(domain.config)
    with (
        Display(plain=True if given.plain else None) as display,
        RunLog(folder, domain.config.log) as log,
    ):
        run = TrainingRun(domain, folder, log, display)
        run.resume() if given.resume else run.begin()
        run.go()
    run.farewell()
    return 0


@dataclass
class TrainingRun:
    """One run from its folder to its last line."""

    domain: Domain
    folder: RunFolder
    log: RunLog
    display: Display

    def __post_init__(self) -> None:
        """Build everything that a run needs; nothing is written yet."""
        config, world = self.domain.config, self.domain.world
        self.started = time.monotonic()
        self.training = Training(
            config, world, self.log, self.display, torch.device(config.train.device)
        )
        frequency = {entry.term: entry.df for entry in self.domain.catalog.entries}
        self.assessment = Assessment(world, frequency, config.seed)
        self.evaluations = self.folder.path / EVALUATIONS
        self.board = _tensorboard(self.folder.path) if config.train.tensorboard else None
        self.results: dict[str, dict[str, float | None]] = {}

    def begin(self) -> None:
        """Say what starts."""
        corpus, world = self.domain.corpus, self.domain.world
        self.display.say(
            f"{self.folder.path}: {len(corpus.train)} train and {len(corpus.heldout)} held-out "
            f"answers, {len(world.term_list)} terms, {world.size} characters; "
            f"{self.training.total} steps"
        )

    def resume(self) -> None:
        """Go back to the newest sound checkpoint, or to step 1 where there is none."""
        saved, skipped = checkpoints.load_newest(self.folder.path / "checkpoints")
        for line in skipped:
            self.display.say(f"warning: {line}")
        exact = self.domain.config.train.device == "cpu"
        resumed = self.log.resume(saved.state["log"] if saved else None, exact)
        if saved:
            self.training.restore(saved)
        _cut(self.evaluations, saved.state["evaluations_bytes"] if saved else 0)
        where = f"step {saved.step}" if saved else "step 1, since there is no checkpoint"
        self.display.say(f"{self.folder.path}: goes on from {where}; {resumed}")

    def go(self) -> None:
        """All steps that are left, then the last evaluation and the end of the log."""
        train = self.domain.config.train
        for step in self.training.run():
            if step % train.evaluate_every == 0 and step < self.training.total:
                self._evaluate("greedy", train.evaluate_answers)
            if step % train.checkpoint_every == 0 or step == self.training.total:
                self._save()
        for regime in REGIMES:
            self._evaluate(regime, train.final_answers or None, last=True)
        self.log.event("end")

    def farewell(self) -> None:
        """Where things are, what the student can do, what to do next."""
        from rich.console import Console
        from rich.table import Table

        console = Console(width=None if sys.stdout.isatty() else 120)
        table = Table(
            title=f"{self.folder.path}: {self.training.characters:,} characters trained "
            f"in {time.monotonic() - self.started:.0f} s"
        )
        table.add_column("regime")
        for name in SHOWN:
            table.add_column(name, justify="right")
        for regime, figures in self.results.items():
            table.add_row(regime, *(_shown(figures.get(name)) for name in SHOWN))
        world = self.domain.world
        answers = [world.records[record].answer for record in world.train]
        weights = dict(zip(world.term_list, world.terms.weight.tolist()))
        rules = Rules.of(weights, answers, self.domain.config)
        best, selectivity = optimum_of(answers, rules)
        table.add_row(
            "[dim]optimum under perfect copying", "", "", "", "", _shown(best), _shown(selectivity)
        )
        console.print(table)
        question = world.records[int(world.train[0])].questions[0]
        print(
            f"log head {self.log.head}\n\nwhat to do next:\n"
            f"  python -m flexattn.replay {self.folder.path}\n"
            f'  python -m flexattn.generate --run {self.folder.path} --question "{question}"'
        )

    def _evaluate(self, regime: str, most: int | None, *, last: bool = False) -> None:
        step = self.training.step
        rows: list[Row] = list(
            self.assessment.rows(self.training.learner.actor, regime, step, most)
        )
        if not rows:
            return
        with self.evaluations.open("ab") as file:
            file.writelines(
                replace(row, characters=self.training.characters).line() for row in rows
            )
        figures = summary(rows)
        if last:
            self.results[regime] = figures
        if self.board is not None:
            for name, value in figures.items():
                if value is not None:
                    self.board.add_scalar(f"{regime}/{name}", value, step)
        shown = ", ".join(
            f"{name} {_shown(figures.get(name))}"
            for name in ("term_recall", "rouge_l", "lp_selectivity")
        )
        self.display.figures.values["term_recall"] = figures["term_recall"] or 0.0
        self.display.say(f"step {step}, {regime}, {len(rows)} answers: {shown}")

    def _save(self) -> None:
        size = self.evaluations.stat().st_size if self.evaluations.exists() else 0
        self.training.save(self.folder.path / "checkpoints", {"evaluations_bytes": size})


def create_folder(domain: Domain) -> RunFolder:
    """A fresh run folder; where the name is taken, the next free one: medical, medical-2, ..."""
    config = domain.config
    base = Path(config.run.folder) / config.run.name
    path, number = base, 1
    while path.exists():
        number += 1
        path = base.with_name(f"{base.name}-{number}")
    return RunFolder.create(
        path,
        config=dump_config(config).encode(),
        corpus=domain.corpus_bytes,
        corpus_path=str(domain.corpus_path),
        catalogs={domain.catalog.file: domain.catalog.canonical_bytes()},
        manifest={
            "seed": config.seed,
            "flexattn": __version__,
            "python": platform.python_version(),
            "libraries": {name: _version(name) for name in LIBRARIES},
            "code": code_sha256(),
        },
    )


def code_sha256() -> str:
    """SHA-256 over the package's Python files, by path."""
    root = Path(__file__).parent
    digest = hashlib.sha256()
    for file in sorted(root.rglob("*.py")):
        digest.update(f"{file.relative_to(root).as_posix()}\0".encode())
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def folder_ended(folder: RunFolder) -> bool:
    """Whether the log's last lines are the event `end` and the seal that covers it."""
    files = folder.step_files()
    if not files:
        return False
    with files[-1].open("rb") as file:
        file.seek(max(0, files[-1].stat().st_size - (1 << 20)))
        lines = file.read().splitlines()[-2:]
    return (
        len(lines) == 2
        and lines[0].startswith(b'{"event":"end"')
        and lines[1].startswith(b'{"event":"seal"')
    )


def _same_config(
    path: str | None, overrides: Sequence[str], config: Config, folder: RunFolder
) -> None:
    if overrides or path:
        asked = load_config(path or str(folder.path / "config.yaml"), overrides)
        if asked != config:
            raise ConfigError(
                f"--config {path or ''}: differs from {folder.path / 'config.yaml'}, which counts "
                f"for a resumed run; leave --config and --set away, or start a new run"
            )


def _settle_torch(config: Config) -> None:
    torch.set_num_threads(config.train.threads)
    numba.set_num_threads(min(config.train.threads, os.cpu_count() or 1))
    torch.use_deterministic_algorithms(True)


def _check_device(config: Config) -> None:
    if config.train.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("train.device is cuda, but torch finds no GPU here; set train.device=cpu")


def _tensorboard(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise MissingExtraError("train.tensorboard", "tensorboard") from None
    return SummaryWriter(str(folder / "tensorboard"))


def _cut(file: Path, size: int) -> None:
    """Evaluations after the checkpoint are made again."""
    if file.exists():
        with file.open("r+b") as stream:
            stream.truncate(size)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "missing"


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


if __name__ == "__main__":
    sys.exit(main())
