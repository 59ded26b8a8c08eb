"""Logged decisions in, differences out: every number of an episode is derived again and compared.

Derived are the lines themselves, through `Core` and `records.columns` as in training; an episode
is right where its bytes are these bytes. No file is opened here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from flexattn.audit.schema import StepColumns, defect, rounded
from flexattn.env.collect import EpisodeSteps, Taken
from flexattn.env.core import Core
from flexattn.env.difference import (
    Difference,
    Logged,
    compare,
    header_difference,
    schema_difference,
)
from flexattn.env.records import columns
from flexattn.env.scan import Scanner
from flexattn.env.typeset import typesetter_of
from flexattn.env.vocabulary import END
from flexattn.env.world import World
from flexattn.errors import FlexAttnError
from flexattn.lexicon.bits import select

LANES = 256  # episodes derived side by side; below the size from which on a step takes threads
_FORM = frozenset(("not-json", "schema", "step-order"))


@dataclass
class _Decisions:
    """What is taken from the log: indices and ids, one value a step; `stop` cuts what has none.

    `bans` holds pairs of a step, from 1, and the catalog whose bans hold too from there on.
    """

    history: Sequence[int]
    cap: Sequence[int]
    char: Sequence[int]
    written: Sequence[int]
    illegal: Sequence[int]
    stop: Difference | None = None
    bans: Sequence[tuple[int, str]] = field(default_factory=list)


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
        made = _Decisions(
            [self._history[lh] for lh in decisions["Lh"]],
            [self._caps[lp] for lp in decisions["Lp"]],
            [self._ids[a] for a in decisions["a"]],
            [-1 if w is None else self._ids[w] for w in decisions["w"]],
            [note == "illegal" for note in decisions["note"]],
        )
        made.bans = header.get("bans", [])
        rows, counts, _ = self._run([self._records[header["record"]]], [made])
        return columns(self.world, rows[0, : counts[0]], header["env"], header["ep"])

    def gain_by_cap(self, episode: Logged) -> list[list[float]]:
        """What each step of a sound episode would have been credited under each cap, reward."""
        decisions = self._decisions(episode, 0)
        core = Core(self.world, 1, gain_by_cap=True)
        core.reset([0], [self._records[episode.header["record"]]])
        gains: list[list[float]] = []
        for t in range(len(decisions.char)):
            steps = core.step(
                decisions.history[t : t + 1],
                decisions.cap[t : t + 1],
                decisions.char[t : t + 1],
                decisions.written[t : t + 1],
                enforce=False,
            )
            gains.append(rounded(steps.gain_by_cap[0]).tolist())
        return gains

    def _suspects(self, episodes: Sequence[Logged]) -> list[int]:
        """Which episodes are not, as they stand, what their decisions give."""
        records, decided, taken = [], [], []
        for n, episode in enumerate(episodes):
            read = None if self._header(episode.header, n) else self._scanner.read(episode.lines)
            if read is not None:
                taken.append(n)
                records.append(self._records[episode.header["record"]])
                made = _Decisions(*read)
                made.bans = episode.header.get("bans", [])
                decided.append(made)
        rows, counts, faults = self._run(records, decided)
        asked = [episodes[n] for n in taken]
        printed = self._printed(rows, counts, asked)
        sound = {
            taken[k]
            for k, (episode, lines) in enumerate(zip(asked, printed))
            if k not in faults and lines == b"".join(episode.lines)
        }
        return [n for n in range(len(episodes)) if n not in sound]

    def _batch(self, episodes: Sequence[Logged]) -> list[Difference]:
        """The first difference of each episode, its lines parsed in full."""
        found: dict[int, Difference] = {}
        records, decided = [], []
        for n, episode in enumerate(episodes):
            wrong = self._header(episode.header, n)
            record = 0 if wrong else self._records[episode.header["record"]]
            decisions = _Decisions([], [], [], [], []) if wrong else self._decisions(episode, n)
            stop = wrong or decisions.stop
            if stop:
                found[n] = stop
            if not wrong:
                decisions.bans = episode.header.get("bans", [])
            records.append(record)
            decided.append(decisions)
        rows, counts, faults = self._run(records, decided)
        printed = self._printed(rows, counts, episodes)
        for n, (episode, lines) in enumerate(zip(episodes, printed)):
            differs = None
            if lines != b"".join(episode.lines[: counts[n]]):
                differs = self._first_difference(n, lines, rows[n, : counts[n]], episode)
            fault = faults.get(n)
            if fault and fault.code == "episode-stops" and not episode.whole:
                fault = None
            candidates = [d for d in (found.get(n), fault, differs) if d is not None]
            if candidates:
                found[n] = min(candidates, key=lambda d: (d.step, d.code not in _FORM))
        return [found[n] for n in sorted(found)]

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

    def _decisions(self, episode: Logged, n: int) -> _Decisions:
        """Parse what the student decided, up to the first line that says nothing usable."""
        try:
            return self._parsed(episode.lines)
        except (ValueError, KeyError, TypeError):
            t = next(t for t, line in enumerate(episode.lines) if not self._usable(line))
            made = self._parsed(episode.lines[:t])
            made.stop = self._unusable(n, t, episode.lines[t])
            return made

    def _parsed(self, lines: Sequence[bytes]) -> _Decisions:
        steps = list(map(orjson.loads, lines))
        ids, histories, caps = self._ids, self._history, self._caps
        return _Decisions(
            [histories[step["Lh"]] for step in steps],
            [caps[step["Lp"]] for step in steps],
            [ids[step["a"]] for step in steps],
            [ids[step["w"]] if "w" in step else -1 for step in steps],
            ["note" in step and step["note"] == "illegal" for step in steps],
        )

    def _usable(self, line: bytes) -> bool:
        try:
            self._parsed([line])
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

    def _run(
        self, records: Sequence[int], decided: Sequence[_Decisions]
    ) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64], dict[int, Difference]]:
        """Step all episodes side by side: rows of `STEP`, how many each episode has, and faults."""
        core, lanes = self._core, self._core.num_envs
        lengths = np.array([len(d.char) for d in decided] + [0] * (lanes - len(decided)))
        room = core.state.history.shape[1]
        most = min(int(lengths.max(initial=0)), room)
        put = {
            name: _padded([getattr(d, name) for d in decided], lengths, most)
            for name in ("history", "cap", "char", "written")
        }
        asked = _padded([d.illegal for d in decided], lengths, most).astype(np.bool_)
        taken = np.arange(most)[:, None] < lengths
        collected = EpisodeSteps(core)
        over = np.full(lanes, -1)
        not_lowest: dict[int, int] = {}
        core.reset(np.arange(len(records)), records)
        acting: dict[int, dict[str, list[int]]] = {}
        for n, decisions in enumerate(decided):
            for step, sha in decisions.bans:
                acting.setdefault(step - 1, {}).setdefault(sha, []).append(n)
        for t in range(most):
            for sha, stricter in acting.get(t, {}).items():
                core.ban(self._banned(sha), stricter)
            active = taken[t] & (over < 0)
            for lane in np.flatnonzero(asked[t] & active):
                if select(core.legal_packed()[lane], 0) != put["char"][t, lane]:
                    not_lowest.setdefault(int(lane), t)
            steps = core.step(
                put["history"][t],
                put["cap"][t],
                put["char"][t],
                put["written"][t],
                active,
                enforce=False,
            )
            collected.add(put["history"][t], put["cap"][t], steps, active)
            over[(steps.terminated | steps.truncated) & (over < 0)] = t
        rows, counts = collected.held()
        faults = self._faults(decided, rows["illegal"][:, :most].T.copy(), over, not_lowest)
        rows["illegal"][:, :most] = asked.T
        return rows, counts, faults

    def _printed(
        self, rows: npt.NDArray[Any], counts: npt.NDArray[np.int64], episodes: Sequence[Logged]
    ) -> list[bytes]:
        """The lines of each episode, run together."""
        names = [(int(e.header.get("ep", 0)), int(e.header.get("env", 0))) for e in episodes]
        count = len(names)
        made = typesetter_of(self.world).lines(rows[:count], counts[:count], names)
        if made is None:
            return [
                Taken(self.world, rows[n, : counts[n]], env).lines(ep)
                for n, (ep, env) in enumerate(names)
            ]
        data, ends = made
        return [data[a:b] for a, b in zip([0, *ends.tolist()], ends.tolist())]

    def _faults(
        self,
        decided: Sequence[_Decisions],
        illegal: npt.NDArray[np.bool_],
        over: npt.NDArray[np.int64],
        not_lowest: Mapping[int, int],
    ) -> dict[int, Difference]:
        found: dict[int, Difference] = {}
        for n in np.flatnonzero(illegal.any(axis=0)).tolist():
            t = int(illegal[:, n].argmax())
            char = self.world.vocabulary.char(decided[n].char[t])
            what = f"a is {char!r}" if char else "the answer ends here"
            text = f"{what}, which the mask did not allow"
            found[n] = Difference(n, t, "illegal", text, "a", char)
        for n, t in not_lowest.items():
            if n not in found or t < found[n].step:
                text = "note is illegal, but `a` is not the legal character of the lowest id"
                found[n] = Difference(n, t, "illegal", text, "note", "illegal")
        for n, decisions in enumerate(decided):
            count, end = len(decisions.char), int(over[n])
            if n in found or (end == count - 1 and count) or (decisions.stop and end < 0):
                continue
            if end < 0:
                text = f"the episode stops after step {count}, before its end"
                found[n] = Difference(n, count - 1, "episode-stops", text)
            else:
                text = f"the episode goes on after step {end + 1}, which ended it"
                found[n] = Difference(n, end + 1, "episode-runs-on", text)
        return found

    def _first_difference(
        self, n: int, lines: bytes, rows: npt.NDArray[Any], logged: Logged
    ) -> Difference:
        both = zip(lines.splitlines(True), logged.lines)
        t = next(t for t, (ours, theirs) in enumerate(both) if ours != theirs)
        derived = columns(self.world, rows, logged.header["env"], logged.header["ep"])
        values = {name: column[t] for name, column in derived.items()}
        return compare(n, t, logged.lines[t], values)


def _padded(
    rows: Sequence[Sequence[int]], lengths: npt.NDArray[np.int64], most: int
) -> npt.NDArray[np.int32]:
    """Rows of different lengths as columns, [most, lanes]; zeros behind."""
    out = np.zeros((most, len(lengths)), np.int32)
    for n, row in enumerate(rows):
        out[: len(row), n] = row[:most]
    return out
