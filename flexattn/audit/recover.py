"""A log that a run left is verified, its torn end cut, the checkpoint's place found in it.

Nothing sealed is ever cut: only what stands after the last seal and is no whole JSON line.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from flexattn.audit.chain import GENESIS
from flexattn.audit.folder import RunFolder
from flexattn.audit.reader import Segment, Verifier, segments
from flexattn.errors import AuditError

START: Mapping[str, Any] = {
    "file": 0,
    "offset": 0,
    "file_line": 0,
    "line": 1,
    "seals": 0,
    "head": GENESIS,
    "open_lines": 0,
    "episodes": 0,
    "steps": 0,
}


@dataclass
class Place:
    """A place in a log: the file and byte, and the chain's state there.

    Attributes:
      file: number of the step file.
      offset: bytes before the place in that file, and `file_line` lines before it.
      seals: seals before the place, and `prev` the hash of the last one.
      first: number of the open segment's first line in the whole log, from 1.
      open: lines since the last seal.
    """

    file: int = 0
    offset: int = 0
    file_line: int = 0
    seals: int = 0
    prev: str = GENESIS
    first: int = 1
    open: list[bytes] = field(default_factory=list)

    @property
    def next_line(self) -> int:
        """Number of the line that comes next in the whole log, from 1."""
        return self.first + len(self.open)


@dataclass(frozen=True)
class Recovered:
    """A log fit to be gone on with.

    Attributes:
      at: the position asked for.
      end: where the log ends.
      cut_bytes: what was cut off a torn tail.
      hashes: the hash of each seal, in order.
    """

    at: Place
    end: Place
    cut_bytes: int
    hashes: list[bytes]


def recover(folder: RunFolder, position: Mapping[str, Any]) -> Recovered:
    """Make a log fit to be gone on with.

    Args:
      folder: the run.
      position: what `RunLog.position` gave, or `START`.

    Raises: AuditError where the sealed part is not sound, the log is shorter than the position, or
      the position belongs to another log.
    """
    files, verifier = folder.step_files(), Verifier()
    if any(file.suffix != ".jsonl" for file in files):
        raise AuditError(
            f"{folder.path}: its log is compressed, so it is finished; start a new run"
        )
    end, cut = Place(), 0
    at = Place() if position["seals"] == 0 and position["open_lines"] == 0 else None
    for segment in segments(files):
        before = Place(
            segment.index,
            segment.offset,
            segment.file_line - 1,
            verifier.seals,
            verifier.prev or GENESIS,
            verifier.next_line,
        )
        verifier.check(segment, last=segment.index == len(files) - 1)
        if segment.findings:
            raise AuditError(f"{segment.findings[0]}; only a sound log can be gone on with")
        if not segment.seal:
            cut = _cut_torn(segment)
        if at is None and before.seals == position["seals"]:
            at = _within(before, segment, position)
        end = before
        if segment.seal:
            end.seals, end.prev, end.first = verifier.seals, verifier.prev or GENESIS, 0
            end.first = verifier.next_line
        else:
            end.open = segment.lines
        end.offset += len(segment.data) + len(segment.seal)
        end.file_line = segment.next_file_line - 1
    if at is None and position["open_lines"] == 0 and end.seals == position["seals"]:
        at = Place(position["file"], position["offset"], position["file_line"], end.seals, end.prev)
        at.first = end.next_line
    if at is None:
        raise AuditError(
            f"{folder.path}: the log ends at line {end.next_line - 1}, the checkpoint was made at "
            f"line {position['line'] - 1}; lines were lost, go back to an older checkpoint"
        )
    if at.prev != position["head"] or at.next_line != position["line"]:
        raise AuditError(
            f"{folder.path}: the checkpoint belongs to another log (head {position['head'][:8]} "
            f"at line {position['line']}, here {at.prev[:8]} at line {at.next_line})"
        )
    at.file, at.offset = position["file"], position["offset"]
    at.file_line = position["file_line"]
    return Recovered(at, end, cut, verifier.hashes)


def _within(before: Place, segment: Segment, position: Mapping[str, Any]) -> Place | None:
    count = position["open_lines"]
    if segment.count < count:
        return None
    before = Place(**vars(before))
    before.open = segment.lines[:count]
    return before


def _cut_torn(segment: Segment) -> int:
    """Cut what is no whole JSON line off an unsealed tail; returns how many bytes that were."""
    sound = segment.count
    for i, line in enumerate(segment.lines):
        try:
            orjson.loads(line)
        except ValueError:
            sound = i
            break
    keep = int(segment.ends[sound - 1]) if sound else 0
    cut = len(segment.data) - keep + len(segment.torn)
    if cut:
        os.truncate(segment.file, segment.offset + keep)
        segment.ends, segment.data, segment.torn = segment.ends[:sound], segment.data[:keep], b""
    return cut
