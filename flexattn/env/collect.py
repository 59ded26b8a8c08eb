"""Steps are collected until their episode ends; then it prints its own lines, or gives columns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from flexattn.audit.lines import StepLines
from flexattn.audit.schema import StepColumns
from flexattn.env.core import Core
from flexattn.env.records import FLOATS, INTEGERS, STEP, columns
from flexattn.env.spec import StepArrays
from flexattn.env.typeset import typesetter_of
from flexattn.env.world import World
from flexattn.lexicon.compiled import compiled


@dataclass(frozen=True)
class Taken:
    """The steps of a finished episode, [T] of `STEP`; what the log is handed."""

    world: World
    rows: npt.NDArray[Any]
    env: int

    def __len__(self) -> int:
        return len(self.rows)

    def lines(self, ep: int) -> bytes:
        """Its step lines in the log, as episode `ep` of the run.

        Raises: AuditError where a number is NaN or Infinity.
        """
        count = np.array([len(self.rows)])
        made = typesetter_of(self.world).lines(self.rows[None], count, [(ep, self.env)])
        if made is None:
            return b"".join(StepLines().lines(columns(self.world, self.rows, self.env, ep)))
        return made[0]


class EpisodeSteps:
    """Collects the steps of a core's environments until their episodes end."""

    def __init__(self, core: Core) -> None:
        """Make room for the longest episode that `core` can run."""
        self._core = core
        self._rows = np.zeros((core.num_envs, core.state.history.shape[1]), STEP)
        self._count = np.zeros(core.num_envs, np.int64)
        self._ended = np.zeros(core.num_envs, np.bool_)
        self._bans: dict[int, list[list[int | str]]] = {}

    def ban(self, envs: npt.NDArray[np.int64], catalog: str) -> None:
        """Note that another catalog's bans hold in running episodes from their next step on.

        Args:
          envs: what `Core.ban` gave.
          catalog: SHA-256 of that catalog, 64 hex digits.
        """
        for env in envs.tolist():
            self._bans.setdefault(env, []).append([int(self._count[env]) + 1, catalog])

    def add(
        self,
        history: npt.NDArray[Any],
        cap: npt.NDArray[Any],
        steps: StepArrays,
        active: npt.NDArray[np.bool_],
    ) -> None:
        """Keep one batched step; an environment that had ended begins a new episode.

        Args:
          history: [N], indices in H.
          cap: [N], indices in P.
          steps: what `Core.step` gave for them.
          active: [N] bool, environments that stepped.
        """
        for env in [env for env in self._bans if self._ended[env] and active[env]]:
            del self._bans[env]
        _keep(
            self._rows, self._count, self._ended, np.asarray(active),
            np.asarray(history).astype(np.int8), np.asarray(cap).astype(np.int8),
            *(np.asarray(getattr(steps, name)) for name in _KEPT),
        )  # fmt: skip

    def header(self, env: int) -> dict[str, Any]:
        """Fields of the event `episode`, without `ep`, of the answer that `env` writes or wrote."""
        world, state = self._core.world_of(env), self._core.state
        record = world.records[state.record[env]]
        number = int(state.question[env] - world.question_start[state.record[env]])
        return {
            "env": env,
            "record": record.id,
            "question": record.questions[number],
            "catalog": world.catalog_sha256,
            "split": record.split,
            "start": 0,
            "align": world.settings.align,
            "slack": world.settings.slack,
            **({"bans": self._bans[env]} if env in self._bans else {}),
        }

    def taken(self, env: int) -> Taken:
        """The episode that `env` wrote last, in memory of its own."""
        rows = self._rows[env, : self._count[env]].copy()
        return Taken(self._core.world_of(env), rows, env)

    def held(self) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
        """Steps of all environments, [N, room] of `STEP`, and how many each has, [N]; views."""
        return self._rows, self._count

    def columns(self, env: int, ep: int = 0) -> StepColumns:
        """The same as columns; the log's writer fills in `ep`."""
        rows = self._rows[env, : self._count[env]]
        return columns(self._core.world_of(env), rows, env, ep)


_KEPT = (*INTEGERS, *FLOATS, "illegal", "terminated", "truncated")


@compiled()
def _keep(
    rows: Any, count: Any, ended: Any, active: Any, history: Any, cap: Any,
    char: Any, written: Any, term: Any, n_legal: Any,
    idf: Any, sim: Any, delta: Any, ler: Any, len_cost: Any, base: Any, chi_soft: Any, reward: Any,
    illegal: Any, terminated: Any, truncated: Any,
) -> None:  # fmt: skip
    """Put a step of each active environment behind its others."""
    for i in range(rows.shape[0]):
        if not active[i]:
            continue
        if ended[i]:
            count[i] = 0
        row = rows[i, count[i]]
        row.char, row.written, row.term = char[i], written[i], term[i]
        row.n_legal, row.history, row.cap = n_legal[i], history[i], cap[i]
        row.illegal = illegal[i]
        row.idf, row.sim, row.delta, row.ler = idf[i], sim[i], delta[i], ler[i]
        row.len_cost, row.base = len_cost[i], base[i]
        row.chi_soft, row.reward = chi_soft[i], reward[i]
        count[i] += 1
        ended[i] = terminated[i] or truncated[i]
