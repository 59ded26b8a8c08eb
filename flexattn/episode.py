"""The one loop between environment and agent: `run(env, policy)` yields steps until all are done.

It knows no agent class and no logging. What is written may differ from what was emitted: a `Scribe`
(DAgger's teacher, a perturbation) decides that after the policy and before the step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from flexattn.env.core import Core
from flexattn.env.spec import Observation, StepArrays

Ids = npt.NDArray[np.int32]


class Decision(Protocol):
    """One action for each environment."""

    @property
    def history(self) -> Ids:
        """Index into H, [N]."""

    @property
    def cap(self) -> Ids:
        """Index into P, [N]."""

    @property
    def char(self) -> Ids:
        """Emitted character, [N]."""


Policy = Callable[[Observation, npt.NDArray[np.uint64], npt.NDArray[np.bool_]], Decision]
Scribe = Callable[[Core, Ids, npt.NDArray[np.bool_]], Ids]


@dataclass(frozen=True)
class Moment:
    """One batched step: the state it was taken in, the decision, every number of it.

    Attributes:
      active: environments that stepped, [N] bool.
      legal: packed A(s) before the step, [N, W] uint64.
      pointer: teacher pointer before the step, [N] int32.
      covered: steps that the segment credited last still covers, [N] int32.
      teacher: target character, [N] int32.
      decision: what the policy chose.
      steps: the numbers; overwritten by the next step.
    """

    active: npt.NDArray[np.bool_]
    legal: npt.NDArray[np.uint64]
    pointer: Ids
    covered: Ids
    teacher: Ids
    decision: Decision
    steps: StepArrays


def run(env: Core, policy: Policy, scribe: Scribe | None = None) -> Iterator[Moment]:
    """Step every environment of `env`, which has just been reset, until all are done.

    Args:
      env: N environments at the start of an answer each.
      policy: observation, packed legal characters and who is active -> a decision.
      scribe: environment, emitted characters and who is active -> what is written, -1 for the
        emitted character.

    Yields: one `Moment` for each step; its arrays other than `steps` are its own.
    """
    state = env.state
    active = ~state.done
    while active.any():
        legal = env.legal_packed().copy()
        pointer = state.pointer.copy()
        covered = np.maximum(state.covered - state.t, 0)
        teacher = env.teacher()
        decision = policy(env.observe(), legal, active)
        written = None if scribe is None else scribe(env, decision.char, active)
        steps = env.step(decision.history, decision.cap, decision.char, written, active)
        yield Moment(active, legal, pointer, covered, teacher, decision, steps)
        active = ~state.done
