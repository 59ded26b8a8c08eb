"""A seal closes a segment of lines and names the seal before it; bytes and hashes, no files.

    short(line)   = first 8 hex digits of SHA-256(line, its newline in it)
    segment       = SHA-256(all bytes of the segment)
    tree          = root of the RFC 6962 tree over the lines' SHA-256
    list          = SHA-256(the list of short hashes, as bytes)
    seal          = SHA-256(the seal line's bytes before `,"seal":`)
    prev          = seal of the seal before, 64 zeros for the first

A seal can be checked alone (its own hash), against its lines (short, segment, tree) and against its
neighbour (n, first, prev): a changed line, a changed seal and a missing piece are told apart. The
list stands behind the seal's own hash, so that what vouches for a line is short without it. Seals
of `flexattn.log/1` have neither tree nor list; their short hashes stand before `segment`.
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
from flexattn.audit.digests import digests
from flexattn.audit.tree import tree_root

GENESIS = "0" * 64
SEAL_START = b'{"event":"seal",'
_MARK = b',"seal":"'
_LIST, _END = b'","short":"', b'"}\n'

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
    """One parsed seal line; the fields are those of `schema.EVENTS["seal"]`.

    `tree` is None in a log of `flexattn.log/1`.
    """

    n: int
    first: int
    lines: int
    short: bytes
    segment: str
    tree: str | None
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


def make_seal(
    n: int, first: int, prev: str, data: bytes, form: str = schema.SCHEMA
) -> tuple[bytes, str]:
    """The seal line over a segment and its hash.

    Args:
      n: number of the seal, from 0.
      first: number of the segment's first line in the whole log, from 1.
      prev: hash of the seal before.
      data: the segment, whole lines.
      form: of the log, one of `schema.FORMS`.

    Returns: (line with its newline, 64 hex digits).
    """
    hashed = digests(data)
    short = hashed[:, :4].tobytes()
    fields = {"event": "seal", "n": n, "first": first, "lines": len(hashed)}
    if form == schema.SCHEMA:
        tree, listed = tree_root(hashed).hex(), sha256_hex(short)
        fields |= {"segment": sha256_hex(data), "tree": tree, "list": listed, "prev": prev}
        end = _LIST + short.hex().encode() + _END
    else:
        fields |= {"short": short.hex(), "segment": sha256_hex(data), "prev": prev}
        end = _END
    body = orjson.dumps(fields)[:-1]
    seal = sha256_hex(body)
    return body + _MARK + seal.encode() + end, seal


def seal_head(line: bytes) -> bytes:
    """A seal line without its list: what its own hash vouches for."""
    return line.partition(_LIST)[0] + _END


def read_seal_head(head: bytes) -> dict[str, Any] | str:
    """The fields of a seal without its list, or in words why it is none."""
    body, mark, rest = head.partition(_MARK)
    if not head.startswith(SEAL_START) or not mark or rest[64:] != _END:
        return "a line that is no whole seal"
    own = _sha256(body).hexdigest()
    if own.encode() != rest[:64]:
        return f"a seal whose own hash is {own[:8]}, not {rest[:8].decode('ascii', 'replace')}"
    try:
        value = orjson.loads(head)
    except ValueError:
        return "a seal that is no JSON"
    return value if isinstance(value, dict) else "a seal that is no JSON object"


def read_seal(line: bytes) -> Seal | str:
    """The seal in `line`, or in words why it is none: its own hash is checked here."""
    head, listed, rest = line.partition(_LIST)
    value = read_seal_head(head + _END if listed else line)
    if isinstance(value, str):
        return value
    if listed:
        if not rest.endswith(_END):
            return "a line that is no whole seal"
        value["short"] = rest[: -len(_END)].decode("ascii", "replace")
    wrong = schema.defect(value)
    if wrong:
        return f"a seal in which {wrong[0]} is {wrong[1]}, expected {wrong[2]}"
    short = bytes.fromhex(value["short"])
    if listed and sha256_hex(short) != value["list"]:
        return "a seal whose list of short hashes was changed"
    if len(short) != 4 * value["lines"]:
        return f"a seal of {value['lines']} lines that lists {len(short) // 4}"
    return Seal(
        value["n"],
        value["first"],
        value["lines"],
        short,
        value["segment"],
        value.get("tree"),
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
    hashed = digests(data, ends)
    found = hashed[:, :4].tobytes()
    if found == seal.short:
        whole = sha256_hex(data)
        if whole != seal.segment:
            return Break(0, "segment-hash", whole[:8], seal.segment[:8])
        root = seal.tree and tree_root(hashed).hex()
        if root != seal.tree:
            return Break(0, "segment-tree", str(root)[:8], str(seal.tree)[:8])
        return None
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

    def __init__(
        self, seals: int = 0, line: int = 1, prev: str = GENESIS, form: str = schema.SCHEMA
    ) -> None:
        """Start after `seals` seals, at line `line` (from 1) of the log, after the seal `prev`."""
        self.form = form
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
        data = b"".join(self._open)
        line, self.prev = make_seal(self.seals, self.first, self.prev, data, self.form)
        self.seals += 1
        self.first += self.open_lines + 1
        self.open_lines = 0
        self._open.clear()
        return line
