"""Stage B's training: rollouts under the counts' characters, SAC on Lh and Lp.

One step is one gradient update. The phases are those of stage C without cloning: critics alone,
then critics, actor and temperatures. All randomness comes from streams that a checkpoint holds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from flexattn.agents import checkpoint as checkpoints
from flexattn.agents.batches import Batches
from flexattn.agents.checkpoint import Checkpoint
from flexattn.agents.counting import OPENNESS, CountingModel
from flexattn.agents.decision import Choose
from flexattn.agents.schedule import linear
from flexattn.agents.steering import (
    NEAR,
    States,
    Steered,
    SteeringActor,
    SteeringBatch,
    SteeringLearner,
)
from flexattn.audit.writer import RunLog
from flexattn.config import Config
from flexattn.display import Display
from flexattn.domain import Domain
from flexattn.env.collect import EpisodeSteps
from flexattn.env.core import Core
from flexattn.env.world import World
from flexattn.episode import run
from flexattn.errors import CheckpointError
from flexattn.live import LiveCatalogs

HEADS = ("history", "cap")


class StepBuffer:
    """The newest steps of finished answers, each with the place of the step behind it."""

    def __init__(self, steps: int, histories: int, caps: int) -> None:
        """Allocate everything once."""
        self.arrays: dict[str, np.ndarray] = {
            "near": np.zeros((steps, NEAR), np.int64),
            "open": np.zeros((steps, OPENNESS), np.float32),
            "expected": np.zeros((steps, 2 * caps + 1), np.float32),
            "history": np.zeros(steps, np.int64),
            "offer": np.zeros((steps, caps), np.float32),
            "own": np.zeros((steps, histories), np.float32),
            "gain": np.zeros((steps, caps), np.float32),
            "terminated": np.zeros(steps, np.bool_),
            "after": np.zeros(steps, np.int64),
        }
        self.room, self.added = steps, 0

    def add(self, answer: dict[str, np.ndarray]) -> None:
        """Take one answer, T steps; a cut-off answer's last step has none behind it and goes."""
        count = len(answer["history"]) - (not answer["terminated"][-1])
        places = (self.added + np.arange(count)) % self.room
        for name, values in answer.items():
            self.arrays[name][places] = values[:count]
        self.arrays["after"][places] = np.roll(places, -1)
        if count:
            self.arrays["after"][places[-1]] = places[-1]  # not looked at behind an end
        self.added += count

    def sample(self, rng: np.random.Generator, steps: int, device: torch.device) -> SteeringBatch:
        """Steps drawn uniformly with replacement."""
        rows = rng.integers(0, min(self.added, self.room), steps)

        def put(name: str, at: np.ndarray) -> torch.Tensor:
            return torch.from_numpy(self.arrays[name][at]).to(device)

        def states(at: np.ndarray) -> States:
            return States(*(put(field.name, at) for field in fields(States)))

        after = self.arrays["after"][rows]
        return SteeringBatch(
            states(rows), states(after), put("gain", rows), put("terminated", rows)
        )


