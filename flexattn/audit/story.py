"""A log tells a story: first the run, then episodes, each behind its header, last the end.

`Story` takes verified segments and gives back whole episodes; what stands out of place becomes a
finding. It knows no file but by name, and holds one open episode at a time.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from flexattn.audit.cut import lines_with
from flexattn.audit.findings import MAX_FINDINGS, Finding
from flexattn.audit.reader import Segment
from flexattn.audit.schema import defect

_EVENT = b'{"event":"'


@dataclass
class Told:
    """An episode as it stands in the log.

    Attributes:
      header: values of its header.
      places: (file, line number, index of the step) where its lines begin to be consecutive; the
        header has step -1.
      count: how many step lines it has.
      pieces: their bytes, none where the story does not keep them.
      whole: False where the log ends within it.
    """

    header: dict[str, Any]
    places: list[tuple[str, int, int]]
    count: int = 0
    pieces: list[bytes] = field(default_factory=list)
    whole: bool = True

    @property
    def data(self) -> bytes:
        """Its step lines behind one another."""
        return self.pieces[0] if len(self.pieces) == 1 else b"".join(self.pieces)

    @property
    def lines(self) -> list[bytes]:
        """Its step lines, newlines in them; cut anew each time that they are asked for."""
        return io.BytesIO(self.data).readlines()

    def place(self, step: int) -> tuple[str, int]:
        """File and line number of a step, counted from 0; -1 for the header."""
        file, line, first = next(p for p in reversed(self.places) if p[2] <= step)
        return file, line + step - first


@dataclass
class Story:
    """Follows a log's lines. `findings` holds what stands out of place; `more` counts the rest.

    Attributes:
      run: fields that the event `run` must have.
      every_episode: whether episode numbers must follow one another without a gap.
      keeps: whether episodes are given out with the bytes of their lines.
    """

    run: Mapping[str, Any]
    every_episode: bool = True
    keeps: bool = True
    findings: list[Finding] = field(default_factory=list)
    more: int = 0
    steps: int = 0
    episodes: int = 0
    catalogs: set[str] = field(default_factory=set)
    end: dict[str, Any] | None = None
    end_place: tuple[str, int] = ("", 0)
    generation: bool = False
    _open: Told | None = None
    _begun: bool = False
    _expected: int = 0
    _ahead: set[int] = field(default_factory=set)
    _lost: bool = False

    def __post_init__(self) -> None:
        self.catalogs |= set(self.run["catalogs"])
        self.generation = self.run["kind"] == "generate"

    def follow(self, segment: Segment) -> Iterator[Told]:
        """The episodes that `segment` completes."""
        data, ends, done = segment.data, segment.ends, 0
        for i in lines_with(data, ends, _EVENT) if segment.count else ():
            self._steps(segment, done, i)
            start = int(ends[i - 1]) if i else 0
            line = data[start : int(ends[i])]
            yield from self._event(str(segment.file), segment.file_line + i, line)
            done = i + 1
        self._steps(segment, done, segment.count)
        if segment.findings:
            self._lost = True
            if self._open is not None:
                self._open.whole = False

    def close(self, finished: bool) -> Iterator[Told]:
        """The last episode, and what can only be said at the end.

        Args:
          finished: whether the log is sealed up to its `end`; else its last episode may stop short.
        """
        yield from self._finish(finished)
        if finished and self.end is not None and not self._lost and self.every_episode:
            for name, found in (("steps", self.steps), ("episodes", self.episodes)):
                if self.end[name] != found:
                    text = f"{name} is {self.end[name]}, the log holds {found}"
                    self._note("totals", *self.end_place, text, name, self.end[name], found)

    def _note(
        self,
        code: str,
        file: str,
        line: int,
        text: str,
        name: str = "",
        logged: Any = None,
        derived: Any = None,
    ) -> None:
        if len(self.findings) < MAX_FINDINGS:
            self.findings.append(Finding(code, file, line, text, name, logged, derived))
        else:
            self.more += 1

    def _steps(self, segment: Segment, first: int, last: int) -> None:
        """Take the lines first..last - 1 of a segment, all of them steps."""
        if first == last:
            return
        self.steps += last - first
        file, number = str(segment.file), segment.file_line + first
        if self._open is None:
            if not self._lost:
                text = "a step without the header of its episode before it"
                self._note("episode-header", file, number, text)
            return
        told = self._open
        told.places.append((file, number, told.count))
        told.count += last - first
        if self.keeps:
            start = int(segment.ends[first - 1]) if first else 0
            told.pieces.append(segment.data[start : int(segment.ends[last - 1])])

    def _event(self, file: str, number: int, line: bytes) -> Iterator[Told]:
        try:
            value = orjson.loads(line)
        except ValueError as error:
            self._note("not-json", file, number, f"the line is no JSON: {error}")
            return
        wrong = defect(value)
        if wrong:
            text = f"{wrong[0]} is {wrong[1]}, expected {wrong[2]}"
            self._note("schema", file, number, text, wrong[0], wrong[1], wrong[2])
            self._open = None
            self._lost = True
            return
        kind = value["event"]
        if orjson.dumps(value) != line[:-1]:
            text = "the line holds the right values in other bytes than a writer's"
            self._note("not-canonical", file, number, text)
        if kind == "seal":
            text = "a seal that does not stand at the end of a segment"
            self._note("seal-order", file, number, text)
            return
        yield from self._finish(whole=kind != "resume")
        if not self._begun and kind != "run":
            self._note("run-event", file, number, f"the log begins with {kind}, expected run")
        if self.end is not None:
            self._note("run-event", file, number, f"{kind} stands behind the end of the run")
        getattr(self, f"_{kind}", self._nothing)(file, number, value)
        self._begun = True

    def _nothing(self, file: str, number: int, value: dict[str, Any]) -> None:
        """Events that tell of nothing that could be checked here."""

    def _run(self, file: str, number: int, value: dict[str, Any]) -> None:
        if self._begun:
            self._note("run-event", file, number, "the run begins twice")
        for name, expected in self.run.items():
            if value[name] != expected:
                text = f"{name} is {_short(value[name])}, the run folder says {_short(expected)}"
                self._note("run-event", file, number, text, name, value[name], expected)
                return

    def _catalog(self, file: str, number: int, value: dict[str, Any]) -> None:
        self.catalogs.add(value["catalog"])

    def _resume(self, file: str, number: int, value: dict[str, Any]) -> None:
        ep = value["ep"]
        self._ahead = {n for n in self._ahead if n < ep}
        self._expected = min(self._expected, ep)
        self.episodes = ep
        self._lost = True  # totals count superseded lines no more

    def _episode(self, file: str, number: int, value: dict[str, Any]) -> None:
        ep = value["ep"]
        if ep < self._expected or ep in self._ahead:
            self._note("episode-order", file, number, f"episode {ep} comes twice", "ep", ep)
        self._ahead.add(ep)
        while self._expected in self._ahead:
            self._ahead.remove(self._expected)
            self._expected += 1
        if len(self._ahead) > 4096:
            missing = self._expected
            if self.every_episode and not self._lost:
                text = f"episode {missing} is missing"
                self._note("episode-order", file, number, text, "ep", ep, missing)
            self._expected = min(self._ahead)
        self.episodes += 1
        if value["catalog"] not in self.catalogs:
            text = f"catalog {value['catalog'][:8]} is none of the run's"
            self._note("catalog-unknown", file, number, text, "catalog", value["catalog"])
        self._open = Told(value, [(file, number, -1)])

    def _end(self, file: str, number: int, value: dict[str, Any]) -> None:
        self.end, self.end_place = value, (file, number)
        if self._ahead and self.every_episode and not self._lost:
            text = f"episode {self._expected} is missing from the log"
            self._note("episode-order", file, number, text, "ep", None, self._expected)

    def _finish(self, whole: bool) -> Iterator[Told]:
        if self._open is not None:
            told, self._open = self._open, None
            told.whole = told.whole and whole
            yield told


def _short(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text[:8] if len(text) == 64 else text[:60]
