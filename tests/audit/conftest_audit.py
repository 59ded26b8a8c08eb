"""Logs made from random numbers: enough for bytes, hashes and files, without an environment."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flexattn.audit.chain import sha256_hex
from flexattn.audit.folder import RunFolder
from flexattn.audit.schema import TRAIN_FIELDS, rounded
from flexattn.audit.writer import RunLog
from flexattn.config import LogSection

CATALOG = b'{"entries":[]}'
HEADER: dict[str, Any] = {
    "env": 3,
    "record": "oseltamivir",
    "question": "请问什么是‘奥司他韦’？",
    "catalog": sha256_hex(CATALOG),
    "split": "train",
    "start": 0,
    "align": "position",
    "slack": 8,
}


def make_columns(rng: random.Random, steps: int) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {field.name: [] for field in TRAIN_FIELDS}
    for t in range(steps):
        hit = rng.random() < 0.3
        gains = [rounded(rng.random()) if hit else 0.0 for _ in range(4)]
        row = [
            t + 1, rng.choice([2, 3, 4, 6]), rng.choice([3, 4, 5, 6]),
            chr(0x4E00 + rng.randrange(99)),
            "奥司他韦" if hit else "-", 4 if hit else 0, *gains,
            rounded(rng.random()), rounded(rng.uniform(-1, 1)), 1.0, rounded(rng.uniform(-1, 1)),
            "medical.json#7" if hit else "-", f"t{t}-{t + 3}" if hit else "-", "00000000", 0, 3,
            rng.randrange(1, 60),
            "水" if rng.random() < 0.1 else None,
            "period" if rng.random() < 0.1 else None,
        ]  # fmt: skip
        for name, value in zip(columns, row, strict=True):
            columns[name].append(value)
    return columns


@pytest.fixture
def episodes() -> list[dict[str, list[Any]]]:
    rng = random.Random(5)
    return [make_columns(rng, rng.randrange(3, 30)) for _ in range(40)]


@pytest.fixture
def make_folder(tmp_path: Path) -> Callable[..., RunFolder]:
    def make(name: str = "run") -> RunFolder:
        return RunFolder.create(
            tmp_path / name,
            config=b"seed: 1\nrun: {name: %b}\n" % name.encode(),
            corpus=b'{"id": "a"}\n',
            catalogs={"medical.json": CATALOG},
            manifest={"seed": 1},
        )

    return make


@pytest.fixture
def write_log(make_folder: Callable[..., RunFolder]) -> Callable[..., RunFolder]:
    """Write episodes as a whole log; settings are those of the config's section `log`."""

    def write(
        episodes: list[dict[str, list[Any]]], name: str = "run", end: bool = True, **settings: Any
    ) -> RunFolder:
        folder = make_folder(name)
        with RunLog(folder, LogSection(**{"seal_lines": 50, **settings})) as log:
            for columns in episodes:
                log.episode(HEADER, columns)
            if end:
                log.event("end")
        return folder

    return write
