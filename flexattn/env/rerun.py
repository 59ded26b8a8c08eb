"""Whole episodes stepped from decisions that are known before, without coming back in between.

The step is `kernel.step_all`, as everywhere; only the loop over time is compiled here besides.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from flexattn.env.core import Core
from flexattn.env.kernel import step_all
from flexattn.env.records import STEP
from flexattn.lexicon.bits import select
from flexattn.lexicon.compiled import compiled

Ids = npt.NDArray[np.int32]


class Decided(NamedTuple):
    """What students decided, one column an episode: [T, N] each, zeros behind an episode's end.

    Attributes:
      history: index in H.
      cap: index in P.
      char: emitted id, known to the vocabulary.
      written: id that entered the history, -1 for the emitted one.
      illegal: whether the note says that the mask replaced the character.
      counts: [N] int64, steps of each episode.
    """

    history: Ids
    cap: Ids
    char: Ids
    written: Ids
    illegal: npt.NDArray[np.bool_]
    counts: npt.NDArray[np.int64]

    @classmethod
    def empty(cls, steps: int, episodes: int) -> Decided:
        """Room for `episodes` of at most `steps` steps, none of them there yet."""
        history, cap, char, written = np.zeros((4, steps, episodes), np.int32)
        illegal = np.zeros((steps, episodes), np.bool_)
        return cls(history, cap, char, written, illegal, np.zeros(episodes, np.int64))


class Rerun(NamedTuple):
    """What decisions led to.

    Attributes:
      rows: [N, T] of `STEP`; `illegal` is the note's word.
      counts: [N] int64, steps that were taken: those decided, up to the one that ends the answer.
      over: [N] int64, index of the step that ended the answer, -1 where none did.
      illegal: [N] int64, index of the first step that the mask did not allow, -1 for none.
      not_lowest: [N] int64, index of the first step noted `illegal` whose character is not the
        legal one of the lowest id, -1 for none.
    """

    rows: npt.NDArray[Any]
    counts: npt.NDArray[np.int64]
    over: npt.NDArray[np.int64]
    illegal: npt.NDArray[np.int64]
    not_lowest: npt.NDArray[np.int64]


def rerun(
    core: Core,
    records: Sequence[int],
    decided: Decided,
    bans: Mapping[int, Mapping[str, Sequence[int]]],
    banned: Callable[[str], Sequence[str]],
) -> Rerun:
    """Step all episodes side by side, each in the environment of its number.

    Args:
      core: at least N environments.
      records: record of each episode.
      decided: what was decided.
      bans: index of a step -> catalog -> episodes in which its bans hold too from there on.
      banned: catalog -> what it bans.
    """
    steps, count = decided.char.shape
    made = Rerun(np.empty((count, steps), STEP), *(np.full(count, -1, np.int64) for _ in range(4)))
    core.reset(np.arange(count), records)
    active = np.zeros(core.num_envs, np.bool_)
    moments = sorted({0, *(t for t in bans if t < steps), steps})
    for first, last in pairwise(moments):
        for catalog, stricter in bans.get(first, {}).items():
            core.ban(banned(catalog), stricter)
        for group, tables in core.shared():
            which = group[group < count]
            _rerun_all(first, last, which, active, *decided, *made, *tables)
    made.counts[:] = np.where(made.over < 0, np.minimum(decided.counts, steps), made.over + 1)
    return made


@compiled()
def _rerun_all(
    first: Any, last: Any, which: Any, active: Any,
    history: Any, cap: Any, char: Any, written: Any, asked: Any, counts: Any,
    rows: Any, taken: Any, over: Any, illegal: Any, not_lowest: Any,
    Y: Any, L: Any, M: Any, G: Any, R: Any, S: Any, out: Any,
) -> None:  # fmt: skip
    """The steps first..last - 1 of the episodes of `which`."""
    nobody, no = np.int64(0), np.bool_(False)  # no literals: the step is compiled for types once
    for t in range(first, last):
        running = False
        for n in range(which.shape[0]):
            i = which[n]
            active[i] = t < counts[i] and over[i] < 0
            running = running or active[i]
            noted = active[i] and asked[t, i] and not_lowest[i] < 0
            if noted and select(S.legal[i], 0) != char[t, i]:
                not_lowest[i] = t
        if not running:
            return
        step_all(
            nobody, which.shape[0], which, active, history[t], cap[t], char[t], written[t],
            no, no, Y, L, M, G, R, S, out,
        )  # fmt: skip
        for n in range(which.shape[0]):
            i = which[n]
            if not active[i]:
                continue
            row = rows[i, t]
            row.char, row.written, row.term = out.char[i], out.written[i], out.term[i]
            row.n_legal, row.history, row.cap = out.n_legal[i], history[t, i], cap[t, i]
            row.illegal = asked[t, i]
            row.idf, row.sim, row.delta, row.ler = out.idf[i], out.sim[i], out.delta[i], out.ler[i]
            row.len_cost, row.base = out.len_cost[i], out.base[i]
            row.chi_soft, row.reward = out.chi_soft[i], out.reward[i]
            if out.illegal[i] and illegal[i] < 0:
                illegal[i] = t
            if out.terminated[i] or out.truncated[i]:
                over[i] = t
