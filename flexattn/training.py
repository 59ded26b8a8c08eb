"""The training loop: cloning, DAgger, critic warm-up, masked SAC; every budget in steps.

One step is one gradient update. All randomness comes from three streams that a checkpoint holds, so
a run that was killed ends with the weights and the log lines of one that never was.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from flexattn.agents import checkpoint as checkpoints
from flexattn.agents.batches import Batches
from flexattn.agents.buffer import AnswerBuffer, concatenate
from flexattn.agents.checkpoint import Checkpoint
from flexattn.agents.cloning import CloneBatch, TeacherAnswers
from flexattn.agents.decision import Choose
from flexattn.agents.networks import Sizes
from flexattn.agents.policy import NoiseWrites, Student, Teacher, TeacherWrites
from flexattn.agents.prior import CountPrior
from flexattn.agents.ranks import ALONE, Ranks
from flexattn.agents.sac import HEADS, Learner, Rates
from flexattn.agents.schedule import curriculum, length_probabilities, linear
from flexattn.agents.watch import CollapseWatch
from flexattn.audit.writer import RunLog
from flexattn.config import Config
from flexattn.diagnostics import Diagnostics
from flexattn.display import Display
from flexattn.env.core import Core
from flexattn.env.world import World
from flexattn.errors import ConfigError
from flexattn.evaluation.metrics import is_cjk
from flexattn.experience import Rollout, write_answers
from flexattn.live import LiveCatalogs
from flexattn.memory import give_back, keep_small

CLONE_WARM_STEPS = 50
GIVE_BACK_EVERY = 4  # steps
CLONE_LAST_RATE = 0.05  # of clone_lr
DIAGNOSE_EVERY = 10  # steps


@dataclass(frozen=True)
class Phase:
    """A stretch of steps with one kind of update."""

    name: str
    steps: int


class Training:
    """Everything that changes during a run."""

    def __init__(
        self,
        config: Config,
        world: World,
        log: RunLog | None,
        display: Display,
        device: torch.device,
        live: LiveCatalogs | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        """Build learner, buffers and environments from a seed; writes nothing yet."""
        self.live = live
        self.ranks = ranks
        self.config, self.world, self.log, self.display, self.device = (
            config,
            world,
            log,
            display,
            device,
        )
        train, settings = config.train, world.settings
        torch.manual_seed(config.seed)
        self.learner = Learner(config, Sizes.of(world), device, ranks)
        self.rng = np.random.default_rng([config.seed, 1])
        self.generator = torch.Generator(device).manual_seed(config.seed)
        self.teacher_answers = TeacherAnswers(
            [world.answer(record) for record in world.train],
            [self._train_questions(record) for record in world.train],
        )
        self._count_characters()
        self.alphabet = np.array(
            [i for char, i in world.vocabulary.ids.items() if i < world.size and is_cjk(char)],
            np.int32,
        )
        longest = world.longest_answer + settings.slack + 1
        words = len(world.mask.writable)
        room = {
            "words": words,
            "caps": len(settings.hit_cap_chars),
            "question_chars": settings.question_chars,
        }
        self.agent_buffer = AnswerBuffer(config.agent.buffer_answers, longest, **room)
        self.demo_buffer = AnswerBuffer(config.agent.buffer_answers, longest, **room)
        self.core = Core(world, train.rollout_answers, gain_by_cap=True)
        self.step = 0
        self.characters = 0
        self.rejected = 0
        self.watch = CollapseWatch()
        self.diagnostics = Diagnostics(log.folder.path if log and ranks.first else None)
        self._count_lengths()

    @property
    def phases(self) -> tuple[Phase, ...]:
        """Cloning, DAgger alone, critics alone, SAC."""
        train = self.config.train
        return (
            Phase("clone", train.clone_steps),
            Phase("dagger", train.dagger_steps),
            Phase("critics", train.warmup_steps),
            Phase("sac", train.sac_steps),
        )

    @property
    def total(self) -> int:
        """Steps of the whole run."""
        return sum(phase.steps for phase in self.phases)

    def run(self) -> Iterator[int]:
        """Do the steps that are left; yields after each, for the caller to evaluate and save."""
        first = 0
        for phase in self.phases:
            last = first + phase.steps
            if self.step < last:
                done = max(0, self.step - first)
                self.display.begin(phase.name, phase.steps, done)
                update = {
                    "clone": self._clone,
                    "dagger": self._dagger,
                    "critics": self._critics,
                    "sac": self._sac,
                }[phase.name]
                if phase.name != "clone":
                    keep_small()
                    give_back()
                    if phase.name != "dagger" and self.demo_buffer.added == 0:
                        self._demonstrate()
                yield from self._steps(phase, update, done)
            first = last

    def _steps(
        self, phase: Phase, update: Callable[[int, int], tuple[int, dict[str, float]]], done: int
    ) -> Iterator[int]:
        for n in range(done, phase.steps):
            characters, stats = update(n, phase.steps)
            self.step += 1
            self.characters += characters
            if phase.name != "clone" and self.step % GIVE_BACK_EVERY == 0:
                give_back()
            self.display.advance(characters, stats)
            if self.step % DIAGNOSE_EVERY == 0:
                self.diagnostics.add(phase.name, self.step, stats)
            yield self.step

    def student(self, choose: Choose | None = None) -> Student:
        """The actor as it stands, one step at a time; see `Student`."""
        return Student(self.learner.actor, choose=choose)

    # ---- the three kinds of step ---------------------------------------------------------

    def _clone(self, n: int, steps: int) -> tuple[int, dict[str, float]]:
        """One step of cloning: warm-up, then a cosine down to a twentieth of the rate."""
        batch = self._clone_batch(n / max(1, steps - 1))
        cosine = 0.5 * (1.0 + math.cos(math.pi * n / steps))
        warm = min(1.0, (n + 1) / CLONE_WARM_STEPS)
        rate = warm * (CLONE_LAST_RATE + (1.0 - CLONE_LAST_RATE) * cosine)
        stats = self.learner.clone(batch, self.config.agent.clone_lr * rate)
        characters, rejected = self._totals(len(batch.teacher), int(stats.pop("rejected")))
        self.rejected += rejected
        return characters, stats

    def _clone_batch(self, share: float = 1.0) -> CloneBatch:
        """Teacher answers with fresh noise in their histories, `share` of cloning done."""
        settings, agent = self.world.settings, self.config.agent
        by_curriculum = agent.curriculum.cloning == "curriculum"
        rho = linear(agent.curriculum.rho, round(share * 1000), 1001)
        windows = curriculum(rho, len(settings.history_chars), self.cap_lengths).sum(1)
        knows = agent.clone_target == "teacher"
        return self.teacher_answers.batch(
            self.rng,
            self.config.train.clone_batch_answers,
            noise=self.config.agent.history_noise,
            alphabet=self.alphabet,
            tables=self.world.mask,
            actions=self.world.size,
            windows=settings.history_chars,
            max_history=settings.max_history,
            sketch_dim=settings.sketch_dim,
            device=self.device,
            share=self.ranks.share,
            chances=windows if by_curriculum else None,
            probabilities=(self.world.answers, self.world.train) if knows else None,
            prior=self.learner.actor.prior,
        )

    def _totals(self, *counts: int) -> list[int]:
        return self.ranks.totals(*counts, device=self.device)

    def _dagger(self, n: int, steps: int) -> tuple[int, dict[str, float]]:
        """The teacher corrects what the student writes; no reward, no critics."""
        stats = self._roll_out(n / max(1, steps - 1)) if self._rolls_out(n) else {}
        answers = self.agent_buffer.sample(self.rng, self.config.train.batch_answers)
        batch = self.batches.of(self.agent_buffer.take(self.ranks.share(answers)))
        (characters,) = self._totals(len(batch.taken))
        return characters, stats | self.learner.imitate(batch, self._clone_batch())

    def _rolls_out(self, n: int) -> bool:
        return n % self.config.train.rollout_every == 0

    def _critics(self, n: int, steps: int) -> tuple[int, dict[str, float]]:
        """Critics learn from what the cloned student writes, before the actor may move."""
        return self._update(n, 0.0, None)

    def _sac(self, n: int, steps: int) -> tuple[int, dict[str, float]]:
        """Critics, actor and temperatures, cloning beside."""
        return self._update(n, n / max(1, steps - 1), self._clone_batch())

    def _update(
        self, n: int, share: float, demonstrations: CloneBatch | None
    ) -> tuple[int, dict[str, float]]:
        train, agent = self.config.train, self.config.agent
        stats: dict[str, float] = {}
        if self._rolls_out(n):
            stats = self._roll_out(share)
        demos = round(train.batch_answers * agent.demo_fraction)
        drawn = [
            (buffer, self.ranks.share(buffer.sample(self.rng, count)))
            for buffer, count in (
                (self.demo_buffer, demos),
                (self.agent_buffer, train.batch_answers - demos),
            )
            if count
        ]
        parts = [buffer.take(rows) for buffer, rows in drawn if len(rows)]
        batch = self.batches.of(concatenate(parts))
        (characters,) = self._totals(len(batch.taken))
        rates = Rates(
            kappa={
                head: linear(getattr(agent.kappa, head), round(share * 1000), 1001)
                for head in HEADS
            },
            bc_weight=linear(agent.bc_weight, round(share * 1000), 1001),
            rho=linear(agent.curriculum.rho, round(share * 1000), 1001),
        )
        update = self.learner.update(batch, rates, demonstrations, self.generator)
        return characters, stats | update

    # ---- experience ----------------------------------------------------------------------

    def _demonstrate(self) -> None:
        """The teacher writes every train answer, windows by curriculum, noise in the history."""
        self._renew()
        train, agent = self.config.train, self.config.agent
        order = self.rng.permutation(self.world.train)
        passes = max(1, min(4, agent.buffer_answers // max(1, len(order))))
        relabelled = rejected = 0
        for number in range(passes):
            rho = linear(agent.curriculum.rho, number, max(2, passes))
            windows = curriculum(rho, len(self.world.settings.history_chars), self.cap_lengths)
            for start in range(0, len(order), train.rollout_answers):
                records = order[start : start + train.rollout_answers]
                core = (
                    self.core
                    if len(records) == self.core.num_envs
                    else Core(self.world, len(records), gain_by_cap=True)
                )
                teacher = Teacher(core, windows, self.rng)
                noise = (
                    NoiseWrites(agent.history_noise, self.alphabet, self.rng)
                    if number % 2
                    else None
                )
                answers = self._write(core, records, teacher, noise).answers
                if agent.forbidden_teacher == "reject":
                    rejected += int(teacher.forbade.sum())
                    answers = answers.only(~teacher.forbade)
                self.demo_buffer.add(answers)
                relabelled += teacher.relabelled
        self._count_forbidden(relabelled, rejected)

    def _count_forbidden(self, relabelled: int, rejected: int) -> None:
        """Say what the mask forbade the teacher: characters relabelled, whole answers rejected."""
        if self.demo_buffer.added == 0:
            raise ConfigError(
                "agent.forbidden_teacher is reject, and the mask forbids a character of every "
                "train answer; set it to relabel, or env.guide to none"
            )
        fate = f"{rejected} answers with them rejected" if rejected else "relabelled"
        self.display.say(
            f"demonstrations: {self.demo_buffer.added} answers; the mask forbade {relabelled} "
            f"teacher characters there ({fate}) and {self.rejected} behind cloning's noise "
            f"(rejected)"
        )
        self.diagnostics.add("demonstrations", self.step, {
            "answers": self.demo_buffer.added, "forbidden_characters": relabelled,
            "rejected_answers": rejected, "rejected_in_cloning": self.rejected,
        })  # fmt: skip

    def _roll_out(self, share: float) -> dict[str, float]:
        """The student writes answers; the teacher's character is written with chance beta."""
        self._renew()
        agent = self.config.agent
        records = self.rng.choice(self.world.train, self.core.num_envs)
        beta = linear(agent.dagger_beta, round(share * 1000), 1001)
        student = Student(self.learner.actor, generator=self.generator)
        teacher = TeacherWrites(beta, self.rng)
        scribe: TeacherWrites | NoiseWrites = teacher
        if agent.rollout_noise:
            shares = self.rng.random(len(records)) * agent.rollout_noise
            scribe = NoiseWrites(shares, self.alphabet, self.rng, teacher)
        rollout = self._write(self.core, records, student, scribe)
        self.agent_buffer.add(rollout.answers)
        settings = self.world.settings
        histories = dict(zip(settings.history_chars, rollout.history_share))
        caps = dict(zip(settings.hit_cap_chars, rollout.cap_share))
        self.display.choices(histories, caps)
        self._watch_collapse(rollout)
        stats = {"return": float(rollout.returns.mean()), "hit_rate": rollout.hits}
        self.diagnostics.add("rollout", self.step, {**stats, "Lh": histories, "Lp": caps})
        return stats

    def _write(self, core: Core, records: np.ndarray, policy: Any, scribe: Any) -> Rollout:
        counts = np.maximum(1, np.diff(self.world.question_start)[records] - 1)
        questions = (self.rng.random(len(records)) * counts).astype(np.int64)
        at_once = self.live is not None and self.live.ban_immediately
        return write_answers(
            core,
            records,
            questions,
            policy,
            scribe,
            self.log,
            self.world,
            self._newly_banned if at_once else None,
        )

    # ---- catalog versions ----------------------------------------------------------------

    def resume_catalogs(self, saved: Checkpoint | None) -> None:
        """Go back to a checkpoint's catalog version, None: the run's first; the log is open."""
        if saved is None:
            self.diagnostics.cut(0)
        if self.live is not None:
            state = saved.state if saved else {}
            self._go_over(self.live.resume(state.get("catalog"), state.get("log")))

    def _renew(self) -> None:
        """Before a rollout: go over to the catalog version that was delivered, if one was."""
        newer = self.live.newer(self.step) if self.live else None
        if newer is not None:
            self._go_over(newer.world)

    def _newly_banned(self, moment: int) -> tuple[str, Sequence[str]] | None:
        """During a rollout: the hash of a new version and what it bans at once, or nothing."""
        newer = self.live.newer(self.step, moment) if self.live else None
        if newer is None:
            return None
        self._go_over(newer.world)
        return (newer.world.catalog_sha256, newer.added_bans) if newer.added_bans else None

    def _go_over(self, world: World) -> None:
        """The answers written from here on, and every table of the learner, are of `world`."""
        self.world = world
        self._count_characters()
        self.teacher_answers.questions = [self._train_questions(record) for record in world.train]
        self._count_lengths()

    def _count_characters(self) -> None:
        """Counts under the network where the configuration asks for them, and the batches."""
        self.learner.actor.prior = CountPrior.of(self.config, self.world)
        self.batches = Batches(self.world, self.device, self.learner.actor.prior)

    def _count_lengths(self) -> None:
        lengths = np.array([len(term) for term in self.world.term_list])
        self.cap_lengths = length_probabilities(lengths, self.world.settings.hit_cap_chars)

    def _watch_collapse(self, rollout: Rollout) -> None:
        """Warn once when a head sits on one value."""
        settings = self.world.settings
        for name, choices, shares in (
            ("Lh", settings.history_chars, rollout.history_share),
            ("Lp", settings.hit_cap_chars, rollout.cap_share),
        ):
            warning = self.watch.see(name, choices, shares)
            if warning is not None:
                self.display.say(warning)

    def _train_questions(self, record: int) -> list[np.ndarray]:
        first, last = self.world.question_start[record : record + 2]
        return list(self.world.question_ids[first : max(first + 1, last - 1)])

    # ---- checkpoints ---------------------------------------------------------------------

    def save(self, folder: Path, extra: dict[str, Any]) -> Path:
        """Write a checkpoint; all log lines before it are on the disk first."""
        tensors: dict[str, torch.Tensor | np.ndarray] = {
            **checkpoints.learner_tensors(self.learner),
            **checkpoints.array_tensors("agent_buffer", self.agent_buffer.store.arrays()),
            **checkpoints.array_tensors("demo_buffer", self.demo_buffer.store.arrays()),
            "order": torch.from_numpy(self.teacher_answers.order.copy()),
            "generator": self.generator.get_state(),
        }
        state = {
            "log": self.log.position() if self.log is not None else None,
            "rng": self.rng.bit_generator.state,
            "added": [self.agent_buffer.added, self.demo_buffer.added],
            "characters": self.characters,
            "rejected": self.rejected,
            "warned": sorted(self.watch.warned),
            "diagnostics_bytes": self.diagnostics.size,
            "catalog": self.world.catalog_sha256,
            "seed": self.config.seed,
            **extra,
        }
        return checkpoints.save(
            folder, self.step, tensors, state, self.config.train.keep_checkpoints
        )

    def restore(self, saved: Checkpoint) -> None:
        """Go back to a checkpoint.

        Raises: CheckpointError where it does not fit the configuration.
        """
        state = saved.state
        with checkpoints.fitting(saved):
            checkpoints.restore_learner(self.learner, saved)
            checkpoints.restore_arrays("agent_buffer", self.agent_buffer.store.arrays(), saved)
            checkpoints.restore_arrays("demo_buffer", self.demo_buffer.store.arrays(), saved)
        self.agent_buffer.added, self.demo_buffer.added = state["added"]
        self.teacher_answers.order = saved.tensors["order"].numpy()
        self.rng.bit_generator.state = state["rng"]
        self.step, self.characters, self.rejected = (
            saved.step,
            state["characters"],
            state["rejected"],
        )
        self.watch.warned = set(state["warned"])
        self.diagnostics.cut(state.get("diagnostics_bytes", 0))
        # restored last, since building the parts above may draw
        self.generator.set_state(saved.tensors["generator"])
