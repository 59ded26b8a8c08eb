"""A large catalog is read and checked in a process of its own, so that nobody else waits for it.

Python runs one thread at a time: parsing 60 MB in a thread would stop all environments for seconds.
The other process leaves columns (ids, terms, counts) that take a tenth of a second to take over.

    python -m flexattn.lexicon.aside FILE FOLDER        used by `store`, not by people
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from flexattn import jsontext
from flexattn.errors import CatalogError, FlexAttnError
from flexattn.lexicon.entries import Catalog, Entry, load_catalog

HEAD, TERMS, NUMBERS, WORDS, CANONICAL = (
    "head.json", "terms.txt", "numbers.npy", "words.json", "canonical.json",
)  # fmt: skip
NICENESS = 5  # the environments go first


def load_aside(path: str | Path, folder: str | Path) -> Catalog:
    """`load_catalog` in another process.

    Args:
      path: the catalog file.
      folder: where the columns lie for a moment, and `<sha256>.json`, the canonical form, stays.

    Raises: CatalogError as `load_catalog` does, or where the process was ended from outside.
    """
    with tempfile.TemporaryDirectory(prefix=".aside-", dir=folder) as columns:
        command = [sys.executable, "-m", "flexattn.lexicon.aside", str(path), columns]
        run = subprocess.run(
            command, capture_output=True, text=True, check=False, env=_environment()
        )
        if run.returncode != 0:
            lines = run.stderr.strip().splitlines()
            if run.returncode == 2 and lines:
                raise CatalogError(lines[-1].removeprefix("error: "))
            raise CatalogError(
                f"{path}: the process that checks it ended with code {run.returncode}; "
                f"{lines[-1] if lines else 'is there enough memory?'}"
            )
        catalog = _take_over(Path(columns))
        kept = Path(folder) / f"{catalog.sha256}.json"
        if not kept.exists():
            (Path(columns) / CANONICAL).replace(kept)
        return catalog


def leave_columns(catalog: Catalog, folder: str | Path) -> None:
    """Write what `load_aside` takes over."""
    place, entries = Path(folder), catalog.entries
    head = {
        "name": catalog.name,
        "version": catalog.version,
        "language": catalog.language,
        "documents": catalog.documents,
        "lengths": catalog.lengths,
        "banned": catalog.banned,
        "sha256": catalog.sha256,
        "file": catalog.file,
    }
    kinds, kind = _numbered([entry.kind or "" for entry in entries])
    sources, source = _numbered([entry.source or "" for entry in entries])
    zipf = np.array([entry.zipf for entry in entries], dtype=np.float64)
    numbers = np.array(
        [
            [entry.id for entry in entries],
            [entry.df for entry in entries],
            zipf.view(np.int64),
            kind,
            source,
        ],
        dtype=np.int64,
    )
    (place / HEAD).write_bytes(orjson.dumps(head))
    (place / WORDS).write_bytes(orjson.dumps([kinds, sources]))
    (place / TERMS).write_text("\n".join(entry.term for entry in entries), encoding="utf-8")
    np.save(place / NUMBERS, numbers, allow_pickle=False)
    jsontext.write_whole(place / CANONICAL, catalog.canonical_bytes())


def _numbered(words: list[str]) -> tuple[list[str], list[int]]:
    """The different words, and the number of each word among them."""
    numbers = {word: number for number, word in enumerate(dict.fromkeys(words))}
    return list(numbers), [numbers[word] for word in words]


def _named(words: list[str], numbers: NDArray[np.int64]) -> list[str | None]:
    named: list[str | None] = np.array([word or None for word in words], object)[numbers].tolist()
    return named


def _take_over(place: Path) -> Catalog:
    """The catalog from its columns; every step is one call, none a loop of Python."""
    head = orjson.loads((place / HEAD).read_bytes())
    kinds, sources = orjson.loads((place / WORDS).read_bytes())
    numbers = np.load(place / NUMBERS, allow_pickle=False)
    terms = (place / TERMS).read_text(encoding="utf-8").split("\n")
    zipf = numbers[2].view(np.float64)
    columns: tuple[list[Any], ...] = (
        numbers[0].tolist(),
        terms,
        numbers[1].tolist(),
        np.where(np.isnan(zipf), np.array(None, dtype=object), zipf).tolist(),
        _named(kinds, numbers[3]),
        _named(sources, numbers[4]),
    )
    with _without_collector():
        entries = tuple(map(partial(tuple.__new__, Entry), zip(*columns)))
    lengths, banned = tuple(head.pop("lengths")), tuple(head.pop("banned"))
    return Catalog(lengths=lengths, banned=banned, entries=entries, **head)


@contextmanager
def _without_collector() -> Iterator[None]:
    """Making a million tuples would set off the cycle collector again and again."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _environment() -> dict[str, str]:
    """The other process finds the same package, wherever it was imported from."""
    root = str(Path(__file__).resolve().parents[2])
    path = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{path}" if path else root}


def _main(argv: list[str]) -> int:
    path, folder = argv
    if hasattr(os, "nice"):
        os.nice(NICENESS)
    try:
        leave_columns(load_catalog(path), folder)
    except FlexAttnError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
