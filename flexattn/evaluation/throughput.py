"""Figures of `bench train` and `bench log`: rounds in which two subjects took turns, A B A B.

A case is named `<side>/<round>`, so that each round is a pair and what slows the machine down for
a while slows both of its sides. Anything else in the file belongs to other suites.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from flexattn import jsontext
from flexattn.errors import FlexAttnError

Floats = npt.NDArray[np.float64]
UNIT = "tokens/s"


@dataclass(frozen=True)
class Rounds:
    """Characters a second, [K] for each side; a side that wasn't measured is missing.

    Attributes:
      train: `candidate`, `baseline` and `control` (the baseline once more).
      log: `with` and `without` the audit log.
    """

    train: Mapping[str, Floats]
    log: Mapping[str, Floats]


def read_bench(paths: Sequence[str]) -> Rounds:
    """Read files that `flexattn.bench train|log --json` wrote.

    Raises: FlexAttnError naming the file and what is wrong with it.
    """
    found: dict[str, dict[str, dict[int, float]]] = {"train": {}, "log": {}}
    for path in paths:
        for number, row in enumerate(_rows(Path(path))):
            where = f"{path}: row {number}"
            if not isinstance(row, dict) or not {"suite", "case", "value", "unit"} <= row.keys():
                raise FlexAttnError(f"{where}: is no measurement, expected one of bench --json")
            side, slash, turn = str(row["case"]).partition("/")
            if row["suite"] not in found or row["unit"] != UNIT or not slash or not turn.isdigit():
                continue
            value = row["value"]
            if not isinstance(value, float | int) or not 0.0 < value < math.inf:
                raise FlexAttnError(f"{where}: value is {value}, expected a rate above 0")
            found[row["suite"]].setdefault(side, {})[int(turn)] = float(value)
    return Rounds(_paired(found["train"]), _paired(found["log"]))


def _rows(path: Path) -> list[Any]:
    rows = jsontext.parse(jsontext.read_bytes(path, FlexAttnError), str(path), FlexAttnError)
    if not isinstance(rows, list):
        raise FlexAttnError(f"{path}: holds no list, expected what bench --json writes")
    return rows


def _paired(sides: Mapping[str, Mapping[int, float]]) -> dict[str, Floats]:
    """Rounds that every side has, in order."""
    common = sorted(set.intersection(*map(set, sides.values()))) if sides else []
    return {side: np.array([values[turn] for turn in common]) for side, values in sides.items()}
