"""A finished episode as the log's columns: key of the step line -> one value a step.

Numbers become decimal here and nowhere else, by `audit.schema.rounded`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from flexattn.audit.schema import StepColumns, rounded
from flexattn.env.vocabulary import END, SENTENCE_ENDS
from flexattn.env.world import World

FLOATS = ("idf", "sim", "delta", "ler", "len_cost", "base", "chi_soft", "reward")
INTEGERS = ("char", "written", "term", "n_legal")
# a step as it is kept until its episode ends; `history` and `cap` are indices in H and P
STEP = np.dtype(
    [(name, np.int32) for name in INTEGERS]
    + [("history", np.int8), ("cap", np.int8), ("illegal", np.bool_)]
    + [(name, np.float64) for name in FLOATS],
    align=True,
)


def columns(
    world: World, arrays: Mapping[str, npt.NDArray[Any]] | npt.NDArray[Any], env: int, ep: int
) -> StepColumns:
    """Columns of one episode.

    Args:
      world: the world that it was written in; its catalog gives terms, file and hash.
      arrays: what the fields of `STEP` name, [T] each: an array of `STEP`, or arrays by name.
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
