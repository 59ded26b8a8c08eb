"""`flexattn VERB ...` is `python -m flexattn.VERB ...`."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

VERBS = {
    "train": "train a student on a teacher's answers",
    "generate": "ask a trained student a question",
    "replay": "verify a run's log line by line",
    "report": "compare runs with a baseline and give a verdict",
    "catalog": "build, validate, compare and swap catalogs",
    "bench": "measure speed beside other libraries",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Hand the rest of the line to a verb."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        print("usage: flexattn VERB [options]; flexattn VERB --help says more\n")
        for verb, what in VERBS.items():
            print(f"  {verb:10s} {what}")
        print("\nexample: flexattn train --config configs/smoke.yaml")
        return 0
    if words[0] not in VERBS:
        print(f"error: {words[0]} is no verb, expected one of {', '.join(VERBS)}", file=sys.stderr)
        return 2
    code: int = importlib.import_module(f"flexattn.{words[0]}").main(words[1:])
    return code


if __name__ == "__main__":
    sys.exit(main())
