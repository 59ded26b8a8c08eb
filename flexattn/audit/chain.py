"""A seal closes a segment of lines and names the seal before it; bytes and hashes, no files.

    short(line)   = first 8 hex digits of SHA-256(line, its newline in it)
    segment       = SHA-256(all bytes of the segment)
    seal          = SHA-256(the seal line's bytes before `,"seal":`)
    prev          = seal of the seal before, 64 zeros for the first

A seal can be checked alone (its own hash), against its lines (short, segment) and against its
neighbour (n, first, prev): a changed line, a changed seal and a missing piece are told apart.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson
import rfc8785

from flexattn.audit import schema
from flexattn.audit.cut import Ends
from flexattn.audit.shorts import shorts

GENESIS = "0" * 64
SEAL_START = b'{"event":"seal",'
_MARK = b',"seal":"'
_SEAL_TAIL = len(_MARK) + 64 + len(b'"}\n')

_sha256 = hashlib.sha256


def sha256_hex(data: bytes) -> str:
    """SHA-256 as 64 hex digits."""
    return _sha256(data).hexdigest()


def canonical(value: object) -> bytes:
    """RFC 8785 canonical JSON, the form of everything that is hashed once."""
    return rfc8785.dumps(value)  # type: ignore[arg-type]


def settings_sha256(settings: Mapping[str, Any]) -> str:
    """Hash of a run's settings without the section `run`: a name and a folder change no step."""
    return sha256_hex(canonical({k: v for k, v in settings.items() if k != "run"}))


@dataclass(frozen=True)
class Seal:
    """One parsed seal line; the fields are those of `schema.EVENTS["seal"]`."""

    n: int
    first: int
    lines: int
    short: bytes
    segment: str
    prev: str
    seal: str


@dataclass(frozen=True)
class Break:
    """Where a segment and its seal part.

    `index` counts from 0 within the segment's lines; the seal line itself has index len(lines).
    """

    index: int
    code: str
    found: str
    expected: str


def make_seal(n: int, first: int, prev: str, data: bytes) -> tuple[bytes, str]:
    """The seal line over a segment and its hash.

    Args:
      n: number of the seal, from 0.
      first: number of the segment's first line in the whole log, from 1.
      prev: hash of the seal before.
      data: the segment, whole lines.

    Returns: (line with its newline, 64 hex digits).
    """
    short = shorts(data)
    body = orjson.dumps(
        {
            "event": "seal",
            "n": n,
            "first": first,
            "lines": len(short) // 4,
            "short": short.hex(),
            "segment": sha256_hex(data),
            "prev": prev,
        }
    )[:-1]
    seal = sha256_hex(body)
    return b'%b,"seal":"%b"}\n' % (body, seal.encode()), seal


def read_seal(line: bytes) -> Seal | str:
    """The seal in `line`, or in words why it is none: its own hash is checked here."""
    body = line[:-_SEAL_TAIL]
    if (
        not line.startswith(SEAL_START)
        or line[len(body) : len(body) + len(_MARK)] != _MARK
        or line[-3:] != b'"}\n'
    ):
        return "a line that is no whole seal"
    named = line[-67:-3]
    own = _sha256(body).hexdigest()
    if own.encode() != named:
        return f"a seal whose own hash is {own[:8]}, not {named[:8].decode('ascii', 'replace')}"
    try:
        value = orjson.loads(line)
    except ValueError:
        return "a seal that is no JSON"
    wrong = schema.defect(value)
    if wrong:
        return f"a seal in which {wrong[0]} is {wrong[1]}, expected {wrong[2]}"
    short = bytes.fromhex(value["short"])
    if len(short) != 4 * value["lines"]:
        return f"a seal of {value['lines']} lines that lists {len(short) // 4}"
    return Seal(
        value["n"],
        value["first"],
        value["lines"],
        short,
        value["segment"],
        value["prev"],
        value["seal"],
    )


def break_in(data: bytes, seal: Seal, ends: Ends | None = None) -> Break | None:
    """The first place where `data` is not what `seal` closed, or None where it is.

    Args:
      data: the lines between the seal before and this one.
      seal: a seal whose own hash holds.
      ends: `cut.line_ends` of `data`, where they are known.
    """
    found = shorts(data, ends)
    if found == seal.short:
        whole = sha256_hex(data)
        if whole == seal.segment:
            return None
        return Break(0, "segment-hash", whole[:8], seal.segment[:8])
    both = min(len(found), len(seal.short))
    apart = (i for i in range(0, both, 4) if found[i : i + 4] != seal.short[i : i + 4])
    index = next(apart, both) // 4
    here = found[4 * index : 4 * index + 4].hex()
    there = seal.short[4 * index : 4 * index + 4].hex()
    more = len(found) // 4 - seal.lines
    if more > 0 and found[4 * (index + more) :] == seal.short[4 * index :]:
        return Break(index, "line-inserted", f"{more} more", f"{seal.lines} lines")
    if more < 0 and found[4 * index :] == seal.short[4 * (index - more) :]:
        return Break(index, "line-missing", f"{-more} fewer", f"{seal.lines} lines")
    if more == 0 and sorted(_quads(found)) == sorted(_quads(seal.short)):
        return Break(index, "line-order", here, there)
    return Break(index, "line-changed", here or "nothing", there or "the seal")


def _quads(joined: bytes) -> list[bytes]:
    return [joined[i : i + 4] for i in range(0, len(joined), 4)]


class Chain:
    """The writer's side: takes lines, and closes them with a seal when asked."""

    def __init__(self, seals: int = 0, line: int = 1, prev: str = GENESIS) -> None:
        """Start after `seals` seals, at line `line` (from 1) of the log, after the seal `prev`."""
        self.seals = seals
        self.first = line
        self.prev = prev
        self.open_lines = 0
        self._open: list[bytes] = []

    @property
    def next_line(self) -> int:
        """Number, from 1, of the line that comes next in the whole log."""
        return self.first + self.open_lines

    def add(self, data: bytes, count: int) -> None:
        """Take `count` lines, each with its newline, into the open segment."""
        self._open.append(data)
        self.open_lines += count

    def seal(self) -> bytes:
        """Close the open segment; returns the seal line."""
        line, self.prev = make_seal(self.seals, self.first, self.prev, b"".join(self._open))
        self.seals += 1
        self.first += self.open_lines + 1
        self.open_lines = 0
        self._open.clear()
        return line
