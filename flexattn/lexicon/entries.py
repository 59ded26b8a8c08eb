"""A catalog is an immutable list of terms with stable ids; the SHA-256 of its JSON names it.

A term has 2 to 32 characters, NFC, without punctuation; a single character earns nothing. A file is
either accepted whole or refused with file, entry and reason.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import repeat
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np
import orjson
import rfc8785

from flexattn import jsontext
from flexattn.errors import CatalogError
from flexattn.lexicon.columns import Columns, Terms
from flexattn.lexicon.defects import PUNCTUATION as PUNCTUATION
from flexattn.lexicon.defects import SCHEMA as SCHEMA
from flexattn.lexicon.defects import find_defects


class Entry(NamedTuple):
    """One term; a tuple, since a catalog may hold a million of them.

    Attributes:
      id: keeps its meaning across versions.
      term: 2 to 32 characters.
      df: train answers that hold it.
      zipf: background frequency, log10 of occurrences in a thousand million words; None: unknown,
        rare.
      kind: such as "drug" or "frame"; None where the file says nothing.
      source: where the term comes from; None likewise.
    """

    id: int
    term: str
    df: int
    zipf: float | None
    kind: str | None = None
    source: str | None = None


class Entries(Sequence[Entry]):
    """Entries of columns; an entry is made when it is asked for."""

    def __init__(self, columns: Columns) -> None:
        """Take the columns."""
        self.columns = columns

    def __len__(self) -> int:
        """How many entries."""
        return len(self.columns.ids)

    @overload
    def __getitem__(self, index: int) -> Entry: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Entry, ...]: ...
    def __getitem__(self, index: int | slice) -> Entry | tuple[Entry, ...]:
        """One entry, or a tuple of some."""
        if isinstance(index, slice):
            return tuple(self[i] for i in range(*index.indices(len(self))))
        c = self.columns
        zipf = float(c.zipf[index])
        return Entry(
            int(c.ids[index]),
            c.terms[index],
            int(c.df[index]),
            None if zipf != zipf else zipf,
            c.kinds[c.kind[index]] or None,
            c.sources[c.source[index]] or None,
        )

    def __iter__(self) -> Iterator[Entry]:
        """All entries."""
        c = self.columns
        zipf = np.where(np.isnan(c.zipf), np.array(None, dtype=object), c.zipf).tolist()
        kinds, sources = ([word or None for word in words] for words in (c.kinds, c.sources))
        return map(
            Entry, c.ids.tolist(), c.terms, c.df.tolist(), zipf,
            map(kinds.__getitem__, c.kind.tolist()), map(sources.__getitem__, c.source.tolist()),
        )  # fmt: skip

    def __eq__(self, other: object) -> bool:
        """The same entries in the same order, in whatever sequence."""
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other))

    def __hash__(self) -> int:
        """By content, as a tuple's."""
        return hash(tuple(self))


@dataclass(frozen=True)
class Catalog:
    """A loaded catalog.

    Attributes:
      name, version, language: as the file says.
      documents: N, train answers counted for df.
      lengths: the lengths of its terms, increasing.
      entries: in the file's order.
      banned: strings that may never be written.
      sha256: hash of the canonical JSON, 64 hex digits.
      file: name of the file, without folders; a log names an entry `file#id`.
    """

    name: str
    version: str
    language: str
    documents: int
    lengths: tuple[int, ...]
    entries: Sequence[Entry]
    banned: tuple[str, ...]
    sha256: str
    file: str

    @property
    def short(self) -> str:
        """The first 8 hex digits of the hash; what a step line calls `cat`."""
        return self.sha256[:8]

    @cached_property
    def columns(self) -> Columns:
        """The entries by column."""
        if isinstance(self.entries, Entries):
            return self.entries.columns
        return columns_of(self.entries)

    @cached_property
    def by_term(self) -> dict[str, Entry]:
        """Entry of every term."""
        return {entry.term: entry for entry in self.entries}

    @cached_property
    def by_id(self) -> dict[int, Entry]:
        """Entry of every id."""
        return {entry.id: entry for entry in self.entries}

    def as_json(self) -> dict[str, Any]:
        """The object that the file holds; absent `kind` and `source` stay absent."""
        return {
            "schema": SCHEMA,
            "name": self.name,
            "version": self.version,
            "language": self.language,
            "lengths": list(self.lengths),
            "documents": self.documents,
            "entries": [entry_as_json(entry) for entry in self.entries],
            "banned": list(self.banned),
        }

    def canonical_bytes(self) -> bytes:
        """The catalog as RFC 8785 JSON, UTF-8; what `sha256` is the hash of."""
        return canonical_json(self.as_json())


