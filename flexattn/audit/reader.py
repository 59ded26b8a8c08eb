"""Reading a log is verifying its chain: lines come out by segments, each with what its seal says.

Only one segment is ever held, at most 64 MiB and 131,072 lines; a log made to exhaust memory ends
in a finding.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from flexattn.audit.archive import Stream, open_step_file
from flexattn.audit.chain import GENESIS, SEAL_START, Break, Seal, break_in, read_seal
from flexattn.audit.cut import Ends, line_ends, lines_with
from flexattn.audit.files import step_file_name
from flexattn.audit.findings import Finding
from flexattn.audit.folder import HEAD
from flexattn.audit.schema import MAX_LINE_BYTES, MAX_SEGMENT_BYTES, MAX_SEGMENT_LINES

_CHUNK = 1 << 21  # bytes held at first: two segments of the usual length
_LIMITS = f"{MAX_SEGMENT_BYTES} bytes or {MAX_SEGMENT_LINES} lines"
_MORE = 1 << 23  # by which that grows at most


@dataclass(frozen=True)
class Judged:
    """What a segment says by itself: its seal, or why it has none, and where they part."""

    seal: Seal | str
    broken: Break | None


@dataclass
class Segment:
    """Lines that one seal closes, or the unsealed tail.

    Attributes:
      file: path of the step file, and `index` its number.
      offset: byte in the file at which the segment starts.
      file_line: number, from 1, of its first line in the file.
      data: the bytes of its lines, and `ends` the places behind them.
      seal: the seal line, empty for a tail.
      torn: bytes after the last newline of the log.
      findings: what its seal does not vouch for; filled by `Verifier`.
      stopped: whether reading stops here, because of what the finding says.
      judged: what `judge` said of it, None where nobody asked yet.
    """

    file: Path
    index: int
    offset: int
    file_line: int
    data: bytes
    ends: Ends = field(repr=False, compare=False)
    seal: bytes = b""
    torn: bytes = b""
    findings: list[Finding] = field(default_factory=list)
    stopped: bool = False
    judged: Judged | None = None

    @property
    def count(self) -> int:
        """How many lines it has, its seal not counted."""
        return len(self.ends)

    @property
    def lines(self) -> list[bytes]:
        """Its lines, newlines in them; cut anew each time that they are asked for."""
        return io.BytesIO(self.data).readlines()

    @property
    def next_file_line(self) -> int:
        """Number of the line after the segment and its seal, in the file."""
        return self.file_line + self.count + bool(self.seal)


def judge(segment: Segment) -> Judged:
    """Read a segment's seal and compare the segment with it; needs no other segment."""
    seal = read_seal(segment.seal)
    broken = break_in(segment.data, seal, segment.ends) if isinstance(seal, Seal) else None
    return Judged(seal, broken)


def segments(
    files: list[Path], opener: Callable[[Path], Stream] = open_step_file
) -> Iterator[Segment]:
    """The segments of a log, file by file.

    Yields: each sealed segment, and at the end of each file what is left over, if anything is.
      A segment that is `stopped` is the last one.
    """
    for index, path in enumerate(files):
        with opener(path) as file:
            for segment in _file_segments(file, path, index):
                yield segment
                if segment.stopped:
                    return


