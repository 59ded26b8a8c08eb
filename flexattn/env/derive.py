"""Logged decisions in, differences out: every number of an episode is derived again and compared.

Derived are the lines themselves, through `Core` and `records.columns` as in training; an episode
is right where its bytes are these bytes. No file is opened here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from flexattn.audit.schema import StepColumns, defect, rounded
from flexattn.env.collect import Taken
from flexattn.env.core import Core
from flexattn.env.difference import (
    Difference,
    Logged,
    compare,
    header_difference,
    schema_difference,
)
from flexattn.env.records import columns
from flexattn.env.rerun import Decided, Rerun, rerun
from flexattn.env.scan import Scanner
from flexattn.env.typeset import typesetter_of
from flexattn.env.vocabulary import END
from flexattn.env.world import World
from flexattn.errors import FlexAttnError

LANES = 64  # episodes derived side by side: what they need fits a core's cache
_FORM = frozenset(("not-json", "schema", "step-order"))


@dataclass
class _Parsed:
    """What is taken from an episode's lines: indices and ids, one value a step.

    `stop` cuts the episode before the first line that says nothing usable.
    """

    history: Sequence[int]
    cap: Sequence[int]
    char: Sequence[int]
    written: Sequence[int]
    illegal: Sequence[bool]
    stop: Difference | None = None


class Deriver:
    """Derives episodes of one world."""

    def __init__(
        self,
        world: World,
        lanes: int = LANES,
        bans_of: Callable[[str], Sequence[str]] | None = None,
    ) -> None:
        """Make `lanes` environments of `world`.

        Args:
          world: the tables under one catalog version.
          lanes: episodes derived side by side.
          bans_of: SHA-256 -> what that other version bans, where bans act at once; raises
            FlexAttnError where there is no such version.
        """
        self.world = world
        self._bans_of = bans_of
        self._core = Core(world, lanes)
        self._records = {record.id: n for n, record in enumerate(world.records)}
        self._ids = {"": END, **world.vocabulary.ids}
        self._history = {lh: n for n, lh in enumerate(world.settings.history_chars)}
        self._caps = {lp: n for n, lp in enumerate(world.settings.hit_cap_chars)}
        self._scanner = Scanner(world)

    def check(self, episodes: Sequence[Logged]) -> list[Difference]:
        """The first difference of each episode that has one, in order."""
        found: list[Difference] = []
        for start in range(0, len(episodes), self._core.num_envs):
            batch = episodes[start : start + self._core.num_envs]
            suspects = self._suspects(batch)
            if suspects:  # their lines are parsed in full, so that the first difference is named
                named = self._batch([batch[n] for n in suspects])
                found += [replace(d, episode=start + suspects[d.episode]) for d in named]
        return found

    def derive(self, header: Mapping[str, Any], decisions: StepColumns) -> StepColumns:
        """Columns that the decisions `Lh`, `Lp`, `a`, `w`, `note` of one episode give."""
        parsed = _Parsed(
            [self._history[lh] for lh in decisions["Lh"]],
            [self._caps[lp] for lp in decisions["Lp"]],
            [self._ids[a] for a in decisions["a"]],
            [-1 if w is None else self._ids[w] for w in decisions["w"]],
            [note == "illegal" for note in decisions["note"]],
        )
        made = self._run([header], self._decided([parsed]))
        return columns(self.world, made.rows[0, : made.counts[0]], header["env"], header["ep"])

    def gain_by_cap(self, episode: Logged) -> list[list[float]]:
        """What each step of a sound episode would have been credited under each cap, reward."""
        decided = self._decided([self._parsed(episode.lines, 0)])
        core = Core(self.world, 1, gain_by_cap=True)
        core.reset([0], [self._records[episode.header["record"]]])
        gains: list[list[float]] = []
        for t in range(int(decided.counts[0])):
            steps = core.step(
                decided.history[t],
                decided.cap[t],
                decided.char[t],
                decided.written[t],
                enforce=False,
            )
            gains.append(rounded(steps.gain_by_cap[0]).tolist())
        return gains

    def _suspects(self, episodes: Sequence[Logged]) -> list[int]:
        """Which episodes are not, as they stand, what their decisions give."""
        fits = [n for n, e in enumerate(episodes) if self._header(e.header, n) is None]
        asked = [episodes[n] for n in fits]
        logged = [episode.data for episode in asked]
        decided = self._scanner.read(logged, self._core.state.history.shape[1])
        usual = decided.counts > 0
        np.maximum(decided.counts, 0, out=decided.counts)
        made = self._run([episode.header for episode in asked], decided)
        sound = usual & (made.over == decided.counts - 1)
        sound &= (made.illegal < 0) & (made.not_lowest < 0)
        data, ends = self._printed(made, asked)
        if not sound.all() or data != b"".join(logged):
            start = 0
            for k, (end, lines) in enumerate(zip(ends, logged)):
                sound[k] &= data[start:end] == lines
                start = end
        whole = {n for n, held in zip(fits, sound.tolist()) if held}
        return [n for n in range(len(episodes)) if n not in whole]

    def _batch(self, episodes: Sequence[Logged]) -> list[Difference]:
        """The first difference of each episode, its lines parsed in full."""
        found: list[list[Difference]] = [[] for _ in episodes]
        known: list[int] = []
        parsed: list[_Parsed] = []
        for n, episode in enumerate(episodes):
            wrong = self._header(episode.header, n)
            if wrong:
                found[n].append(wrong)
                continue
            known.append(n)
            parsed.append(self._parsed(episode.lines, n))
            if (stop := parsed[-1].stop) is not None:
                found[n].append(stop)
        asked = [episodes[n] for n in known]
        decided = self._decided(parsed)
        made = self._run([episode.header for episode in asked], decided)
        data, ends = self._printed(made, asked)
        for k, (n, episode) in enumerate(zip(known, asked)):
            fault = self._fault(n, k, made, decided, parsed[k].stop is not None)
            if fault and (fault.code != "episode-stops" or episode.whole):
                found[n].append(fault)
            printed = data[ends[k - 1] if k else 0 : ends[k]]
            lines = episode.lines
            if printed != b"".join(lines[: made.counts[k]]):
                rows = made.rows[k, : made.counts[k]]
                found[n].append(self._first_difference(n, printed, rows, episode.header, lines))
        ranked = (sorted(some, key=lambda d: (d.step, d.code not in _FORM)) for some in found)
        return [some[0] for some in ranked if some]

    def _header(self, header: Mapping[str, Any], n: int) -> Difference | None:
        """Whether the header is the one that training writes for its record."""
        known = header.get("record")
        if known not in self._records:
            text = f"record is {known!r}, which the corpus does not have"
            return Difference(n, -1, "record-unknown", text, "record", known)
        record = self.world.records[self._records[known]]
        question = header["question"]
        if question not in record.questions:
            text = f"question is none of the record's {len(record.questions)} questions"
            return Difference(n, -1, "record-unknown", text, "question", question)
        settings = self.world.settings
        derived = {
            "catalog": self.world.catalog_sha256,
            "split": record.split,
            "start": 0,
            "align": settings.align,
            "slack": settings.slack,
        }
        apart = header_difference(n, header, derived)
        if apart:
            return apart
        for _, sha in header.get("bans", []):
            try:
                self._banned(sha)
            except FlexAttnError as error:
                return Difference(n, -1, "catalog-unknown", str(error), "bans", sha)
        return None

    def _banned(self, sha: str) -> Sequence[str]:
        if self._bans_of is None:
            raise FlexAttnError(f"catalog {sha[:8]} is none of the run's")
        return self._bans_of(sha)

    def _parsed(self, lines: Sequence[bytes], n: int) -> _Parsed:
        """What the student decided, up to the first line that says nothing usable."""
        try:
            return self._decisions(lines)
        except (ValueError, KeyError, TypeError):
            t = next(t for t, line in enumerate(lines) if not self._usable(line))
            return replace(self._decisions(lines[:t]), stop=self._unusable(n, t, lines[t]))

    def _decisions(self, lines: Sequence[bytes]) -> _Parsed:
        steps = list(map(orjson.loads, lines))
        ids, histories, caps = self._ids, self._history, self._caps
        return _Parsed(
            [histories[step["Lh"]] for step in steps],
            [caps[step["Lp"]] for step in steps],
            [ids[step["a"]] for step in steps],
            [ids[step["w"]] if "w" in step else -1 for step in steps],
            ["note" in step and step["note"] == "illegal" for step in steps],
        )

    def _usable(self, line: bytes) -> bool:
        try:
            self._decisions([line])
        except (ValueError, KeyError, TypeError):
            return False
        return True

    def _unusable(self, n: int, t: int, line: bytes) -> Difference:
        try:
            step = orjson.loads(line)
        except ValueError as error:
            return Difference(n, t, "not-json", f"the line is no JSON: {error}")
        wrong = defect(step) if isinstance(step, dict) else ("line", "no object", "an object")
        if wrong:
            return schema_difference(n, t, wrong)
        for name, choices in (("Lh", self._history), ("Lp", self._caps)):
            if step[name] not in choices:
                text = f"{name} is {step[name]}, expected one of {list(choices)}"
                return Difference(n, t, "choice", text, name, step[name], list(choices))
        name = "a" if step["a"] not in self._ids else "w"
        text = f"{name} is {step[name]!r}, which the corpus does not have"
        return Difference(n, t, "illegal", text, name, step[name])

    def _decided(self, episodes: Sequence[_Parsed]) -> Decided:
        """The decisions of several episodes side by side; what is too long for one is cut."""
        lengths = [len(episode.char) for episode in episodes]
        most = min(max(lengths, default=0), self._core.state.history.shape[1])
        out = Decided.empty(most, len(episodes))
        for n, episode in enumerate(episodes):
            for name in ("history", "cap", "char", "written", "illegal"):
                taken = getattr(episode, name)[:most]
                getattr(out, name)[: len(taken), n] = taken
        out.counts[:] = lengths
        return out

    def _run(self, headers: Sequence[Mapping[str, Any]], decided: Decided) -> Rerun:
        """Step all episodes side by side."""
        bans: dict[int, dict[str, list[int]]] = {}
        for n, header in enumerate(headers):
            for step, sha in header.get("bans", []):
                bans.setdefault(step - 1, {}).setdefault(sha, []).append(n)
        records = [self._records[header["record"]] for header in headers]
        return rerun(self._core, records, decided, bans, self._banned)

    def _printed(self, made: Rerun, episodes: Sequence[Logged]) -> tuple[bytes, list[int]]:
        """The lines of all episodes, run together, and where each episode's end."""
        names = [(int(e.header["ep"]), int(e.header["env"])) for e in episodes]
        fast = typesetter_of(self.world).lines(made.rows, made.counts, names)
        if fast is not None:
            return fast[0], fast[1].tolist()
        slow = [
            Taken(self.world, made.rows[n, : made.counts[n]], env).lines(ep)
            for n, (ep, env) in enumerate(names)
        ]
        return b"".join(slow), np.cumsum([len(lines) for lines in slow]).tolist()

    def _fault(
        self, n: int, k: int, made: Rerun, decided: Decided, stopped: bool
    ) -> Difference | None:
        """What the mask or the end of the answer has against episode n, the k-th one stepped."""
        illegal, lowest = int(made.illegal[k]), int(made.not_lowest[k])
        if lowest >= 0 and (illegal < 0 or lowest < illegal):
            text = "note is illegal, but `a` is not the legal character of the lowest id"
            return Difference(n, lowest, "illegal", text, "note", "illegal")
        if illegal >= 0:
            char = self.world.vocabulary.char(int(decided.char[illegal, k]))
            what = f"a is {char!r}" if char else "the answer ends here"
            text = f"{what}, which the mask did not allow"
            return Difference(n, illegal, "illegal", text, "a", char)
        count, end = int(decided.counts[k]), int(made.over[k])
        if (end == count - 1 and count) or (stopped and end < 0):
            return None
        if end < 0:
            text = f"the episode stops after step {count}, before its end"
            return Difference(n, count - 1, "episode-stops", text)
        text = f"the episode goes on after step {end + 1}, which ended it"
        return Difference(n, end + 1, "episode-runs-on", text)

    def _first_difference(
        self,
        n: int,
        printed: bytes,
        rows: npt.NDArray[Any],
        header: Mapping[str, Any],
        lines: Sequence[bytes],
    ) -> Difference:
        both = zip(printed.splitlines(True), lines)
        t = next(t for t, (ours, theirs) in enumerate(both) if ours != theirs)
        derived = columns(self.world, rows, header["env"], header["ep"])
        values = {name: column[t] for name, column in derived.items()}
        return compare(n, t, lines[t], values)
