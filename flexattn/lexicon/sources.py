"""What a catalog is built from: term lists, banned lists and background frequencies, read strictly.

A term list is TSV or TXT, `term [TAB kind [TAB zipf [TAB source]]]`, or JSON: texts, objects with
these keys, or a catalog. A second column that is a number is a frequency from elsewhere and no
kind; it is left aside. Lines that start with a # and a space are comments.
"""

from __future__ import annotations

import math
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flexattn import jsontext
from flexattn.errors import CatalogError
from flexattn.lexicon.defects import MAX_ZIPF

LIST_KEYS = ("term", "kind", "zipf", "source", "id", "df")


@dataclass(frozen=True, slots=True)
class Listed:
    """One line of a term list: the term in NFC, and what the list says about it."""

    term: str
    kind: str | None
    zipf: float | None
    source: str | None
    where: str


@dataclass(frozen=True)
class Background:
    """Word counts of everyday text, such as jieba's dictionary."""

    counts: dict[str, int]
    total: int
    path: str

    def zipf(self, term: str) -> float | None:
        """Log10 of occurrences in a thousand million words, 2 decimals; None where unseen."""
        count = self.counts.get(term, 0)
        if count <= 0:
            return None
        return round(min(MAX_ZIPF, max(0.0, math.log10(count / self.total * 1e9))), 2)


def read_term_list(path: str | Path) -> list[Listed]:
    """Read a term list; terms are brought to NFC and stripped, not judged.

    Raises: CatalogError where the file can't be read, or a line's zipf is no number.
    """
    data = jsontext.read_bytes(path, CatalogError)
    if data.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] in (b"[", b"{"):
        return _from_json(jsontext.parse(data, str(path), CatalogError), str(path))
    listed = []
    for number, line in _lines(data, str(path)):
        where = f"{path}:{number}"
        columns = [column.strip() for column in line.split("\t")]
        term, kind, zipf, source = (columns + [""] * 4)[:4]
        if _is_number(kind):
            kind = ""
        listed.append(
            Listed(
                unicodedata.normalize("NFC", term),
                kind or None,
                _zipf(zipf, where) if zipf else None,
                source or None,
                where,
            )
        )
    if not listed:
        raise CatalogError(f"{path}: holds no term, expected one a line")
    return listed


def read_banned(path: str | Path) -> list[str]:
    """One banned string a line, NFC, in the file's order, each once."""
    data = jsontext.read_bytes(path, CatalogError)
    texts = (unicodedata.normalize("NFC", line.strip()) for _, line in _lines(data, str(path)))
    return list(dict.fromkeys(texts))


def read_background(path: str | Path) -> Background:
    """Word counts in the form of jieba's dict.txt: `word count [part of speech]`, one a line.

    Raises: CatalogError with the line that has another form.
    """
    data = jsontext.read_bytes(path, CatalogError)
    counts: dict[str, int] = {}
    for number, line in _lines(data, str(path)):
        columns = line.split()
        if len(columns) > 3 and columns[-2].isdigit():  # a word with spaces in it
            columns = [" ".join(columns[:-2]), *columns[-2:]]
        if len(columns) < 2 or not columns[1].isdigit():
            raise CatalogError(
                f"{path}:{number}: is {jsontext.clip(line)}, expected word, count, part of speech"
            )
        counts[unicodedata.normalize("NFC", columns[0])] = int(columns[1])
    total = sum(counts.values())
    if total <= 0:
        raise CatalogError(f"{path}: counts nothing, expected word counts, one word a line")
    return Background(counts, total, str(path))


def _lines(data: bytes, where: str) -> list[tuple[int, str]]:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise CatalogError(f"{where}:{line}: is not UTF-8; save the file as UTF-8") from None
    numbered = enumerate(text.split("\n"), 1)
    return [
        (number, line.rstrip("\r"))
        for number, line in numbered
        if line.strip() and not line.startswith("# ")
    ]


def _from_json(value: object, where: str) -> list[Listed]:
    items = value.get("entries") if isinstance(value, dict) else value
    if not isinstance(items, list) or not items:
        raise CatalogError(
            f"{where}: expected a JSON list of terms, or a catalog with entries; found "
            f"{jsontext.clip(items)}"
        )
    return [_from_object(item, f"{where}: term {n}") for n, item in enumerate(items, 1)]


def _from_object(item: object, where: str) -> Listed:
    fields: dict[Any, Any] = item if isinstance(item, dict) else {"term": item}
    for key in fields:
        if key not in LIST_KEYS:
            raise CatalogError(f"{where}: {jsontext.unknown_key(key, LIST_KEYS)}")
    for key in ("term", "kind", "source"):
        text = fields.get(key)
        if not isinstance(text, str) and (key == "term" or text is not None):
            raise CatalogError(f"{where}: {key} is {jsontext.clip(text)}, expected a text")
    zipf = fields.get("zipf")
    return Listed(
        unicodedata.normalize("NFC", fields["term"].strip()),
        fields.get("kind") or None,
        None if zipf is None else _zipf(zipf, where),
        fields.get("source") or None,
        where,
    )


def _zipf(value: object, where: str) -> float:
    try:
        zipf = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        zipf = math.nan
    if isinstance(value, bool) or not 0.0 <= zipf <= MAX_ZIPF:
        raise CatalogError(
            f"{where}: zipf is {jsontext.clip(value)}, expected a number from 0 to {MAX_ZIPF:g}"
        )
    return zipf


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