def _file_segments(file: Stream, path: Path, index: int) -> Iterator[Segment]:
    held, size, known = bytearray(_CHUNK), 0, 0  # `known`: place behind the last whole line
    pending = [np.zeros(0, np.int32)]  # where lines end that are held
    offset, file_line = 0, 1
    while True:
        if size == len(held):
            held += bytes(min(len(held), _MORE))
        try:
            with memoryview(held)[size:] as room:
                count = file.readinto(room) or 0
        except (OSError, ValueError, EOFError) as error:
            yield _stopped(path, index, offset, file_line, "bad-archive", str(error))
            return
        with memoryview(held)[size : size + count] as fresh:
            more = line_ends(fresh) + np.int32(size)
        size += count
        with memoryview(held) as view:
            seals = lines_with(view, more, SEAL_START, known) if len(more) else []
        given = taken = 0  # bytes that are held, and lines of `more`, that went out
        for n in seals:
            ends = np.concatenate([*pending, more[taken:n]]) - np.int32(given)
            start, end = given + (int(ends[-1]) if len(ends) else 0), int(more[n])
            with memoryview(held) as view:
                data, seal = bytes(view[given:start]), bytes(view[start:end])
            segment = Segment(path, index, offset, file_line, data, ends, seal)
            offset, file_line = offset + end - given, segment.next_file_line
            pending, given, taken = [], end, n + 1
            yield _measured(segment)
        pending.append(more[taken:] - np.int32(given))
        known = (int(more[-1]) if len(more) else known) - given
        size -= given
        with memoryview(held) as view:
            view[:size] = view[given : given + size]
        if size - known > MAX_LINE_BYTES:
            line = file_line + sum(map(len, pending))
            text = f"the line is longer than {MAX_LINE_BYTES} bytes; reading stops here"
            yield _stopped(path, index, offset, file_line, "line-too-long", text, line)
            return
        if size > MAX_SEGMENT_BYTES or sum(map(len, pending)) > MAX_SEGMENT_LINES:
            text = f"no seal within {_LIMITS}; reading stops here"
            yield _stopped(path, index, offset, file_line, "segment-too-long", text)
            return
        if not count:
            break
    if size:
        with memoryview(held) as view:
            data, torn = bytes(view[:known]), bytes(view[known:size])
        ends = np.concatenate(pending)
        yield _measured(Segment(path, index, offset, file_line, data, ends, torn=torn))


def _measured(segment: Segment) -> Segment:
    sizes = np.diff(segment.ends, prepend=np.int32(0))
    if max(int(sizes.max(initial=0)), len(segment.seal)) > MAX_LINE_BYTES:
        long = np.flatnonzero(sizes > MAX_LINE_BYTES)
        place = int(long[0]) if len(long) else segment.count
        text = f"the line is longer than {MAX_LINE_BYTES} bytes; reading stops here"
        line = segment.file_line + place
        segment.findings.append(Finding("line-too-long", str(segment.file), line, text))
        segment.stopped = True
    elif segment.count > MAX_SEGMENT_LINES:
        text = f"no seal within {_LIMITS}; reading stops here"
        line = segment.file_line
        segment.findings.append(Finding("segment-too-long", str(segment.file), line, text))
        segment.stopped = True
    return segment


def _stopped(
    path: Path,
    index: int,
    offset: int,
    file_line: int,
    code: str,
    text: str,
    line: int = 0,
) -> Segment:
    finding, ends = Finding(code, str(path), line or file_line, text), np.zeros(0, np.int32)
    return Segment(path, index, offset, file_line, b"", ends, findings=[finding], stopped=True)


