"""A line's bytes are what `orjson.dumps` gives, keys in the order of `schema`, and a newline.

`StepLines` writes an episode at a time, several times as fast as one object each: what repeats
(a character, a hit, a place) is kept as bytes. A test holds it to `orjson.dumps`, byte for byte.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import orjson

from flexattn.audit.schema import EVENTS, GENERATION_FIELDS, TRAIN_FIELDS, StepColumns, defect
from flexattn.errors import AuditError

_CONSTANT = ("cat", "ep", "env")  # one value an episode
_HIT = ("seg", "len", "idf", "sim", "delta", "ler")
_KEPT_PIECES = 1 << 16

_TRAIN = (
    b'{"step":%%b,"Lh":%%b,"Lp":%%b,"a":%%b,%%b,"len_cost":%%b,"base":%%b,"chi_soft":%%b,"reward":%%b,'
    b'%%b,"cat":%b,"ep":%b,"env":%b,"n_legal":%%b%%b\n'
)
_GENERATION = (
    b'{"step":%%b,"Lh":%%b,"Lp":%%b,"a":%%b,%%b,'
    b'%%b,"cat":%b,"ep":%b,"env":%b,"n_legal":%%b,"p":%%b%%b\n'
)
_TRAIN_NUMBERS = ("len_cost", "base", "chi_soft", "reward")


def event_line(kind: str, fields: Mapping[str, Any]) -> bytes:
    """The line of an event; its fields are put in order.

    Raises: AuditError where a field is missing, unknown or of another type.
    """
    if kind not in EVENTS:
        raise AuditError(f"log: event is {kind!r}, expected one of {', '.join(EVENTS)}")
    order = [f.name for f in EVENTS[kind]]
    value: dict[str, Any] = {"event": kind}
    value |= {name: fields[name] for name in order if name in fields}
    value |= {name: fields[name] for name in fields if name not in value}
    wrong = defect(value)
    if wrong:
        raise AuditError(f"log: event {kind}, {wrong[0]} is {wrong[1]}, expected {wrong[2]}")
    try:
        return orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE)
    except TypeError as error:
        raise AuditError(f"log: event {kind} can't be written as JSON: {error}") from None


class StepLines:
    """Columns of an episode in, line bytes out."""

    def __init__(self) -> None:
        self._pieces: dict[Any, bytes] = {}

    def lines(self, columns: StepColumns) -> list[bytes]:
        """The step lines of one episode.

        Args:
          columns: key of the step line -> a value for each step; None in `w`, `note` and `kept`
            where a line has none. With `p` they are a generation's, else a training's.

        Returns: one line for each step, newline in it.
        Raises: AuditError where columns are missing, of different lengths, hold NaN or Infinity,
          or where `cat`, `ep` or `env` change within the episode.
        """
        generation = "p" in columns
        fields = GENERATION_FIELDS if generation else TRAIN_FIELDS
        count = _checked_length(columns, [f.name for f in fields if not f.optional])
        if not count:
            return []
        constants = [orjson.dumps(columns[name][0]) for name in _CONSTANT]
        hit = [name for name in _HIT if name in columns]
        pieces = [
            _numbers(columns, "step"),
            _numbers(columns, "Lh"),
            _numbers(columns, "Lp"),
            self._memo((None,), zip(columns["a"])),
            self._memo(hit, zip(*[columns[name] for name in hit])),
            *([] if generation else [_numbers(columns, name) for name in _TRAIN_NUMBERS]),
            self._memo(("file", "pos"), zip(columns["file"], columns["pos"])),
            _numbers(columns, "n_legal"),
            *([_numbers(columns, "p")] if generation else []),
            self._ends(columns, count, ("kept", "w", "note") if generation else ("w", "note")),
        ]
        form = (_GENERATION if generation else _TRAIN) % tuple(constants)
        return [form % row for row in zip(*pieces)]

    def _memo(self, names: Iterable[str | None], rows: Iterable[tuple[Any, ...]]) -> list[bytes]:
        """`"name":value,..` of each row; a name of None gives the bare value."""
        names, known = tuple(names), self._pieces
        if len(known) > _KEPT_PIECES:
            known.clear()
        out = []
        for row in rows:
            piece = known.get(row)
            if piece is None:
                piece = known[row] = _piece(names, row)
            out.append(piece)
        return out

    def _ends(self, columns: StepColumns, count: int, names: tuple[str, ...]) -> list[bytes]:
        none = [None] * count
        optional = [columns.get(name) or none for name in names]
        known, out = self._pieces, []
        for row in zip(*optional):
            key = ("}", row)
            piece = known.get(key)
            if piece is None:
                there = [(name, value) for name, value in zip(names, row) if value is not None]
                data = b"," + orjson.dumps(dict(there))[1:-1] if there else b""
                piece = known[key] = data + b"}"
            out.append(piece)
        return out


def _piece(names: Iterable[str | None], row: Sequence[Any]) -> bytes:
    names = tuple(names)
    if names == (None,):
        return _checked("a", row[0], orjson.dumps(row[0]))
    data = orjson.dumps(dict(zip(names, row)))[1:-1]
    if b":null" in data:
        for name, value in zip(names, row):
            _checked(name, value, orjson.dumps(value))
    return data


def _checked(name: str | None, value: Any, data: bytes) -> bytes:
    if data == b"null":
        raise AuditError(f"log: {name} is {value!r}, expected a value; nothing else is ever logged")
    return data


def _numbers(columns: StepColumns, name: str) -> list[bytes]:
    data = orjson.dumps(columns[name])
    if b"null" in data:
        raise AuditError(f"log: {name} holds NaN, Infinity or nothing, expected numbers")
    return data[1:-1].split(b",")


def _checked_length(columns: StepColumns, required: list[str]) -> int:
    for name in required:
        if name not in columns:
            raise AuditError(f"log: the column {name} is missing, expected {', '.join(required)}")
    count = len(columns["step"])
    for name, column in columns.items():
        if len(column) != count:
            raise AuditError(f"log: the column {name} has {len(column)} values, expected {count}")
    for name in _CONSTANT:
        if count and columns[name].count(columns[name][0]) != count:
            raise AuditError(f"log: {name} changes within an episode, expected one value")
    return count