def columns_of(entries: Sequence[Entry]) -> Columns:
    """Entries by column."""
    kinds, kind = _numbered([entry.kind or "" for entry in entries])
    sources, source = _numbered([entry.source or "" for entry in entries])
    return Columns(
        ids=np.array([entry.id for entry in entries], np.int64),
        terms=Terms.of([entry.term for entry in entries]),
        df=np.array([entry.df for entry in entries], np.int64),
        zipf=np.array([entry.zipf for entry in entries], np.float64),  # None becomes nan
        kinds=kinds,
        kind=np.array(kind, np.int64),
        sources=sources,
        source=np.array(source, np.int64),
    )


def _numbered(words: list[str]) -> tuple[list[str], list[int]]:
    """The different words, and the number of each word among them."""
    numbers = {word: number for number, word in enumerate(dict.fromkeys(words))}
    return list(numbers), [numbers[word] for word in words]


def entry_as_json(entry: Entry) -> dict[str, Any]:
    """One entry as the file holds it."""
    fields: dict[str, Any] = {
        "id": entry.id, "term": entry.term, "df": entry.df, "zipf": entry.zipf
    }  # fmt: skip
    if entry.kind is not None:
        fields["kind"] = entry.kind
    if entry.source is not None:
        fields["source"] = entry.source
    return fields


def file_bytes(catalog: dict[str, Any]) -> bytes:
    """A catalog's object as a file for people: one entry a line, so that versions compare well."""
    head = {key: value for key, value in catalog.items() if key not in ("entries", "banned")}
    lines = [f"{_compact(key)}: {_compact(value)}," for key, value in head.items()]
    entries = ",\n  ".join(_compact(entry) for entry in catalog["entries"])
    banned = ", ".join(_compact(text) for text in catalog["banned"])
    lines += [f'"entries": [\n  {entries}\n ],', f'"banned": [{banned}]']
    return ("{\n " + "\n ".join(lines) + "\n}\n").encode("utf-8")


def _compact(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def canonical_json(value: dict[str, Any]) -> bytes:
    """RFC 8785 of a catalog's object.

    orjson writes the same bytes an order of magnitude faster where numbers are integers or decimals
    that need no exponent, and where keys are ASCII; both hold here except for tiny Zipf values.
    """
    entries = value["entries"]
    zipfs = {zipf for zipf in map(itemgetter("zipf"), entries) if zipf is not None}
    if any(0.0 < zipf < 1e-3 for zipf in zipfs):
        return rfc8785.dumps(value)
    if any(isinstance(zipf, float) and zipf == int(zipf) for zipf in zipfs):
        entries = [
            {**entry, "zipf": int(entry["zipf"])}
            if entry["zipf"] is not None and entry["zipf"] == int(entry["zipf"])
            else entry
            for entry in entries
        ]
    return orjson.dumps({**value, "entries": entries}, option=orjson.OPT_SORT_KEYS)


def load_catalog(path: str | Path) -> Catalog:
    """Read and check a catalog file.

    Raises: CatalogError, one line with file, entry and reason.
    """
    data = jsontext.read_bytes(path, CatalogError)
    return parse_catalog(jsontext.parse(data, str(path), CatalogError), str(path))


def parse_catalog(obj: object, where: str) -> Catalog:
    """Check a parsed catalog.

    Args:
      obj: the JSON value.
      where: path of the file; its last part becomes `Catalog.file`.

    Raises: CatalogError for the first defect.
    """
    for defect in find_defects(obj):
        raise CatalogError(f"{where}: {defect}")
    assert isinstance(obj, dict)
    return Catalog(
        name=obj["name"],
        version=obj["version"],
        language=obj["language"],
        documents=obj["documents"],
        lengths=tuple(obj["lengths"]),
        entries=_entries(obj["entries"]),
        banned=tuple(obj["banned"]),
        sha256=hashlib.sha256(canonical_json(obj)).hexdigest(),
        file=Path(where).name,
    )


def _entries(raw: list[dict[str, Any]]) -> tuple[Entry, ...]:
    """The entries of a checked list, column by column: no Python step an entry."""
    zipfs = [None if z is None else float(z) for z in map(itemgetter("zipf"), raw)]
    columns = (
        map(itemgetter("id"), raw),
        map(itemgetter("term"), raw),
        map(itemgetter("df"), raw),
        zipfs,
        map(dict.get, raw, repeat("kind")),
        map(dict.get, raw, repeat("source")),
    )
    return tuple(map(partial(tuple.__new__, Entry), zip(*columns)))