class Verifier:
    """Follows the chain through segments; `segment.findings` says what does not fit.

    After a defect it takes the next whole seal's word for where it stands, so that one defect
    gives one finding, and what comes after can still be vouched for.
    """

    def __init__(self, head: Mapping[str, Any] | None = None) -> None:
        """`head`: a parsed head.json, if there is one."""
        self.seals = 0
        self.next_line = 1
        self.prev: str | None = GENESIS
        self.last_seal: tuple[str, int] | None = None
        self.head = head
        self.head_found: str | None = None
        self.hashes: list[bytes] = []
        self._lost = False

    def check(self, segment: Segment, last: bool = True) -> None:
        """Compare a segment with its seal and with the seal before; adds findings to it.

        Args:
          segment: the next one of the log.
          last: whether it lies in the last file; only there a log may stop without a seal.
        """
        if not segment.seal:
            self.next_line += segment.count
            if not last:
                text = "the file stops here without a seal, and another file follows"
                line = segment.next_file_line
                segment.findings.append(Finding("line-missing", str(segment.file), line, text))
                self._lost = True
            return
        judged = segment.judged or judge(segment)
        seal = judged.seal
        here = segment.file_line + segment.count
        file = str(segment.file)
        if isinstance(seal, str):
            segment.findings.append(Finding("seal-broken", file, here, f"here stands {seal}"))
            self.seals, self.prev = self.seals + 1, None
            self.next_line += segment.count + 1
        else:
            if seal.n == self.seals and seal.first == self.next_line:
                self._check_lines(segment, judged.broken)
                self._check_prev(segment, seal)
            elif not self._lost:
                self._check_gap(segment, seal)
            self._lost = False
            self._check_head(segment, seal, here)
            self.seals, self.prev = seal.n + 1, seal.seal
            self.next_line = seal.first + seal.lines + 1
            self.hashes.append(bytes.fromhex(seal.seal))
        self.last_seal = (file, here)

    def _check_lines(self, segment: Segment, broken: Break | None) -> None:
        if broken is None:
            return
        line = segment.file_line + broken.index
        words = {
            "line-changed": f"the line's hash is {broken.found}, sealed {broken.expected}: "
            "it was changed after writing",
            "line-missing": f"{broken.found} lines than the seal closed; the first one missing "
            "belongs here",
            "line-inserted": f"{broken.found} than the seal closed; the first one stands here",
            "line-order": f"the line's hash is {broken.found}, sealed {broken.expected}: "
            "the sealed lines were put in another order",
            "segment-tree": f"the Merkle root of the lines is {broken.found}, sealed "
            f"{broken.expected}",
            "segment-hash": f"the segment's hash is {broken.found}, sealed {broken.expected}",
        }
        segment.findings.append(
            Finding(
                broken.code,
                str(segment.file),
                line,
                words[broken.code],
                logged=broken.found,
                derived=broken.expected,
            )
        )

    def _check_prev(self, segment: Segment, seal: Seal) -> None:
        if self.prev in (None, seal.prev):
            return
        file, line = self.last_seal or (str(segment.file), segment.file_line)
        text = (
            f"the seal's hash is {str(self.prev)[:8]}, the next seal chains to {seal.prev[:8]}: "
            "this seal or what it closes was written anew"
        )
        segment.findings.append(
            Finding("seal-rewritten", file, line, text, "prev", self.prev, seal.prev)
        )

    def _check_gap(self, segment: Segment, seal: Seal) -> None:
        """The seal is whole but not the one that belongs here: something before it went wrong."""
        lines, file = segment.lines, str(segment.file)
        gap, rest = seal.first - self.next_line, len(lines) - seal.lines
        if seal.n < self.seals or gap < 0:
            text = f"seal {seal.n} stands here, expected seal {self.seals}"
            doubled = lines and break_in(segment.data, seal) is None
            line = segment.file_line + (0 if doubled else len(lines))
            segment.findings.append(Finding("seal-order", file, line, text))
            return
        own = break_in(b"".join(lines[rest:]), seal) is None if rest >= 0 else False
        marked = [i for i, line in enumerate(lines[: max(0, rest)]) if b'"event":"seal"' in line]
        if marked:
            index = marked[0]
        elif gap == 0 or not own:
            index = max(0, min(gap - 1, len(lines)))
        else:
            index = rest if rest < gap else gap - 1
        if rest == 0 and not segment.offset and self.last_seal:
            file, line = self.last_seal[0], self.last_seal[1] + 1
        else:
            line = segment.file_line + index
        code = "seal-missing" if rest > 0 or not own else "line-missing"
        text = (
            f"expected seal {self.seals} before seal {seal.n}; "
            f"{'a seal is missing or unreadable here' if rest > 0 else 'sealed lines are missing'}"
        )
        segment.findings.append(Finding(code, file, line, text))

    def _check_head(self, segment: Segment, seal: Seal, here: int) -> None:
        if self.head is None or seal.n != self.head["seals"] - 1:
            return
        self.head_found = seal.seal
        if seal.seal != self.head["head"]:
            text = (
                f"the seal's hash is {seal.seal[:8]}, {HEAD} says {self.head['head'][:8]}: "
                "the log or the head was written anew"
            )
            segment.findings.append(
                Finding("head-differs", str(segment.file), here, text, "head", seal.seal)
            )


def read_head(folder: Path) -> dict[str, Any] | Finding | None:
    """head.json as values, a finding where it is none, None where there is no such file."""
    file = folder / HEAD
    if not file.exists():
        return None
    try:
        value = orjson.loads(file.read_bytes() if file.stat().st_size < 1 << 16 else b"")
        if len(bytes.fromhex(value["head"])) != 32 or type(value["seals"]) is not int:
            raise ValueError("its hash is no SHA-256")
        return dict(value)
    except (ValueError, KeyError, TypeError) as error:
        return Finding("head-bad", str(file), 1, f"is no head: {str(error)[:80]}")


def missing_file(files: list[Path]) -> str | None:
    """Name of the first step file that should be there and is not."""
    for index, path in enumerate(files):
        if path.name.removesuffix(".zst") != step_file_name(index):
            return step_file_name(index)
    return None
