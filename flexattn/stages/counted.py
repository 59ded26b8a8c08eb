"""Stage A's training: count the train answers, then let the policy table learn from rollouts.

One step is one rollout: the counts write answers under an Lh drawn evenly, the environment says
what each choice was worth, the table counts it. Nothing here needs torch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from flexattn.agents import checkpoint as checkpoints
from flexattn.agents.checkpoint import Checkpoint
from flexattn.agents.counting import CountingModel
from flexattn.agents.decision import Choose
from flexattn.agents.table import Counted, PolicyTable
from flexattn.audit.writer import RunLog
from flexattn.config import Config
from flexattn.display import Display
from flexattn.env.collect import EpisodeSteps
from flexattn.env.core import Core
from flexattn.env.world import World
from flexattn.episode import run
from flexattn.errors import CheckpointError
from flexattn.live import LiveCatalogs


class CountedTraining:
    """Everything that changes during a run of stage A."""

    def __init__(
        self, config: Config, world: World, log: RunLog, display: Display, live: LiveCatalogs
    ) -> None:
        """Count; writes nothing yet."""
        self.config, self.world = config, world
        self.log, self.display, self.live = log, display, live
        started = time.monotonic()
        self.model = CountingModel(world)
        self.counted_s = time.monotonic() - started
        self.table = PolicyTable(world.settings)
        self.rng = np.random.default_rng([config.seed, 1])
        self.order = np.zeros(0, np.int64)
        self.step = 0
        self.characters = int(world.answers.size[world.train].sum())
        self.core = Core(
            world, min(config.train.rollout_answers, len(world.train)), gain_by_cap=True
        )

    @property
    def total(self) -> int:
        """Steps of the whole run: so many passes over the train answers."""
        rollouts = -(-len(self.world.train) // self.core.num_envs)
        return self.config.stages.passes * rollouts

    def student(self, choose: Choose | None = None) -> Counted:
        """The table and the counts as they stand."""
        return Counted(self.model, self.table, choose)

    def run(self) -> Iterator[int]:
        """Do the steps that are left; yields after each."""
        if self.step == 0:
            self.log.event("stage", stage="A", verdict="start")
            tables = self.model.tables
            self.display.say(
                f"counted {self.characters:,} characters in {self.counted_s:.1f} s: "
                f"{len(tables.total):,} contexts, {len(tables.char):,} that something followed"
            )
        self.display.begin("table", self.total, self.step)
        while self.step < self.total:
            characters, stats = self._roll_out()
            self.step += 1
            self.characters += characters
            self.display.advance(characters, stats)
            yield self.step

    def _roll_out(self) -> tuple[int, dict[str, float]]:
        """Write answers, log them, count what each choice was worth."""
        newer = self.live.newer(self.step)
        if newer is not None:
            self._go_over(newer.world)
        core, world, rules = self.core, self.world, self.world.rules
        if len(self.order) < core.num_envs:
            self.order = np.concatenate([self.order, self.rng.permutation(world.train)])
        records, self.order = self.order[: core.num_envs], self.order[core.num_envs :]
        counts = np.maximum(1, np.diff(world.question_start)[records] - 1)
        questions = (self.rng.random(len(records)) * counts).astype(np.int64)
        core.reset(record_indices=records, question_indices=questions, world=world)
        writer = Counted(self.model, self.table, tries=self.rng)
        episodes = EpisodeSteps(core)
        characters, total, hits = 0, 0.0, 0
        for t, moment in enumerate(run(core, writer), 1):
            steps, active, decision = moment.steps, moment.active, moment.decision
            episodes.add(decision.history, decision.cap, steps, active)
            self.table.learn(
                writer.history_class,
                decision.history[active],
                steps.base[active] + rules.eta1 * steps.chi_soft[active],
                writer.cap_class,
                rules.eta2 * steps.gain_by_cap[active],
            )
            characters += int(active.sum())
            total += float(steps.reward[active].sum())
            hits += int((steps.term[active] >= 0).sum())
            for env in np.flatnonzero(active & (steps.terminated | steps.truncated)):
                self.log.episode(episodes.header(int(env)), episodes.taken(int(env)))
            newer = self.live.newer(self.step, t) if self.live.ban_immediately else None
            if newer is not None:
                self._go_over(newer.world)
                if newer.added_bans:
                    episodes.ban(core.ban(newer.added_bans), newer.world.catalog_sha256)
        return characters, {"return": total / len(records), "hit_rate": hits / characters}

    # ---- catalog versions ----------------------------------------------------------------

    def resume_catalogs(self, saved: Checkpoint | None) -> None:
        """Go back to a checkpoint's catalog version, None: the run's first; the log is open."""
        state = saved.state if saved else {}
        self._go_over(self.live.resume(state.get("catalog"), state.get("log")))

    def _go_over(self, world: World) -> None:
        """The answers written from here on are of `world`; the table keeps what it learnt."""
        if world is not self.world:
            self.world, self.model = world, CountingModel(world)

    # ---- checkpoints ---------------------------------------------------------------------

    def save(self, folder: Path, extra: dict[str, Any]) -> Path:
        """Write a checkpoint: the table, and the hash of counts that the corpus gives again."""
        arrays = self.table.arrays() | {"order": self.order}
        state = {
            "log": self.log.position(),
            "rng": self.rng.bit_generator.state,
            "characters": self.characters,
            "catalog": self.world.catalog_sha256,
            "seed": self.config.seed,
            "stage": "a",
            "counts": self.model.counts_sha256,
            "table": self.table.rows(),
            **extra,
        }
        return checkpoints.save(
            folder, self.step, arrays, state, self.config.train.keep_checkpoints
        )

    def restore(self, saved: Checkpoint) -> None:
        """Go back to a checkpoint.

        Raises: CheckpointError where it does not fit the configuration.
        """
        restore_table(saved, self.table)
        state = saved.state
        self.order = saved.arrays["order"].copy()
        self.rng.bit_generator.state = state["rng"]
        self.step, self.characters = saved.step, state["characters"]


def restore_table(saved: Checkpoint, table: PolicyTable) -> None:
    """Put a checkpoint's table back.

    Raises: CheckpointError where the checkpoint is of another stage or configuration.
    """
    if saved.state.get("stage") != "a":
        raise CheckpointError(
            f"checkpoint step {saved.step}: is not of stage A, as config.yaml says; train again"
        )
    table.restore(saved.arrays)


def counted_student(world: World, saved: Checkpoint) -> Callable[[Choose | None], Counted]:
    """Stage A's student as a checkpoint has it, over the same counts.

    Raises: CheckpointError where the counts differ from those that were trained with.
    """
    model = CountingModel(world)
    if model.counts_sha256 != saved.state.get("counts"):
        raise CheckpointError(
            f"checkpoint step {saved.step}: has counts {str(saved.state.get('counts'))[:8]}, the "
            f"corpus gives {model.counts_sha256[:8]}; use the version that trained it, or train "
            f"again"
        )
    table = PolicyTable(world.settings)
    restore_table(saved, table)
    return lambda choose: Counted(model, table, choose)
