"""A raw table becomes a corpus; nothing is dropped without a line about it.

A table is TSV or CSV with a header, or JSONL, with a column for the term and one for its answer;
`columns` says how they are called. Text is brought to NFC, line breaks and tabs in it go away.
Questions are those of the table, then one of each template with the term in place of {}; the last
one is the phrasing that training never sees. Ids are those of the table, else numbered.
"""

from __future__ import annotations

import csv
import io
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from flexattn import jsontext
from flexattn.corpus import parse_record
from flexattn.errors import CorpusError

COLUMNS = ("term", "answer", "question", "questions", "aliases", "kind", "id", "split")
NEEDED = ("term", "answer")
SEPARATOR = ";"  # between several questions or aliases in one cell


@dataclass
class Gathered:
    """Records, and what became of the rows.

    Attributes:
      records: objects of a corpus file.
      rows: rows read.
      dropped: one line for each row left out: where and why.
    """

    records: list[dict[str, Any]] = field(default_factory=list)
    rows: int = 0
    dropped: list[str] = field(default_factory=list)

    def lines(self) -> bytes:
        """The corpus file."""
        option = orjson.OPT_APPEND_NEWLINE
        return b"".join(orjson.dumps(record, option=option) for record in self.records)


def gather(
    paths: Sequence[str | Path],
    columns: Mapping[str, str],
    templates: Sequence[str],
    *,
    prefix: str,
    most_chars: int,
) -> Gathered:
    """Read tables and make records of their rows.

    Args:
      paths: TSV, CSV or JSONL files.
      columns: one of COLUMNS -> the table's own name for it, where that differs.
      templates: questions with {} in place of the term.
      prefix: of the ids of rows that have none.
      most_chars: longer answers are left out; 0: none is.

    Raises: CorpusError where a file is no table, or lacks the term or the answer.
    """
    for template in templates:
        if template.count("{}") != 1:
            raise CorpusError(f"--ask {template}: expected {{}} once, such as 什么是{{}}？")
    names = {name: columns.get(name, name) for name in COLUMNS}
    made = Gathered()
    seen: set[tuple[str, str]] = set()
    ids: set[str] = set()
    for path in paths:
        for where, row in _rows(Path(path), names):
            made.rows += 1
            record = _record(row, names, templates, f"{prefix}{made.rows:05d}")
            missing = [name for name in NEEDED if not record[name]]
            if missing:
                made.dropped.append(f"{where}: {' and '.join(missing)} empty")
                continue
            if most_chars and len(record["answer"]) > most_chars:
                made.dropped.append(
                    f"{where}: the answer has {len(record['answer'])} characters, at most "
                    f"{most_chars} are asked for"
                )
                continue
            key = record["term"], record["answer"]
            if key in seen:
                made.dropped.append(f"{where}: {record['term']} has this answer already")
                continue
            if record["id"] in ids:
                raise CorpusError(f"{where}: id {record['id']} stands already above; keep one")
            seen.add(key)
            ids.add(record["id"])
            parse_record(record, where)
            made.records.append(record)
    if not made.records:
        raise CorpusError(f"{paths[0]}: no row of {made.rows} has a term and an answer")
    return made


def _rows(path: Path, names: Mapping[str, str]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    data = jsontext.read_bytes(path, CorpusError).removeprefix(b"\xef\xbb\xbf")
    if data.lstrip()[:1] == b"{":
        for number, line in enumerate(data.split(b"\n"), 1):
            if line.strip():
                row = jsontext.parse(line, str(path), CorpusError, number)
                if not isinstance(row, dict):
                    raise CorpusError(f"{path}:{number}: is no object, expected one a line")
                _has_needed(row, names, f"{path}:{number}")
                yield f"{path}:{number}", row
        return
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise CorpusError(
            f"{path}: byte {error.start} is not UTF-8; save the table as UTF-8"
        ) from None
    first = text.partition("\n")[0]
    delimiter = "\t" if "\t" in first else ","
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    header = dict.fromkeys(reader.fieldnames or (), "")
    _has_needed(header, names, f"{path}:1")
    for row in _read(reader, path):
        if None in row:
            raise CorpusError(
                f"{path}:{reader.line_num}: has more cells than the header's {len(header)}; "
                f"put a cell that holds the delimiter into quotes"
            )
        yield f"{path}:{reader.line_num}", {key: value or "" for key, value in row.items()}


def _read(reader: csv.DictReader[str], path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a table; what Python's csv module refuses becomes one line."""
    try:
        yield from reader
    except csv.Error as error:
        raise CorpusError(
            f"{path}:{reader.line_num}: is no table row: {error}; close quotes, shorten the cell"
        ) from None


def _has_needed(row: Mapping[str, Any], names: Mapping[str, str], where: str) -> None:
    for name in NEEDED:
        if names[name] not in row:
            found = ", ".join(map(str, row)) or "nothing"
            raise CorpusError(
                f"{where}: has no column {names[name]}, it has {found}; say which one it is with "
                f"--column {name}=NAME"
            )


def _record(
    row: Mapping[str, Any], names: Mapping[str, str], templates: Sequence[str], number: str
) -> dict[str, Any]:
    term, answer = (_clean(row.get(names[name])) for name in NEEDED)
    questions = [*_several(row.get(names["questions"])), *_several(row.get(names["question"]))]
    questions += [template.replace("{}", term) for template in templates]
    record: dict[str, Any] = {"id": _clean(row.get(names["id"])) or number, "term": term}
    aliases = [alias for alias in _several(row.get(names["aliases"])) if alias != term]
    if aliases:
        record["aliases"] = list(dict.fromkeys(aliases))
    record["questions"] = list(dict.fromkeys(questions)) or [f"什么是{term}？"]
    record["answer"] = answer
    for name in ("kind", "split"):
        value = _clean(row.get(names[name]))
        if value:
            record[name] = value
    return record


def _several(value: Any) -> list[str]:
    parts = value if isinstance(value, list) else str(value or "").split(SEPARATOR)
    return [text for part in parts if (text := _clean(part))]


def _clean(value: Any) -> str:
    """NFC, without line breaks and tabs, without blanks around."""
    text = unicodedata.normalize("NFC", "" if value is None else str(value))
    return "".join(char for char in text if char not in "\r\n\t").strip()
