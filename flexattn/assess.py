"""What a student can do, by regime: greedy, unseen phrasings and terms, sampled, perturbed.

Answers are written through the environment, so that an evaluation sees the same masks, caps and
costs as training, and scored by `evaluation.rows`. Nothing here enters the audit log.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from flexattn.agents.decision import Choose, would_complete_banned
from flexattn.env.core import Core
from flexattn.env.world import World
from flexattn.episode import Policy, run
from flexattn.evaluation.decoding import Decoding, choose
from flexattn.evaluation.metrics import Perturbation
from flexattn.evaluation.rows import Decisions, Row, Scorer

Ids = npt.NDArray[np.int32]
ONLINE = Decoding("top_p", top_p=0.95)
Writer = Callable[[Choose | None], Policy]  # picks by `Choose` from pi(.|s), or the likeliest
NOISE = {"noise_3": 0.03, "noise_10": 0.10}


class Perturbed:
    """Writes the perturbation stream into the history; a banned term is never completed by it."""

    def __init__(
        self, world: World, records: npt.NDArray[np.int64], seed: int, rate: float
    ) -> None:
        """Take the records that the environments write, [N], and the stream's seed and rate."""
        vocabulary = world.vocabulary
        self.stream = Perturbation.of(seed, rate, vocabulary.train)
        self.names = [world.records[record].id for record in records]
        self.ids = vocabulary.ids

    def __call__(self, env: Core, char: Ids, active: npt.NDArray[np.bool_]) -> Ids:
        """What is written, -1 for the student's own character."""
        written = np.full(len(char), -1, np.int32)
        for i in np.flatnonzero(active & (char > 2)).tolist():
            other = self.stream(self.names[i], int(env.state.t[i]) + 1)
            if other is not None:
                written[i] = self.ids[other]
        written[(written >= 0) & would_complete_banned(env, np.maximum(written, 0))] = -1
        return written


class Assessment:
    """Scores a student on one world; scorers and environments are prepared once."""

    def __init__(self, world: World, document_frequency: dict[str, int], seed: int) -> None:
        """Take the world, term -> df of the whole catalog, and the seed of sampling and noise."""
        self.world, self.seed = world, seed
        settings = world.settings
        self.scorer = Scorer.of(
            [world.records[record].answer for record in world.train],
            document_frequency,
            settings.lengths,
            settings.hit_cap_chars,
        )
        counts = np.diff(world.question_start)
        self.heldout_question = np.where(counts >= 2, counts - 1, 0)
        self.train_questions = np.where(counts >= 2, counts - 1, 1)

    def asks(self, regime: str) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Records and question numbers of a regime, [N] each.

        `greedy` asks every train phrasing of every train record; the sampled and perturbed regimes
        ask each train record once, phrasings in turn.
        """
        train = self.world.train
        if regime == "greedy":
            repeats = self.train_questions[train]
            records = np.repeat(train, repeats)
            first = np.repeat(np.cumsum(repeats) - repeats, repeats)
            return records, np.arange(len(records)) - first
        if regime == "heldout_phrasing":
            asked = train[np.diff(self.world.question_start)[train] >= 2]
            return asked, self.heldout_question[asked]
        if regime == "heldout_term":
            held = self.world.heldout
            return held, np.zeros(len(held), np.int64)
        return train, np.arange(len(train)) % self.train_questions[train]

    def rows(
        self, student: Writer, regime: str, step: int, most: int | None = None
    ) -> Iterator[Row]:
        """Write and score the answers of one regime.

        Args:
          student: who is asked.
          regime: one of `evaluation.rows.REGIMES`.
          step: training step, for the rows.
          most: ask only so many, spread evenly; None: all.
        """
        records, questions = self.asks(regime)
        if most is not None and len(records) > most:
            picks = np.linspace(0, len(records) - 1, most).astype(np.int64)
            records, questions = records[picks], questions[picks]
        if not len(records):
            return
        rng = np.random.default_rng([self.seed, 5])
        policy = student((lambda pi: choose(pi, ONLINE, rng)) if regime == "top_p" else None)
        scribe = (
            Perturbed(self.world, records, self.seed, NOISE[regime]) if regime in NOISE else None
        )
        core = Core(self.world, len(records))
        core.reset(record_indices=records, question_indices=questions)
        made: list[list[tuple[int, int, int, int, float, float]]] = [[] for _ in records]
        for moment in run(core, policy, scribe):
            steps, decision = moment.steps, moment.decision
            for i in np.flatnonzero(moment.active).tolist():
                made[i].append(
                    (
                        decision.history[i],
                        decision.cap[i],
                        moment.pointer[i],
                        steps.term[i],
                        float(steps.ler[i]),
                        float(steps.len_cost[i]),
                    )
                )
        settings, terms = self.world.settings, self.world.term_list
        for i, (record, question) in enumerate(zip(records, questions)):
            source = self.world.records[record]
            columns = list(zip(*made[i]))
            yield self.scorer.row(
                regime,
                step,
                source.id,
                source.questions[question],
                self.world.vocabulary.decode(core.written(i)),
                source.answer,
                Decisions(
                    [settings.history_chars[h] for h in columns[0]],
                    [settings.hit_cap_chars[p] for p in columns[1]],
                    [int(p) for p in columns[2]],
                    [terms[term] if term >= 0 else "-" for term in columns[3]],
                    columns[4],
                    columns[5],
                ),
            )
