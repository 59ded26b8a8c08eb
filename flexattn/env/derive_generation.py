"""A generation derived again: hits in what was written next, and whether each step was legal.

The probabilities `p` and `kept` come from the network; they are taken as logged, if they are
probabilities. No file is opened here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import orjson

from flexattn.audit.lines import StepLines
from flexattn.audit.schema import defect
from flexattn.env.difference import (
    Difference,
    Logged,
    compare,
    header_difference,
    schema_difference,
)
from flexattn.env.freehand import Freehand, generated_columns
from flexattn.env.vocabulary import END, UNK
from flexattn.env.world import World
from flexattn.lexicon.bits import has


class GenerationDeriver:
    """Derives generated answers: hits in what was written next, and whether each step was legal.

    The probabilities `p` and `kept` come from the network; they are taken as logged, if they are
    probabilities.
    """

    def __init__(self, world: World) -> None:
        """Take the catalog and the mask of `world`."""
        self.world = world
        self._lines = StepLines()

    def check(self, episodes: Sequence[Logged]) -> list[Difference]:
        """The first difference of each answer that has one, in order."""
        found = (self._answer(n, episode) for n, episode in enumerate(episodes))
        return [difference for difference in found if difference is not None]

    def _answer(self, n: int, episode: Logged) -> Difference | None:
        header, settings = episode.header, self.world.settings
        derived = {
            "record": None,
            "catalog": self.world.catalog_sha256,
            "split": None,
            "start": 0,
            "align": settings.align,
            "slack": settings.slack,
        }
        apart = header_difference(n, header, derived)
        if apart:
            return apart
        steps, stop = self._steps(n, episode.lines)
        paper = Freehand(self.world, [header["question"]], len(episode.lines) + 1)
        n_legal: list[int] = []
        for t, step in enumerate(steps):
            char = END if step["a"] == "" else self.world.vocabulary.ids.get(step["a"], UNK)
            if paper.done[0]:
                text = f"the answer goes on after step {t}, which ended it"
                stop = Difference(n, t, "episode-runs-on", text)
            elif char >= self.world.size or not has(paper.legal[0], char):
                what = f"a is {step['a']!r}" if step["a"] else "the answer ends here"
                text = f"{what}, which the mask did not allow"
                stop = Difference(n, t, "illegal", text, "a", step["a"])
            elif (odd := self._outside(step, paper)) is not None:
                text = f"among names {odd!r}, which the mask did not allow or `a` is not one of"
                stop = Difference(n, t, "illegal", text, "among", odd)
            else:
                n_legal.append(int(paper.n_legal[0]))
                paper.write(np.array([char], np.int32))
                continue
            steps = steps[:t]
            break
        # a hit is what was written next, so the last steps before a stop can't be told
        sure = len(steps) - max(settings.lengths) + 1 if stop else len(steps)
        return self._compare(n, episode, steps, n_legal, sure) or stop

    def _outside(self, step: Mapping[str, Any], paper: Freehand) -> str | None:
        """A kept character that is not legal, or `a` where it was not kept; None if all is well."""
        if "among" not in step:
            return None
        ids = self.world.vocabulary.ids
        for char in step["among"]:
            kept = END if char == "" else ids.get(char, UNK)
            if kept >= self.world.size or not has(paper.legal[0], kept):
                return str(char)
        return None if step["a"] in step["among"] else str(step["a"])

    def _steps(self, n: int, lines: Sequence[bytes]) -> tuple[list[Any], Difference | None]:
        steps: list[Any] = []
        choices = {"Lh": self.world.settings.history_chars, "Lp": self.world.settings.hit_cap_chars}
        for t, line in enumerate(lines):
            try:
                step = orjson.loads(line)
            except ValueError as error:
                return steps, Difference(n, t, "not-json", f"the line is no JSON: {error}")
            wrong = defect(step) if isinstance(step, dict) else ("line", "no object", "an object")
            if wrong is None and "p" not in step:
                wrong = ("p", "nothing", "the key in every step of a generation")
            if wrong:
                return steps, schema_difference(n, t, wrong)
            for name, known in choices.items():
                if step[name] not in known:
                    text = f"{name} is {step[name]}, expected one of {list(known)}"
                    return steps, Difference(n, t, "choice", text, name, step[name], list(known))
            for name in ("p", "kept"):
                if not 0.0 <= step.get(name, 1.0) <= 1.0:
                    text = f"{name} is {step[name]}, expected a probability"
                    return steps, Difference(n, t, "number", text, name, step[name])
            steps.append(step)
        return steps, None

    def _compare(
        self, n: int, episode: Logged, steps: Sequence[Any], n_legal: Sequence[int], sure: int
    ) -> Difference | None:
        count = len(steps)
        if not count:
            return None
        ended, limit = steps[-1]["a"] == "", episode.header.get("limit", 0)
        kept = [step.get("kept") for step in steps]
        among = [step.get("among") for step in steps]
        derived = generated_columns(
            self.world,
            "".join(step["a"] for step in steps),
            ended,
            ([step["Lh"] for step in steps], [step["Lp"] for step in steps]),
            n_legal,
            [step["p"] for step in steps],
            None if None in kept else kept,
            episode.header["env"],
            episode.header["ep"],
            None if None in among else among,
        )
        lines = self._lines.lines(derived)
        for t, (ours, theirs) in enumerate(zip(lines[: max(0, sure)], episode.lines)):
            if ours != theirs:
                return compare(n, t, theirs, {name: column[t] for name, column in derived.items()})
        if count == len(episode.lines) and episode.whole and not ended and count != limit:
            text = f"the answer stops after step {count}, before its end and its limit of {limit}"
            return Difference(n, count - 1, "episode-stops", text)
        return None
