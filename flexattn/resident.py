"""The training loop where everything lives on one GPU; every budget in steps, one step one update.

Each step the stream writes N x S characters and the learner takes them once. Both are CUDA graphs,
so the host sets the schedules, starts two graphs, and meanwhile writes the log of the environments
that are logged (`log.sample` of the student's): it steps them again on the CPU, whose numbers the
log holds. The device is waited for where figures are asked for, every `FIGURES_EVERY` steps.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from flexattn.agents import checkpoint as checkpoints
from flexattn.agents.checkpoint import Checkpoint
from flexattn.agents.decision import Choose
from flexattn.agents.policy import Student
from flexattn.agents.ranks import ALONE, Ranks
from flexattn.agents.resident import Captured, ResidentLearner, check
from flexattn.agents.schedule import curriculum, length_probabilities, linear
from flexattn.agents.stream import Stream
from flexattn.audit.writer import RunLog
from flexattn.config import Config
from flexattn.display import Display
from flexattn.env.collect import EpisodeSteps
from flexattn.env.core import Core
from flexattn.env.world import World
from flexattn.errors import ConfigError
from flexattn.evaluation.metrics import is_cjk

FIGURES_EVERY = 20  # steps
CLONE_WARM_STEPS = 50
CLONE_LAST_RATE = 0.05  # of clone_lr
_LOGGED = ("history_choice", "cap_choice", "taken", "written", "valid", "record", "asked")


def _share(config: Config, ranks: Ranks) -> Config:
    """The configuration with this rank's environments."""
    answers = config.train.rollout_answers
    if answers % ranks.size:
        raise ConfigError(
            f"train.rollout_answers is {answers}, expected a multiple of the {ranks.size} ranks"
        )
    update = {"rollout_answers": answers // ranks.size}
    return config.model_copy(update={"train": config.train.model_copy(update=update)})


class ResidentTraining:
    """Everything that changes during a run on a GPU."""

    def __init__(
        self, config: Config, world: World, log: RunLog | None, display: Display,
        device: torch.device, ranks: Ranks = ALONE, *, fused: bool = True,
    ) -> None:  # fmt: skip
        """Build learner and stream from a seed; writes nothing yet.

        Args:
          config: the whole of it.
          world: the tables.
          log: where the logged environments' episodes go; None: nowhere.
          display: where figures go.
          device: where everything lives.
          ranks: the processes that learn together; each steps its share of the environments, with
            random streams of its own.
          fused: whether torch.compile fuses the networks.

        Raises: ConfigError for a switch that only the CPU's learner knows.
        """
        check(config)
        config = _share(config, ranks)
        self.config, self.world, self.display, self.device = config, world, display, device
        # a norm of bfloat16 by float32 weights is fused all the same, and a split sum is as good
        for message in ("Mismatch dtype between input and weight", "\nOnline softmax is disabled"):
            warnings.filterwarnings("ignore", message=message)
        speed = _fused if fused else _plain
        torch.manual_seed(config.seed)
        if device.type == "cuda":
            torch.backends.cuda.matmul.allow_tf32 = True
            torch.use_deterministic_algorithms(False)  # atomics in the embeddings' gradients
        self.learner = ResidentLearner(config, world, device, speed, ranks)
        if ranks.size > 1:  # networks are equal, what is drawn is not
            torch.manual_seed(config.seed + ranks.rank)
        alphabet = [i for c, i in world.vocabulary.ids.items() if i < world.size and is_cjk(c)]
        self.stream = Stream(
            config.model_copy(update={"seed": config.seed + ranks.rank}), world, self.learner.actor,
            torch.tensor(alphabet, dtype=torch.int32, device=device), device, speed,
        )  # fmt: skip
        self.demos = self.stream.rows_of_teacher(config.agent.demo_fraction)
        lengths = np.array([len(term) for term in world.term_list])
        self.cap_lengths = length_probabilities(lengths, world.settings.hit_cap_chars)
        self.step = 0
        self._before = 0  # characters of the runs before a resume
        self._shown = 0
        wanted = config.log.sample > 0.0 and self.demos < self.stream.n
        self.logged = _Logged(self, log) if log is not None and wanted else None
        self._log = log
        questions, chunk = self.stream.questions, self.stream.chunk
        self._work = {
            name: (self._captured(work), demos)
            for name, demos, work in (
                ("clone", self.stream.n, lambda: self.learner.clone(chunk, questions)),
                ("critics", self.demos, lambda: self._update(actor=False)),
                ("sac", self.demos, lambda: self._update(actor=True)),
            )
        }
        self._collect = {
            demos: self._captured(lambda demos=demos: self.stream.collect(demos))  # type: ignore[misc]
            for demos in {self.stream.n, self.demos}
        }

    def _captured(self, work: Callable[[], None]) -> Captured:
        return Captured(work, self.device, self.learner.ranks)

    def _update(self, *, actor: bool) -> None:
        self.learner.update(self.stream.chunk, self.stream.questions, self.demos, actor=actor)

    @property
    def total(self) -> int:
        """Steps of the whole run."""
        return sum(steps for _, steps in self.phases)

    @property
    def phases(self) -> tuple[tuple[str, int], ...]:
        """Cloning, critics alone, SAC, and the steps of each."""
        train = self.config.train
        return (
            ("clone", train.clone_steps), ("critics", train.warmup_steps), ("sac", train.sac_steps)
        )  # fmt: skip

    @property
    def characters(self) -> int:
        """Characters trained; waits for the device."""
        return self._before + int(self.learner.characters)

    def run(self) -> Iterator[int]:
        """Do the steps that are left; yields after each."""
        first = 0
        for name, steps in self.phases:
            done = max(0, self.step - first)
            if done < steps:
                self.display.begin(name, steps, done)
                for n in range(done, steps):
                    self.one(name, n, steps)
                    self.step += 1
                    yield self.step
            first += steps

    def one(self, name: str, n: int, steps: int) -> None:
        """Step n of the `steps` of a phase: roll out, then update on what was written."""
        share = n / max(1, steps - 1)
        self._turn(name, n, steps, share if name == "sac" else 0.0)
        self.roll_out(name)
        logged = self.logged if name != "clone" else None
        if logged is not None:
            logged.fetch()
        self.learn(name)
        if logged is not None:
            logged.write()
        if (self.step + 1) % FIGURES_EVERY == 0:
            before, self._shown = self._shown, self.characters
            self.display.advance(self._shown - before, self.learner.take_stats())

    def roll_out(self, name: str) -> None:
        """Fill the chunk as the phase wants it."""
        self._collect[self._work[name][1]]()

    def learn(self, name: str) -> None:
        """The phase's update on the chunk."""
        self._work[name][0]()

    def _turn(self, name: str, n: int, steps: int, share: float) -> None:
        """Set the schedules of this step; see `Training._clone` and `Training._update`."""
        agent, at = self.config.agent, round(share * 1000)
        actor, window = agent.actor_lr, agent.window_lr
        if name == "clone":
            cosine = 0.5 * (1.0 + math.cos(math.pi * n / steps))
            warm = min(1.0, (n + 1) / CLONE_WARM_STEPS)
            actor = agent.clone_lr * warm * (CLONE_LAST_RATE + (1.0 - CLONE_LAST_RATE) * cosine)
            window = actor
        self.learner.dials.set(
            kappa_history=linear(agent.kappa.history, at, 1001),
            kappa_cap=linear(agent.kappa.cap, at, 1001),
            kappa_char=linear(agent.kappa.char, at, 1001),
            bc_weight=linear(agent.bc_weight, at, 1001),
            beta=linear(agent.dagger_beta, at, 1001), actor=actor, window=window,
        )  # fmt: skip
        self.stream.beta.copy_(self.learner.dials["beta"])
        rho = linear(agent.curriculum.rho, round(1000 * n / max(1, steps - 1)), 1001)
        chances = curriculum(rho, len(self.world.settings.history_chars), self.cap_lengths)
        self.stream.edges.copy_(
            torch.from_numpy(chances.ravel().cumsum().astype(np.float32)), non_blocking=True
        )

    def student(self, choose: Choose | None = None) -> Student:
        """A copy of the actor as it stands, one step at a time; see `Student`."""
        return Student(copy.deepcopy(self.learner.actor), choose=choose)

    # ---- checkpoints ---------------------------------------------------------------------

    def save(self, folder: Path, extra: dict[str, Any]) -> Path:
        """Write a checkpoint; the stream is no part of it, its environments begin anew."""
        state = {
            "log": self._log.position() if self._log is not None else None,
            "characters": self.characters, "seed": self.config.seed,
            "catalog": self.world.catalog_sha256, **extra,
        }  # fmt: skip
        tensors = checkpoints.learner_tensors(self.learner)
        return checkpoints.save(
            folder, self.step, tensors, state, self.config.train.keep_checkpoints
        )

    def restore(self, saved: Checkpoint) -> None:
        """Go back to a checkpoint; what follows is not the same bit for bit, and the log says so.

        Raises: CheckpointError where it does not fit the configuration.
        """
        optimiser = self.learner.actor_optimiser
        rates = [group["lr"] for group in optimiser.param_groups]
        with checkpoints.fitting(saved):
            checkpoints.restore_learner(self.learner, saved)
        for group, rate in zip(optimiser.param_groups, rates):
            group["lr"] = rate  # the dials again
        self.step, self._before = saved.step, saved.state["characters"]

    def resume_catalogs(self, saved: Checkpoint | None) -> None:
        """Nothing: a run on a GPU keeps the catalog that it began with."""


def _fused(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compiled for its one shape."""
    return torch.compile(function, dynamic=False, fullgraph=True)


def _plain(function: Callable[..., Any]) -> Callable[..., Any]:
    return function


class _Logged:
    """The student's environments that are logged, stepped again on the CPU."""

    def __init__(self, training: ResidentTraining, log: RunLog) -> None:
        """Take `log.sample` of the student's environments, one at least."""
        stream = training.stream
        students = max(1, stream.n - training.demos)
        count = max(1, round(training.config.log.sample * students))
        self.rows = slice(training.demos, training.demos + count)
        self.stream, self.log, self.eta = stream, log, 0
        # the environments are the sample; the writer keeps all that it is given
        log.settings = log.settings.model_copy(update={"sample": 1.0})
        self.core = Core(training.world, count)
        self.steps = EpisodeSteps(self.core)
        self.begun = np.zeros(count, np.bool_)
        cuda = training.device.type == "cuda"
        self.kept = {
            name: torch.empty_like(getattr(stream.chunk, name)[self.rows], device="cpu")
            for name in _LOGGED
        }
        if cuda:
            self.kept = {name: kept.pin_memory() for name, kept in self.kept.items()}
        self.ready = torch.cuda.Event() if cuda else None

    def fetch(self) -> None:
        """Start copying what they wrote to the host."""
        for name, kept in self.kept.items():
            kept.copy_(getattr(self.stream.chunk, name)[self.rows], non_blocking=True)
        if self.ready is not None:
            self.ready.record()

    def write(self) -> None:
        """Wait for the copy, step the same actions, and log the episodes that ended."""
        if self.ready is not None:
            self.ready.synchronize()
        seen: dict[str, npt.NDArray[Any]] = {name: kept.numpy() for name, kept in self.kept.items()}
        for s in range(self.stream.s):
            column = {name: seen[name][:, s] for name in _LOGGED[:5]}
            active = column["valid"] & self.begun
            steps = self.core.step(
                column["history_choice"], column["cap_choice"], column["taken"],
                column["written"], active,
            )  # fmt: skip
            self.steps.add(column["history_choice"], column["cap_choice"], steps, active)
            for env in np.flatnonzero(active & (steps.terminated | steps.truncated)).tolist():
                self.log.episode(self.steps.header(env), self.steps.taken(env))
            again = np.flatnonzero(~column["valid"])
            if len(again):  # a new answer stands in the next column
                record = seen["record"][again, s + 1]
                asked = seen["asked"][again, self.stream.x + s + 1]
                first = self.core.world.question_start[record]
                self.core.reset(again, record, asked - first)
                self.begun[again] = True