class SteeredTraining:
    """Everything that changes during a run of stage B."""

    def __init__(
        self, config: Config, world: World, log: RunLog, display: Display, device: torch.device,
        live: LiveCatalogs,
    ) -> None:  # fmt: skip
        """Count, and build learner and buffer from a seed; writes nothing yet."""
        self.config, self.world, self.device = config, world, device
        self.log, self.display, self.live = log, display, live
        self.model = CountingModel(world)
        self.batches = Batches(world, device)
        settings = world.settings
        torch.manual_seed(config.seed)
        self.learner = SteeringLearner(
            world.size, settings, config.agent,
            (self.batches.history_cost, self.batches.cap_cost), device,
        )  # fmt: skip
        self.rng = np.random.default_rng([config.seed, 1])
        self.generator = torch.Generator(device).manual_seed(config.seed)
        mean = world.answers.size[world.train].mean()
        longest = world.longest_answer + settings.slack
        self.buffer = StepBuffer(
            max(int(config.agent.buffer_answers * mean), 2 * longest),
            len(settings.history_chars), len(settings.hit_cap_chars),
        )  # fmt: skip
        self.core = Core(world, config.train.rollout_answers, gain_by_cap=True)
        self.batch_steps = int(config.train.batch_answers * mean)
        self.step = 0
        self.characters = int(world.answers.size[world.train].sum())

    @property
    def total(self) -> int:
        """Steps of the whole run."""
        return self.config.train.warmup_steps + self.config.train.sac_steps

    def student(self, choose: Choose | None = None) -> Steered:
        """The actor and the counts as they stand."""
        return Steered(self.model, self.learner.actor, choose=choose)

    def run(self) -> Iterator[int]:
        """Do the steps that are left; yields after each."""
        train = self.config.train
        if self.step == 0:
            self.log.event("stage", stage="B", verdict="start")
        for name, first, last in (
            ("critics", 0, train.warmup_steps),
            ("sac", train.warmup_steps, self.total),
        ):
            if self.step >= last:
                continue
            self.display.begin(name, last - first, self.step - first)
            while self.step < last:
                stats: dict[str, float] = {}
                characters = 0
                if (self.step - first) % train.rollout_every == 0:
                    characters, stats = self._roll_out()
                share = (self.step - first) / max(1, train.sac_steps - 1)
                batch = self.buffer.sample(self.rng, self.batch_steps, self.device)
                kappa = {
                    head: linear(getattr(self.config.agent.kappa, head), round(share * 1000), 1001)
                    for head in HEADS
                }
                stats |= self.learner.update(batch, kappa, act=name == "sac")
                self.step += 1
                self.characters += characters
                self.display.advance(characters, stats)
                yield self.step

    def _roll_out(self) -> tuple[int, dict[str, float]]:
        """Write answers under sampled Lh and Lp, log them, keep what every choice was worth."""
        newer = self.live.newer(self.step)
        if newer is not None:
            self._go_over(newer.world)
        core, world = self.core, self.world
        records = self.rng.choice(world.train, core.num_envs)
        counts = np.maximum(1, np.diff(world.question_start)[records] - 1)
        questions = (self.rng.random(len(records)) * counts).astype(np.int64)
        core.reset(record_indices=records, question_indices=questions, world=world)
        writer = Steered(self.model, self.learner.actor, generator=self.generator)
        episodes = EpisodeSteps(core)
        made: list[list[dict[str, np.ndarray]]] = [[] for _ in records]
        characters, total, hits = 0, 0.0, 0
        rules = world.rules
        right = rules.eta1 + rules.progress / world.answers.size[records]
        for t, moment in enumerate(run(core, writer), 1):
            steps, active, decision, seen = (
                moment.steps,
                moment.active,
                moment.decision,
                writer.seen,
            )
            episodes.add(decision.history, decision.cap, steps, active)
            envs = np.flatnonzero(active)
            own = (writer.by_window == moment.teacher[envs, None]) * right[envs, None]
            columns = {
                "near": seen.near, "open": seen.open, "expected": seen.expected,
                "history": seen.history,
                "offer": self._offer(records[envs], moment.pointer[envs], moment.covered[envs]),
                "own": own - own.max(1, keepdims=True),
                "gain": rules.eta2 * steps.gain_by_cap[envs], "terminated": steps.terminated[envs],
            }  # fmt: skip
            for n, env in enumerate(envs.tolist()):
                made[env].append({name: values[n] for name, values in columns.items()})
            characters += len(envs)
            total += float(steps.reward[envs].sum())
            hits += int((steps.term[envs] >= 0).sum())
            for env in np.flatnonzero(active & (steps.terminated | steps.truncated)).tolist():
                self.log.episode(episodes.header(env), episodes.taken(env))
                answer = made[env]
                self.buffer.add({name: np.stack([s[name] for s in answer]) for name in columns})
            newer = self.live.newer(self.step, t) if self.live.ban_immediately else None
            if newer is not None:
                self._go_over(newer.world)
                if newer.added_bans:
                    episodes.ban(core.ban(newer.added_bans), newer.world.catalog_sha256)
        return characters, {"return": total / len(records), "hit_rate": hits / characters}

    def _offer(self, record: np.ndarray, pointer: np.ndarray, covered: np.ndarray) -> np.ndarray:
        """What the teacher's own character would earn under each cap, [n, |P|]."""
        batches = self.batches
        at = record, np.minimum(pointer, batches.gains.shape[1] - 1)
        counts = self.world.settings.nested | (batches.sizes[at] > covered[:, None])
        return np.where(counts, batches.gains[at], 0.0)

    # ---- catalog versions ----------------------------------------------------------------

    def resume_catalogs(self, saved: Checkpoint | None) -> None:
        """Go back to a checkpoint's catalog version, None: the run's first; the log is open."""
        state = saved.state if saved else {}
        self._go_over(self.live.resume(state.get("catalog"), state.get("log")))

    def _go_over(self, world: World) -> None:
        if world is not self.world:
            self.world, self.model = world, CountingModel(world)
            self.batches = Batches(world, self.device)

    # ---- checkpoints ---------------------------------------------------------------------

    def save(self, folder: Path, extra: dict[str, Any]) -> Path:
        """Write a checkpoint; all log lines before it are on the disk first."""
        tensors: dict[str, Any] = {
            **checkpoints.learner_tensors(self.learner),
            **checkpoints.array_tensors("buffer", self.buffer.arrays),
            "generator": self.generator.get_state(),
        }
        state = {
            "log": self.log.position(),
            "rng": self.rng.bit_generator.state,
            "added": self.buffer.added,
            "characters": self.characters,
            "catalog": self.world.catalog_sha256,
            "seed": self.config.seed,
            "stage": "b",
            "counts": self.model.counts_sha256,
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
            checkpoints.restore_arrays("buffer", self.buffer.arrays, saved)
        self.buffer.added = state["added"]
        self.rng.bit_generator.state = state["rng"]
        self.step, self.characters = saved.step, state["characters"]
        # restored last, since building the parts above may draw
        self.generator.set_state(saved.tensors["generator"])


def steered_student(domain: Domain, saved: Checkpoint) -> Callable[[Choose | None], Steered]:
    """Stage B's student as a checkpoint has it, over the same counts.

    Raises: CheckpointError where counts or network differ from those that were trained.
    """
    config, world = domain.config, domain.world
    torch.set_num_threads(config.train.threads)
    model = CountingModel(world)
    actor = SteeringActor(world.size, world.settings, config.agent)
    try:
        actor.load_state_dict(saved.module("actor"))
        same = model.counts_sha256 == saved.state["counts"]
    except (RuntimeError, KeyError):
        same = False
    if not same:
        raise CheckpointError(
            f"checkpoint step {saved.step}: is of another stage, or of another version than this "
            f"one; use the version that trained it, or train again"
        )
    actor.eval()
    return lambda choose: Steered(model, actor, choose=choose)
