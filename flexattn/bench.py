"""Measure the house beside its peers: attention, env, lexicon, log, train.

python -m flexattn.bench attention --json attention.json

A suite is the module `benchmarks.<suite>`, read from the checkout that this is run in, with
`add_arguments(parser)` and `run(args)`, which yields a row for each thing measured. A peer that
isn't installed gives no row.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType

from flexattn.errors import FlexAttnError, command

__all__ = ["SUITES", "UNITS", "Row", "main"]

SUITES = ("attention", "env", "lexicon", "log", "train")
UNITS = ("Mchar/s", "steps/s", "updates/s", "records/s", "tokens/s", "ms", "s", "MB")


@dataclass(frozen=True)
class Row:
    """One thing measured.

    Attributes:
      suite: one of SUITES.
      case: what was measured, the same for every subject measured on it.
      subject: `flexattn`, or the peer in the same run.
      value: the figure.
      unit: one of UNITS.
    """

    suite: str
    case: str
    subject: str
    value: float
    unit: str


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run one suite, print its rows as they come, write them where asked."""
    words = list(sys.argv[1:] if argv is None else argv)
    known = words[0] if words and words[0] in SUITES else None
    suite = _suite(known) if known else None
    parser = argparse.ArgumentParser(
        prog="python -m flexattn.bench",
        description="Measure one suite beside its peers, in one run.",
        epilog="example: python -m flexattn.bench attention --json attention.json",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("suite", choices=SUITES, help="what to measure")
    parser.add_argument("--json", metavar="OUT", type=Path, help="also write the rows to this file")
    if suite is not None:
        suite.add_arguments(parser)
    args = parser.parse_args(words)
    if args.json is not None and not args.json.absolute().parent.is_dir():
        raise FlexAttnError(
            f"--json: {args.json.parent} is no folder, expected one that exists; make it first"
        )
    rows = []
    for row in _rows(_suite(args.suite), args):
        print(f"{row.case:46s} {row.subject:24s} {row.value:14.6g} {row.unit}", flush=True)
        rows.append(row)
    if args.json is not None:
        _write(args.json, rows)
    return 0


def _suite(name: str) -> ModuleType:
    """The module of a suite."""
    module = f"benchmarks.{name}"
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name not in (module, "benchmarks"):
            raise FlexAttnError(
                f"bench {name}: needs {error.name}, which isn't installed; pip install {error.name}"
            ) from error
        raise FlexAttnError(
            f"bench {name}: {module} was not found, expected in a checkout's benchmarks folder; "
            "run this from the repository's root"
        ) from error


def _rows(suite: ModuleType, args: argparse.Namespace) -> Iterator[Row]:
    rows: Iterator[Row] = suite.run(args)
    return rows


def _write(path: Path, rows: Sequence[Row]) -> None:
    """Whole or not at all."""
    data = json.dumps([asdict(row) for row in rows], indent=2) + "\n"
    handle, name = tempfile.mkstemp(dir=path.absolute().parent, prefix=path.name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(data)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


if __name__ == "__main__":
    sys.exit(main())
