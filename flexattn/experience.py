"""One rollout: answers are written side by side, kept as experience and put into the log.

The log gets an answer's lines together when it ends, in the order in which answers end and, among
those of one step, by environment; so the same seed gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from flexattn.agents.buffer import Answers
from flexattn.agents.cloning import legal_along
from flexattn.audit.writer import RunLog
from flexattn.env.collect import EpisodeSteps
from flexattn.env.core import Core
from flexattn.env.world import World
from flexattn.episode import Policy, Scribe, run


@dataclass(frozen=True)
class Rollout:
    """What a rollout gave.

    Attributes:
      answers: the experience.
      characters: steps taken.
      returns: sum of rewards of each answer, [N].
      hits: share of steps that hit a term.
      history_share: share of steps under each Lh, [|H|].
      cap_share: share of steps under each Lp, [|P|].
    """

    answers: Answers
    characters: int
    returns: npt.NDArray[np.float64]
    hits: float
    history_share: npt.NDArray[np.float64]
    cap_share: npt.NDArray[np.float64]


def write_answers(
    core: Core,
    records: npt.NDArray[np.int64],
    questions: npt.NDArray[np.int64],
    policy: Policy,
    scribe: Scribe | None,
    log: RunLog | None,
    world: World | None = None,
    newly_banned: Callable[[int], tuple[str, Sequence[str]] | None] | None = None,
) -> Rollout:
    """Let `policy` write an answer to each record's question.

    Args:
      core: as many environments as records, made with `gain_by_cap=True`.
      records: index of each teacher record, [N].
      questions: which of its questions is asked, [N].
      policy: who decides.
      scribe: who may write something else into the history.
      log: where the steps go; None: nowhere.
      world: the catalog version that all answers are written under; the core's where None.
      newly_banned: steps taken -> catalog hash and strings that are banned from here on in these
        answers too, or None.
    """
    world = core.world if world is None else world
    n = len(records)
    settings = world.settings
    core.reset(record_indices=records, question_indices=questions, world=world)
    steps_max = world.longest_answer + settings.slack + 1
    kept = Answers.empty(
        n,
        steps_max,
        words=core.legal_packed().shape[1],
        caps=len(settings.hit_cap_chars),
        question_chars=settings.question_chars,
    )
    kept.record[:] = records
    kept.question[:] = core.observe().question
    episodes = EpisodeSteps(core)
    returns = np.zeros(n)
    characters = hits = 0
    for t, moment in enumerate(run(core, policy, scribe)):
        steps, active = moment.steps, moment.active
        kept.emitted[:, t] = steps.char
        kept.written[:, t] = steps.written
        kept.teacher[:, t] = moment.teacher
        kept.history_choice[:, t] = moment.decision.history
        kept.cap_choice[:, t] = moment.decision.cap
        kept.char_reward[:, t] = steps.base + world.rules.eta1 * steps.chi_soft
        kept.gain_by_cap[:, t] = steps.gain_by_cap
        kept.legal[active, t] = moment.legal[active]
        kept.pointer[active, t] = moment.pointer[active]
        kept.covered[active, t] = moment.covered[active]
        episodes.add(moment.decision.history, moment.decision.cap, steps, active)
        returns += steps.reward
        characters += int(active.sum())
        hits += int((steps.term[active] >= 0).sum())
        ended = np.flatnonzero(active & (steps.terminated | steps.truncated))
        kept.length[ended] = t + 1
        kept.terminated[ended] = steps.terminated[ended]
        # a cut-off answer goes on in the learner's eyes, so its last state keeps its real A(s)
        for env in ended:
            along = legal_along(
                kept.written[env : env + 1, : t + 1],
                np.array([t + 1]),
                core.world_of(int(env)).mask,
            )
            kept.legal[env, t + 1] = along[0, t + 1]
        kept.pointer[ended, t + 1] = core.state.pointer[ended]
        if log is not None:
            for env in ended:
                log.episode(episodes.header(int(env)), episodes.taken(int(env)))
        if newly_banned is not None and (added := newly_banned(t + 1)) is not None:
            catalog, banned = added
            episodes.ban(core.ban(banned), catalog)
    taken = np.arange(steps_max) < kept.length[:, None]
    return Rollout(
        answers=kept,
        characters=characters,
        returns=returns,
        hits=hits / max(1, characters),
        history_share=_shares(kept.history_choice[taken], len(settings.history_chars)),
        cap_share=_shares(kept.cap_choice[taken], len(settings.hit_cap_chars)),
    )


def _shares(choices: npt.NDArray[np.int8], count: int) -> npt.NDArray[np.float64]:
    return np.bincount(choices, minlength=count) / max(1, len(choices))
