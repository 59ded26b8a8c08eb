"""Finished runs of a stage, as a training leaves them, without a training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import orjson
import pytest

from flexattn.audit.folder import RunFolder
from flexattn.audit.writer import RunLog
from flexattn.config import dump_config, load_config
from flexattn.evaluation.rows import REGIMES, Decisions, Scorer
from flexattn.lexicon.entries import parse_catalog

TERMS = ["奥司他韦", "神经氨酸酶", "抑制剂", "流感"]
ANSWERS = {
    "a": "奥司他韦是神经氨酸酶的抑制剂。",
    "b": "流感是一种病。",
    "c": "抑制剂用于流感的治疗。",
}
SEEDS = (1, 2, 3)

Arms = Callable[[str, str, int], list[str]]


def finished(folder: Path, stage: str, seed: int, missing: int) -> str:
    """A run whose student leaves away the last `missing` characters of every answer."""
    config = load_config(
        "configs/medical.yaml", [f"seed={seed}", f"stages.stage={stage}", "stages.margin=0.05"]
    )
    catalog = {
        "schema": "flexattn.catalog/1", "name": "tiny", "version": "1", "language": "zh",
        "lengths": [2, 3, 4, 5], "documents": 3, "banned": [],
        "entries": [{"id": i, "term": t, "df": 1, "zipf": None} for i, t in enumerate(TERMS)],
    }  # fmt: skip
    corpus = b"\n".join(
        orjson.dumps({"id": i, "term": i * 2, "question": f"{i}?", "answer": y, "split": "train"})
        for i, y in ANSWERS.items()
    )
    run = RunFolder.create(
        folder, config=dump_config(config).encode(), corpus=corpus,
        catalogs={"tiny.json": parse_catalog(catalog, "tiny.json").canonical_bytes()},
    )  # fmt: skip
    scorer = Scorer.of(ANSWERS.values(), dict.fromkeys(TERMS, 1), (2, 3, 4, 5), (3, 4, 5))
    lines = []
    for regime in REGIMES:
        for name, answer in ANSWERS.items():
            output = answer[: len(answer) - missing]
            n = len(output)
            made = Decisions([2] * n, [3] * n, list(range(n)), ["-"] * n, [0.0] * n, [0.1] * n)
            lines.append(scorer.row(regime, 20, name, f"{name}?", output, answer, made).line())
    (folder / "evaluations.jsonl").write_bytes(b"".join(lines))
    with RunLog(run, config.log) as log:
        log.event("end")
    return str(folder)


@pytest.fixture
def arms(tmp_path: Path) -> Arms:
    """Makes the finished runs of one arm: name, stage, missing characters -> folders by seed."""

    def make(name: str, stage: str, missing: int) -> list[str]:
        return [finished(tmp_path / f"{name}-{seed}", stage, seed, missing) for seed in SEEDS]

    return make
