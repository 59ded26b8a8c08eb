"""Reading a log is verifying its chain: lines come out by segments, each with what its seal says.

Only one segment is ever held, at most 64 MiB; a log made to exhaust memory ends in a finding.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from flexattn.audit.archive import open_step_file
from flexattn.audit.chain import GENESIS, SEAL_START, Seal, break_in, read_seal
from flexattn.audit.files import step_file_name
from flexattn.audit.findings import Finding
from flexattn.audit.folder import HEAD
from flexattn.audit.schema import MAX_LINE_BYTES, MAX_SEGMENT_BYTES

_CHUNK = 1 << 20
_SEAL_AT_START = b"\n" + SEAL_START


@dataclass
class Segment:
    """Lines that one seal closes, or the unsealed tail.

    Attributes:
      file: path of the step file, and `index` its number.
      offset: byte in the file at which the segment starts.
      file_line: number, from 1, of its first line in the file.
      data: the bytes of its lines; `lines` are they, newlines in them.
      seal: the seal line, empty for a tail.
      torn: bytes after the last newline of the log.
      findings: what its seal does not vouch for; filled by `Verifier`.
      stopped: whether reading stops here, because of what the finding says.
      holds: whether its seal is known to close these very lines; None where nobody looked yet.
    """

    file: Path
    index: int
    offset: int
    file_line: int
    data: bytes
    lines: list[bytes]
    seal: bytes = b""
    torn: bytes = b""
    findings: list[Finding] = field(default_factory=list)
    stopped: bool = False
    holds: bool | None = None

    @property
    def next_file_line(self) -> int:
        """Number of the line after the segment and its seal, in the file."""
        return self.file_line + len(self.lines) + bool(self.seal)


def segments(
    files: list[Path], opener: Callable[[Path], BinaryIO] = open_step_file
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


def _file_segments(file: BinaryIO, path: Path, index: int) -> Iterator[Segment]:
    held = bytearray()
    offset, file_line, searched = 0, 1, 0
    while True:
        try:
            chunk = file.read(_CHUNK)
        except (OSError, ValueError, EOFError) as error:
            yield _stopped(path, index, offset, file_line, held, "bad-archive", str(error))
            return
        held += chunk
        while True:
            start = 0 if held.startswith(SEAL_START) else held.find(_SEAL_AT_START, searched) + 1
            sealed = start > 0 or held.startswith(SEAL_START)
            end = held.find(b"\n", start) + 1 if sealed else 0
            if not sealed or not end:
                searched = start - 1 if start else max(0, len(held) - len(_SEAL_AT_START))
                break
            data = bytes(held[:start])
            lines = io.BytesIO(data).readlines()
            segment = Segment(path, index, offset, file_line, data, lines, bytes(held[start:end]))
            offset, file_line, searched = offset + end, segment.next_file_line, 0
            del held[:end]
            yield _measured(segment)
        if len(held) - (held.rfind(b"\n") + 1) > MAX_LINE_BYTES:
            line = file_line + held.count(b"\n")
            text = f"the line is longer than {MAX_LINE_BYTES} bytes; reading stops here"
            yield _stopped(path, index, offset, file_line, held, "line-too-long", text, line)
            return
        if len(held) > MAX_SEGMENT_BYTES:
            text = f"no seal within {MAX_SEGMENT_BYTES} bytes; reading stops here"
            yield _stopped(path, index, offset, file_line, held, "segment-too-long", text)
            return
        if not chunk:
            break
    if held:
        cut = held.rfind(b"\n") + 1
        data = bytes(held[:cut])
        lines = io.BytesIO(data).readlines()
        yield _measured(
            Segment(path, index, offset, file_line, data, lines, torn=bytes(held[cut:]))
        )


def _measured(segment: Segment) -> Segment:
    longest = max(map(len, segment.lines), default=0)
    if max(longest, len(segment.seal)) > MAX_LINE_BYTES:
        place = next(
            (i for i, line in enumerate(segment.lines) if len(line) > MAX_LINE_BYTES),
            len(segment.lines),
        )
        text = f"the line is longer than {MAX_LINE_BYTES} bytes; reading stops here"
        line = segment.file_line + place
        segment.findings.append(Finding("line-too-long", str(segment.file), line, text))
        segment.stopped = True
    return segment


def _stopped(
    path: Path,
    index: int,
    offset: int,
    file_line: int,
    held: bytearray,
    code: str,
    text: str,
    line: int = 0,
) -> Segment:
    del held[:]
    finding = Finding(code, str(path), line or file_line, text)
    return Segment(path, index, offset, file_line, b"", [], findings=[finding], stopped=True)


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
            self.next_line += len(segment.lines)
            if not last:
                text = "the file stops here without a seal, and another file follows"
                line = segment.next_file_line
                segment.findings.append(Finding("line-missing", str(segment.file), line, text))
                self._lost = True
            return
        seal = read_seal(segment.seal)
        here = segment.file_line + len(segment.lines)
        file = str(segment.file)
        if isinstance(seal, str):
            segment.findings.append(Finding("seal-broken", file, here, f"here stands {seal}"))
            self.seals, self.prev = self.seals + 1, None
            self.next_line += len(segment.lines) + 1
        else:
            if seal.n == self.seals and seal.first == self.next_line:
                self._check_lines(segment, seal)
                self._check_prev(segment, seal)
            elif not self._lost:
                self._check_gap(segment, seal)
            self._lost = False
            self._check_head(segment, seal, here)
            self.seals, self.prev = seal.n + 1, seal.seal
            self.next_line = seal.first + seal.lines + 1
            self.hashes.append(bytes.fromhex(seal.seal))
        self.last_seal = (file, here)

    def _check_lines(self, segment: Segment, seal: Seal) -> None:
        broken = None if segment.holds else break_in(segment.data, seal)
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
