"""One training run, from its folder to its last line; the verb, the pool and the cluster share it.

A run folder exists before the first step. A run that was killed goes on from its newest checkpoint,
one without a checkpoint begins again in the same folder, a finished one is left as it is.
"""

from __future__ import annotations

import hashlib
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numba

from flexattn import __version__
from flexattn.agents import checkpoint as checkpoints
from flexattn.assess import Assessment
from flexattn.audit.alone import alone_in, claim
from flexattn.audit.folder import CONFIG, EVALUATIONS, MANIFEST, RunFolder
from flexattn.audit.writer import RunLog
from flexattn.config import Config, dump_config, resolve_path
from flexattn.display import Display
from flexattn.domain import Domain
from flexattn.errors import ConfigError, MissingExtraError
from flexattn.evaluation.bert import BertScorer
from flexattn.evaluation.optimum import Rules, optimum_of
from flexattn.evaluation.rows import REGIMES, Row, summary
from flexattn.live import LiveCatalogs
from flexattn.stages.trainer import trainer_of

if TYPE_CHECKING:
    from flexattn.agents.ranks import Ranks

LIBRARIES = ("numpy", "numba", "torch", "gymnasium", "orjson", "pydantic", "safetensors")
BOARD_EVERY = 10  # steps between points of TensorBoard's training curves
SHOWN = (
    "term_recall",
    "rouge_l",
    "word_noncompliance",
    "typo_rate",
    "net_lexical",
    "lp_selectivity",
)


@dataclass
class TrainingRun:
    """One run from its folder to its last line."""

    domain: Domain
    folder: RunFolder
    log: RunLog
    display: Display
    ranks: Ranks | None = None

    def __post_init__(self) -> None:
        """Build everything that a run needs; nothing is written yet."""
        config, world = self.domain.config, self.domain.world
        self.started = time.monotonic()
        self.live = LiveCatalogs(
            self.domain, self.folder, self.log, config.lexicon, self.display.say
        )
        # several ranks would have to agree on the place: they keep the version they began with
        live = self.live if self.ranks is None or self.ranks.size == 1 else None
        self.training = trainer_of(config, world, self.log, self.display, live, self.ranks)
        self.assessment = self._assessment()
        model = config.train.bert_model
        self.bert = BertScorer(resolve_path(model), config.train.bert_layer) if model else None
        self.evaluations = self.folder.path / EVALUATIONS
        self.board: Any = None
        self.first_step = 0
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
        self.training.resume_catalogs(saved)
        self.first_step = saved.step if saved else 0
        _cut(self.evaluations, saved.state["evaluations_bytes"] if saved else 0)
        where = f"step {saved.step}" if saved else "step 1, since there is no checkpoint"
        self.display.say(f"{self.folder.path}: goes on from {where}; {resumed}")

    def go(self) -> None:
        """All steps that are left, then the last evaluation and the end of the log."""
        train = self.domain.config.train
        if train.tensorboard:
            self.board = _tensorboard(self.folder.path, self.first_step + 1)
        try:
            self.live.open()
            for step in self.training.run():
                self.display.reached(step, self.training.total)
                if self.board is not None and step % BOARD_EVERY == 0:
                    self._show(step, "train", self.display.figures.values)
                    self._show(step, "choices", self.display.shares())
                if step % train.evaluate_every == 0 and step < self.training.total:
                    self._evaluate("greedy", train.evaluate_answers)
                if step % train.checkpoint_every == 0 or step == self.training.total:
                    self._save()
            for regime in REGIMES:
                self._evaluate(regime, train.final_answers or None, last=True)
        finally:
            self.live.close()
            if self.board is not None:
                self.board.close()
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
        world = self.training.world
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
        if self.assessment.world is not self.training.world:
            self.assessment = self._assessment()
        rows: list[Row] = list(self.assessment.rows(self.training.student, regime, step, most))
        if not rows:
            return
        if last and self.bert is not None:
            rows = self.bert.scored(rows)
        with self.evaluations.open("ab") as file:
            file.writelines(
                replace(row, characters=self.training.characters).line() for row in rows
            )
        figures = summary(rows)
        if last:
            self.results[regime] = figures
        if self.board is not None:
            self._show(step, regime, figures)
        shown = ", ".join(
            f"{name} {_shown(figures.get(name))}"
            for name in ("term_recall", "rouge_l", "lp_selectivity")
        )
        self.display.figures.values["term_recall"] = figures["term_recall"] or 0.0
        self.display.say(f"step {step}, {regime}, {len(rows)} answers: {shown}")

    def _assessment(self) -> Assessment:
        """Answers are written and scored under the catalog version in force."""
        world = self.training.world
        catalog = world.catalog or self.domain.catalog
        frequency = {entry.term: entry.df for entry in catalog.entries}
        return Assessment(world, frequency, self.domain.config.seed)

    def _show(self, step: int, group: str, figures: Mapping[str, float | None]) -> None:
        for name, value in figures.items():
            if value is not None:
                self.board.add_scalar(f"{group}/{name}", value, step)

    def _save(self) -> None:
        size = self.evaluations.stat().st_size if self.evaluations.exists() else 0
        self.training.save(self.folder.path / "checkpoints", {"evaluations_bytes": size})


