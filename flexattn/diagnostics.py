"""What the heads do, one line every few steps in the run folder's diagnostics.jsonl.

Entropy and temperature of each head, the scale of Q, |A(s)| and the histograms of Lh and Lp; and
what the mask forbade the teacher. Figures of a run, no part of its audit: they hold no clock time,
so a resumed run writes the same lines again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

FILE = "diagnostics.jsonl"
DIGITS = 6


class Diagnostics:
    """Appends lines; a checkpoint keeps how many bytes there were."""

    def __init__(self, folder: Path | None) -> None:
        """Take the run folder, None for a rank that writes nothing; nothing is written yet."""
        self.path = folder / FILE if folder is not None else None

    def add(self, kind: str, step: int, figures: Mapping[str, float | Mapping[int, float]]) -> None:
        """Write one line: `kind`, `step` and the figures, rounded."""
        if self.path is None:
            return
        line: dict[str, object] = {"kind": kind, "step": step}
        for name, value in figures.items():
            if isinstance(value, Mapping):
                line[name] = {str(key): round(float(v), DIGITS) for key, v in value.items()}
            else:
                line[name] = round(float(value), DIGITS)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    @property
    def size(self) -> int:
        """Bytes written."""
        return self.path.stat().st_size if self.path is not None and self.path.exists() else 0

    def cut(self, size: int) -> None:
        """Forget what was written after a checkpoint; it is written again."""
        if self.path is not None and self.size > size:
            with self.path.open("r+b") as file:
                file.truncate(size)
