"""Answers written without a teacher: the same masks and observations as a step, and no reward.

The future of a hit is what the student itself wrote next, so hits are found when an answer ends.
Without a gate every hit is a credit and covers its segment; a hit inside one that ends no later is
none, as in training.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from flexattn.audit.schema import StepColumns, rounded
from flexattn.env.mask import fill_legal
from flexattn.env.records import notes
from flexattn.env.sketch import push
from flexattn.env.spec import Observation
from flexattn.env.vocabulary import END, PAD
from flexattn.env.world import World
from flexattn.errors import MaskError
from flexattn.lexicon.bits import has, words_for
from flexattn.lexicon.compiled import compiled
from flexattn.lexicon.reference import longest_capped_hit

Ids = npt.NDArray[np.int32]


@compiled(allocates=True)
def _open(
    history: Any, t: Any, automaton: Any, done: Any, legal: Any, n_legal: Any, M: Any
) -> None:
    """Fill the mask of every answer that goes on; after the end only the end is legal."""
    for i in range(history.shape[0]):
        if done[i]:
            legal[i, :] = np.uint64(0)
            legal[i, 0] = np.uint64(1 << END)
            n_legal[i] = 1
        else:
            count, _ = fill_legal(legal[i], history[i], t[i], automaton[i], M)
            n_legal[i] = count


@compiled(allocates=True)
def _append(
    envs: Any, char: Any, history: Any, t: Any, automaton: Any, sketch: Any, seen: Any, M: Any
) -> None:
    """Write char[i] into each answer i of `envs`; what leaves the observation enters the sketch."""
    for i in envs:
        history[i, t[i]] = char[i]
        automaton[i] = M.goto[automaton[i], char[i]]
        t[i] += 1
        if t[i] > seen:
            push(sketch[i], history[i, t[i] - 1 - seen])


class Freehand:
    """N answers side by side, each to its own question."""

    def __init__(self, world: World, questions: Sequence[str], limit: int) -> None:
        """Stand at the start of every answer.

        Args:
          world: vocabulary, masks and question encoder.
          questions: N questions as they were asked.
          limit: most characters of an answer.
        """
        self.world, self.limit = world, limit
        n, settings = len(questions), world.settings
        self.questions = np.stack([world.encode_question(text) for text in questions])
        self.history = np.zeros((n, limit), np.int32)
        self.t = np.zeros(n, np.int32)
        self.automaton = np.zeros(n, np.int32)
        self.done = np.zeros(n, np.bool_)
        self.n_legal = np.zeros(n, np.int32)
        self.sketch = np.zeros((n, settings.sketch_dim), np.float32)
        self.legal = np.zeros((n, words_for(world.size)), np.uint64)
        self._fill()

    def observe(self) -> Observation:
        """What an actor may see; fresh arrays."""
        width = self.world.settings.max_history
        places = self.t[:, None].astype(np.int64) + np.arange(-width, 0)
        rows = np.take_along_axis(self.history, np.maximum(places, 0), axis=1)
        history = np.where(places >= 0, rows, PAD).astype(np.int32)
        return Observation(history, self.sketch.copy(), self.questions, self.t.copy())

    def write(self, char: Ids) -> None:
        """Write one character in every answer that goes on.

        Raises: MaskError for a character outside A(s).
        """
        going = np.flatnonzero(~self.done)
        for i in going:
            if not has(self.legal[i], char[i]):
                raise MaskError(
                    f"answer {i}: character {char[i]} is not legal at step {self.t[i] + 1}"
                )
        self.done[going[char[going] == END]] = True
        on = going[char[going] != END]
        _append(
            on, char, self.history, self.t, self.automaton, self.sketch,
            self.world.settings.max_history, self.world.mask,
        )  # fmt: skip
        self.done[on[self.t[on] >= self.limit]] = True
        self._fill()

    def take(self, rows: npt.NDArray[np.int64]) -> None:
        """Put answer `rows[i]` in place i; one answer may come to stand in several places."""
        self.questions = self.questions[rows]
        for name in ("history", "t", "automaton", "done", "n_legal", "sketch", "legal"):
            setattr(self, name, getattr(self, name)[rows])

    def text(self, env: int) -> str:
        """What answer `env` says so far."""
        return self.world.vocabulary.decode(self.history[env, : self.t[env]])

    def _fill(self) -> None:
        _open(
            self.history,
            self.t,
            self.automaton,
            self.done,
            self.legal,
            self.n_legal,
            self.world.mask,
        )


def own_hits(
    text: str, caps: Sequence[int], terms: Collection[str], lengths: Sequence[int], nested: bool
) -> list[str]:
    """The term that each character of a finished answer hits, "" for none, [len(text)].

    Args:
      text: the answer.
      caps: Lp of each character.
      terms: catalog terms.
      lengths: U, characters.
      nested: may a hit inside a covered segment count.
    """
    hits: list[str] = []
    covered = 0
    for t, (char, cap) in enumerate(zip(text, caps)):
        hit = longest_capped_hit(char, text[t + 1 :], terms, lengths, cap) or ""
        if hit and not nested and t < covered and t + len(hit) <= covered:
            hit = ""
        covered = max(covered, t + len(hit)) if hit else covered
        hits.append(hit)
    return hits


def hits_along(world: World, text: str, caps: Sequence[int]) -> list[int]:
    """`own_hits` by the world's index: the term's number at each character, -1 for none."""
    settings = world.settings
    found = {cap: world.index.longest_hits(text, settings.lengths, cap) for cap in set(caps)}
    hits: list[int] = []
    covered = 0
    for t, (_, cap) in enumerate(zip(text, caps)):
        term = int(found[cap][t])
        end = t + len(world.term_list[term]) if term >= 0 else 0
        if term >= 0 and not settings.nested and t < covered and end <= covered:
            term = -1
        if term >= 0:
            covered = max(covered, end)
        hits.append(term)
    return hits


def generated_columns(
    world: World,
    text: str,
    ended: bool,
    choices: tuple[Sequence[int], Sequence[int]],
    n_legal: Sequence[int],
    p: Sequence[float],
    kept: Sequence[float] | None,
    env: int = 0,
    ep: int = 0,
    among: Sequence[Sequence[str]] | None = None,
) -> StepColumns:
    """A finished answer as the log's columns of a generation.

    Args:
      world: where terms, weights and file come from.
      text: what was written, T characters.
      ended: whether the student ended it, which is a step of its own.
      choices: Lh and Lp of each step, characters.
      n_legal: |A(s)| at each step.
      p: probability of each character.
      kept: mass that the strategy kept at each step; None where it cuts nothing.
      env: which of the answers written side by side.
      ep: number of the answer in its run.
      among: characters that the strategy kept at each step; None where it cuts nothing.
    """
    histories, caps = choices
    found = hits_along(world, text, caps) + [-1] * ended
    hits = [world.term_list[term] if term >= 0 else "" for term in found]
    chars = [*text, *[""] * ended]
    weights = rounded(np.array([world.terms.weight[term] if term >= 0 else 0.0 for term in found]))
    named, ids = notes(world), world.vocabulary.ids
    count = len(chars)
    columns: dict[str, list[Any]] = {
        "step": list(range(1, count + 1)),
        "Lh": list(histories),
        "Lp": list(caps),
        "a": chars,
        "seg": [hit or "-" for hit in hits],
        "len": [len(hit) for hit in hits],
        "idf": weights.tolist(),
        "file": [
            f"{world.catalog_file}#{world.entry_ids[term]}" if term >= 0 else "-" for term in found
        ],
        "pos": [f"t{t}-{t + len(hit) - 1}" if hit else "-" for t, hit in enumerate(hits)],
        "cat": [world.catalog_short] * count,
        "ep": [ep] * count,
        "env": [env] * count,
        "n_legal": [int(n) for n in n_legal],
        "p": rounded(np.array(p, np.float64)).tolist(),
    }
    columns["kept"] = (
        [None] * count if kept is None else rounded(np.array(kept, np.float64)).tolist()
    )
    columns["among"] = [None] * count if among is None else [tuple(step) for step in among]
    columns["w"] = [None] * count
    columns["note"] = [named.get(END if char == "" else ids[char]) for char in chars]
    return columns