@contextmanager
def together(config: Config) -> Iterator[Ranks | None]:
    """The processes that `torchrun` started, None without it; left at the end.

    After an error nobody is waited for: this process ends, and `torchrun` ends the others.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield None
        return
    _check(config)
    from flexattn.agents.ranks import Ranks

    ranks = Ranks.join(config.train.device)
    yield ranks
    ranks.leave()


def begin(
    config: Config, display: Display, path: Path | None = None, ranks: Ranks | None = None
) -> TrainingRun | None:
    """Make a run folder, `path` or the next free one, and train to the end.

    Returns: the run; None on a rank that is not the first.
    Raises: FlexAttnError before anything is written, where a file or a device isn't there.
    """
    domain = Domain.of_config(config)
    _check(config, ranks)
    if ranks is None:
        folder = create_folder(domain, path)
    else:
        made = str(create_folder(domain, path).path) if ranks.first else ""
        folder = RunFolder.open(ranks.tell(made))
    return _train(domain, folder, display, resumed=False, ranks=ranks)


def go_on(
    folder: RunFolder,
    display: Display,
    asked: Callable[[], Config] | None = None,
    ranks: Ranks | None = None,
) -> TrainingRun | None:
    """Train a run to its end from its newest checkpoint; None where it is finished.

    Args:
      folder: the run.
      display: where progress is shown.
      asked: reads the configuration that was named beside the folder, whose own counts.
      ranks: the processes that train together; None is returned on all but the first.

    Raises: ConfigError where the two differ.
    """
    domain = Domain.of_run(folder)
    if asked is not None and asked() != domain.config:
        raise ConfigError(
            f"--config: differs from {folder.path / CONFIG}, which counts for a resumed run; "
            f"leave --config and --set away, or start a new run"
        )
    if folder.ended():
        return None
    _check(domain.config, ranks)
    return _train(domain, folder, display, resumed=True, ranks=ranks)


def finish(config: Config, display: Display) -> TrainingRun | None:
    """Bring the run that `config` names by folder and name to its end, wherever it stands.

    Returns: the run, None where it was finished already.
    """
    path = Path(config.run.folder) / config.run.name
    if (path / MANIFEST).is_file():
        return go_on(RunFolder.open(path), display)
    return begin(config, display, path)


def _train(
    domain: Domain,
    folder: RunFolder,
    display: Display,
    *,
    resumed: bool,
    ranks: Ranks | None = None,
) -> TrainingRun | None:
    _settle_torch(domain.config)
    if ranks is not None and not ranks.first:
        _follow(domain, folder, display, ranks, resumed=resumed)
        return None
    with _alone_in(folder), display, RunLog(folder, domain.config.log) as log:
        run = TrainingRun(domain, folder, log, display, ranks)
        run.resume() if resumed else run.begin()
        run.go()
    return run


def _follow(
    domain: Domain, folder: RunFolder, display: Display, ranks: Ranks, *, resumed: bool
) -> None:
    """Learn with the first rank, which alone logs, evaluates and saves."""
    training = trainer_of(domain.config, domain.world, None, display, None, ranks)
    saved, _ = checkpoints.load_newest(folder.path / "checkpoints") if resumed else (None, [])
    if saved:
        training.restore(saved)
    for _ in training.run():
        pass


@contextmanager
def _alone_in(folder: RunFolder) -> Iterator[None]:
    """Nobody else trains in the folder."""
    with ExitStack() as stack:
        try:
            stack.enter_context(alone_in(folder.path, wait=False))
        except BlockingIOError:
            raise ConfigError(
                f"{folder.path}: another process trains here; wait for it, or end it"
            ) from None
        yield


def create_folder(domain: Domain, path: Path | None = None) -> RunFolder:
    """A fresh run folder; without `path` the next free of medical, medical-2, ..."""
    config = domain.config
    return RunFolder.create(
        path or claim(partial(_folder_name, config)),
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


def _folder_name(config: Config, number: int) -> Path:
    base = Path(config.run.folder) / config.run.name
    return base if number == 1 else base.with_name(f"{base.name}-{number}")


def code_sha256() -> str:
    """SHA-256 over the package's Python files, by path."""
    root = Path(__file__).parent
    digest = hashlib.sha256()
    for file in sorted(root.rglob("*.py")):
        digest.update(f"{file.relative_to(root).as_posix()}\0".encode())
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def _settle_torch(config: Config) -> None:
    numba.set_num_threads(min(config.train.threads, os.cpu_count() or 1))
    if config.stages.stage == "a":
        return  # no network
    import torch

    torch.set_num_threads(config.train.threads)
    # as use_deterministic_algorithms, which loads the compiler too: 2 s that no eager run needs
    torch.set_deterministic_debug_mode("error")


def choose_gpu(config: Config, slot: int) -> None:
    """Runs side by side take the machine's GPUs in turn."""
    if config.train.device == "cuda":
        import torch

        if torch.cuda.is_available():
            torch.cuda.set_device(slot % torch.cuda.device_count())


def _check(config: Config, ranks: Ranks | None = None) -> None:
    """What a configuration asks of the machine is there, and enough for every rank."""
    if ranks is not None:
        for name in ("clone_batch_answers", "batch_answers"):
            if getattr(config.train, name) < ranks.size:
                raise ConfigError(
                    f"train.{name} is {getattr(config.train, name)}, expected at least one answer "
                    f"for each of the {ranks.size} ranks"
                )
        if config.lexicon.watch:
            raise ConfigError("lexicon.watch is set, which several ranks don't follow; unset it")
    if config.stages.stage != "a" and find_spec("torch") is None:
        raise ConfigError(
            f"stages.stage is {config.stages.stage}, which needs torch, and that isn't installed "
            f"here; install it, or set stages.stage=a"
        )
    if config.train.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise ConfigError(
                "train.device is cuda, but torch finds no GPU here; set train.device=cpu"
            )
    if config.train.tensorboard and find_spec("tensorboard") is None:
        raise MissingExtraError("train.tensorboard", "tensorboard")


def _tensorboard(folder: Path, step: int) -> Any:
    """A writer into the run folder; what an earlier part wrote from `step` on counts no more."""
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder / "tensorboard"), purge_step=step)


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
