from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from flexattn.audit.folder import RunFolder
from flexattn.audit.query import statistics, write_parquet
from flexattn.errors import AuditError

duckdb = pytest.importorskip("duckdb")
GOLDEN = Path(__file__).parents[1] / "golden"


def steps_of(folder: RunFolder) -> list[dict[str, Any]]:
    lines = b"".join(file.read_bytes() for file in folder.step_files()).splitlines()
    return [step for line in lines if "step" in (step := orjson.loads(line))]


@pytest.mark.parametrize("name", ["sound", "sound-generation"])
def test_counts_are_those_of_the_lines(name: str) -> None:
    folder = RunFolder.open(GOLDEN / name)
    steps, tables = steps_of(folder), statistics(folder)
    _, columns, rows = tables["catalogs"]
    assert sum(row[columns.index("steps")] for row in rows) == len(steps)
    assert [row[0] for row in rows] == list(dict.fromkeys(step["cat"] for step in steps))
    _, columns, rows = tables["windows"]
    by_place = {row[0]: dict(zip(columns, row, strict=True)) for row in rows}
    hits = [step for step in steps if step["len"]]
    mean = sum(step["Lp"] for step in hits) / len(hits)
    assert by_place["a term starts"]["mean_Lp"] == pytest.approx(mean)
    _, columns, rows = tables["terms"]
    best = rows[0]
    assert best[columns.index("hits")] == sum(step["seg"] == best[0] for step in steps)
    assert ("ler" in columns) == (name == "sound")


def test_parquet_holds_every_step_and_every_value(tmp_path: Path) -> None:
    folder = RunFolder.open(GOLDEN / "sound")
    steps = steps_of(folder)
    assert write_parquet(folder, tmp_path / "it's.parquet") == len(steps)
    target = str(tmp_path / "it's.parquet").replace("'", "''")
    read = duckdb.connect().execute(f"SELECT step, a, reward, note FROM '{target}'").fetchall()
    assert read == [(s["step"], s["a"], s["reward"], s.get("note")) for s in steps]


def test_a_log_that_is_none_is_one_error(write_log, episodes) -> None:
    folder = write_log(episodes[:2])
    folder.step_files()[0].write_bytes(b"{no json\n")
    with pytest.raises(AuditError, match="can't be counted"):
        statistics(folder)
    folder.step_files()[0].unlink()
    with pytest.raises(AuditError, match="no step file"):
        statistics(folder)
