"""A finished episode as the log's columns: key of the step line -> one value a step, SPEC 10.

Numbers become decimal here and nowhere else, by `audit.schema.rounded`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from flexattn.audit.schema import StepColumns, rounded
from flexattn.env.core import Core
from flexattn.env.spec import StepArrays
from flexattn.env.vocabulary import END, SENTENCE_ENDS
from flexattn.env.world import World

FLOATS = ("idf", "sim", "delta", "ler", "len_cost", "base", "chi_soft", "reward")
INTEGERS = ("char", "written", "term", "n_legal")


def columns(world: World, arrays: Mapping[str, npt.NDArray[Any]], env: int, ep: int) -> StepColumns:
    """Columns of one episode.

    Args:
      world: the world that it was written in; its catalog gives terms, file and hash.
      arrays: `history` and `cap` (indices in H and P), `illegal` and the fields of StepArrays named
        in FLOATS and INTEGERS, [T] each.
      env: which environment wrote it.
      ep: number of the episode in its run.

    Returns: lists of T values, keys in the order of a step line; `w` and `note` hold None where a
      line has none.
    """
    count = len(arrays["char"])
    settings = world.settings
    numbers = rounded(np.stack([arrays[name] for name in FLOATS]).astype(np.float64)).tolist()
    idf, sim, delta, ler, len_cost, base, chi_soft, reward = numbers
    chars = arrays["char"].tolist()
    terms = arrays["term"].tolist()
    names, file, ids = world.term_list, world.catalog_file, world.entry_ids
    seg = [names[term] if term >= 0 else "-" for term in terms]
    sizes = [len(names[term]) if term >= 0 else 0 for term in terms]
    spell, named = world.vocabulary.char, notes(world)
    written = arrays["written"]
    put: list[str | None] = [None] * count
    for t in np.flatnonzero(written != arrays["char"]).tolist():
        put[t] = spell(int(written[t]))
    note = [named.get(char) for char in chars]
    for t in np.flatnonzero(arrays["illegal"]).tolist():
        note[t] = "illegal"
    return {
        "step": list(range(1, count + 1)),
        "Lh": np.array(settings.history_chars)[arrays["history"]].tolist(),
        "Lp": np.array(settings.hit_cap_chars)[arrays["cap"]].tolist(),
        "a": [spell(char) for char in chars],
        "seg": seg,
        "len": sizes,
        "idf": idf,
        "sim": sim,
        "delta": delta,
        "ler": ler,
        "len_cost": len_cost,
        "base": base,
        "chi_soft": chi_soft,
        "reward": reward,
        "file": [f"{file}#{ids[term]}" if term >= 0 else "-" for term in terms],
        "pos": [f"t{t}-{t + n - 1}" if n else "-" for t, n in enumerate(sizes)],
        "cat": [world.catalog_short] * count,
        "ep": [ep] * count,
        "env": [env] * count,
        "n_legal": arrays["n_legal"].tolist(),
        "w": put,
        "note": note,
    }


def notes(world: World) -> dict[int, str]:
    """Note of an id that has one; `illegal` goes before all of them."""
    vocabulary = world.vocabulary
    found = {int(n): "punctuation" for n in np.flatnonzero(vocabulary.marks)}
    found |= {int(n): "period" for n in np.flatnonzero(vocabulary.members(SENTENCE_ENDS))}
    return found | {END: "end"}


class EpisodeSteps:
    """Collects the steps of a core's environments until their episodes end."""

    def __init__(self, core: Core) -> None:
        """Make room for the longest episode that `core` can run."""
        self._core = core
        room = (core.num_envs, core.state.history.shape[1])
        kinds: dict[str, Any] = {"history": np.int8, "cap": np.int8, "illegal": np.bool_}
        kinds |= dict.fromkeys(INTEGERS, np.int32) | dict.fromkeys(FLOATS, np.float64)
        self._arrays = {name: np.zeros(room, kind) for name, kind in kinds.items()}
        self._count = np.zeros(core.num_envs, np.int64)
        self._ended = np.zeros(core.num_envs, np.bool_)

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
        envs = np.flatnonzero(active)
        self._count[envs[self._ended[envs]]] = 0
        place = self._count[envs]
        for name, array in self._arrays.items():
            if name in ("history", "cap"):
                values = history if name == "history" else cap
            else:
                values = getattr(steps, name)
            array[envs, place] = np.asarray(values)[envs]
        self._count[envs] += 1
        self._ended[envs] = steps.terminated[envs] | steps.truncated[envs]

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
        }

    def columns(self, env: int, ep: int = 0) -> StepColumns:
        """Columns of the episode that `env` wrote last; the log's writer fills in `ep`."""
        count = int(self._count[env])
        arrays = {name: array[env, :count] for name, array in self._arrays.items()}
        return columns(self._core.world_of(env), arrays, env, ep)
