"""A large catalog is read and checked in a process of its own, so that nobody else waits for it.

Python runs one thread at a time: parsing 60 MB in a thread would stop all environments for seconds.
The other process leaves columns (ids, terms, counts), arrays that are taken over as they are.

    python -m flexattn.lexicon.aside FILE FOLDER        used by `store`, not by people
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import orjson

from flexattn import jsontext
from flexattn.errors import CatalogError, FlexAttnError
from flexattn.lexicon.columns import Columns, Terms
from flexattn.lexicon.entries import Catalog, Entries, load_catalog

HEAD, TERMS, NUMBERS, WORDS, CANONICAL = (
    "head.json", "terms.npy", "numbers.npy", "words.json", "canonical.json",
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
    place = Path(folder)
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
    columns = catalog.columns
    numbers = np.stack(
        [columns.ids, columns.df, columns.zipf.view(np.int64), columns.kind, columns.source,
         columns.terms.size]
    )  # fmt: skip
    (place / HEAD).write_bytes(orjson.dumps(head))
    (place / WORDS).write_bytes(orjson.dumps([columns.kinds, columns.sources]))
    np.save(place / TERMS, columns.terms.points, allow_pickle=False)
    np.save(place / NUMBERS, numbers, allow_pickle=False)
    jsontext.write_whole(place / CANONICAL, catalog.canonical_bytes())


def _take_over(place: Path) -> Catalog:
    """The catalog from its columns; no object is made for an entry."""
    head = orjson.loads((place / HEAD).read_bytes())
    kinds, sources = orjson.loads((place / WORDS).read_bytes())
    ids, df, zipf, kind, source, size = np.load(place / NUMBERS, allow_pickle=False)
    terms = Terms(np.load(place / TERMS, allow_pickle=False), size)
    columns = Columns(ids, terms, df, zipf.view(np.float64), kinds, kind, sources, source)
    lengths, banned = tuple(head.pop("lengths")), tuple(head.pop("banned"))
    return Catalog(lengths=lengths, banned=banned, entries=Entries(columns), **head)


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
