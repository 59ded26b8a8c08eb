"""A line's bytes are what `orjson.dumps` gives, keys in the order of `schema`, and a newline.

`StepLines` writes an episode at a time, several times as fast as one object each: what repeats
(a character, a hit, a place) is kept as bytes. A test holds it to `orjson.dumps`, byte for byte.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import orjson

from flexattn.audit.schema import EVENTS, GENERATION_FIELDS, TRAIN_FIELDS, StepColumns, defect
from flexattn.errors import AuditError

_CONSTANT = ("cat", "ep", "env")  # one value an episode
_HIT = ("seg", "len", "idf", "sim", "delta", "ler")
_KEPT_PIECES = 1 << 16

_TRAIN = (
    b'{"step":%%b,%%b,"a":%%b,%%b,"len_cost":%%b,"base":%%b,"chi_soft":%%b,"reward":%%b,'
    b'%%b,"cat":%b,"ep":%b,"env":%b,"n_legal":%%b%%b\n'
)
_GENERATION = (
    b'{"step":%%b,%%b,"a":%%b,%%b,%%b,"cat":%b,"ep":%b,"env":%b,"n_legal":%%b,"p":%%b%%b\n'
)


class Steps(Protocol):
    """Steps of a finished episode that give their own lines, as `env.collect.Taken` does."""

    def __len__(self) -> int:
        """How many steps there are."""

    def lines(self, ep: int) -> bytes:
        """Their lines in the log, as episode `ep` of the run, each with its newline."""


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
        self._known: dict[tuple[str, ...], dict[Any, bytes]] = {}

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
        optional = [f.name for f in fields if f.optional]
        if generation:
            middle = [self._kept(columns, "file", "pos"), self._kept(columns, "n_legal")]
            middle.append(_numbers(columns, "p"))
        else:
            middle = [
                self._kept(columns, "len_cost"),
                _numbers(columns, "base"),
                self._kept(columns, "chi_soft"),
                _numbers(columns, "reward"),
                self._kept(columns, "file", "pos"),
                self._kept(columns, "n_legal"),
            ]
        rows = zip(
            _numbers(columns, "step"),
            self._kept(columns, "Lh", "Lp"),
            self._kept(columns, "a"),
            self._kept(columns, *[name for name in _HIT if name in columns]),
            *middle,
            self._ends([columns.get(name) or [None] * count for name in optional], optional),
        )
        form = (_GENERATION if generation else _TRAIN) % tuple(constants)
        return [form % row for row in rows]

    def _kept(self, columns: StepColumns, *names: str) -> list[bytes]:
        """The value of each step; of several columns, `"name":value,"name":value`."""
        if len(names) == 1:
            return self._pieces(names, columns[names[0]], lambda row: _piece(names, (row,)))
        rows = list(zip(*[columns[name] for name in names]))
        return self._pieces(names, rows, lambda row: _piece(names, row))

    def _ends(self, optional: list[list[Any]], names: Sequence[str]) -> list[bytes]:
        """Keys that not every line has, and the closing brace."""

        def end(row: Sequence[Any]) -> bytes:
            there = {name: value for name, value in zip(names, row) if value is not None}
            return (b"," + orjson.dumps(there)[1:-1] if there else b"") + b"}"

        return self._pieces(("}", *names), list(zip(*optional)), end)

    def _pieces(
        self, names: tuple[str, ...], rows: list[Any], make: Callable[[Any], bytes]
    ) -> list[bytes]:
        known = self._known.setdefault(names, {})
        try:
            return [known[row] for row in rows]
        except KeyError:
            if len(known) > _KEPT_PIECES:
                known.clear()
            for row in set(rows).difference(known):
                known[row] = make(row)
            return [known[row] for row in rows]


class ColumnSteps:
    """Steps given as columns: key of the step line -> a value for each step; `ep` is the log's."""

    def __init__(self, writer: StepLines, columns: StepColumns) -> None:
        self._writer, self._columns = writer, columns

    def __len__(self) -> int:
        return len(self._columns["step"])

    def lines(self, ep: int) -> bytes:
        """Their lines, as episode `ep`."""
        return b"".join(self._writer.lines({**self._columns, "ep": [ep] * len(self)}))


def _piece(names: Sequence[str], row: Sequence[Any]) -> bytes:
    if len(names) == 1:
        return _checked(names[0], row[0], orjson.dumps(row[0]))
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
