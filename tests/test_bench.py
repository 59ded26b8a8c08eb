"""The thin verb over the suites."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from flexattn import bench


def suite() -> ModuleType:
    module = ModuleType("benchmarks.log")
    module.add_arguments = lambda parser: parser.add_argument("--times", type=int, default=1)  # type: ignore[attr-defined]
    module.run = lambda args: iter(  # type: ignore[attr-defined]
        bench.Row("log", f"case {n}", "flexattn", 1.5, "ms") for n in range(args.times)
    )
    return module


def test_rows_are_printed_and_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "benchmarks.log", suite())
    out = tmp_path / "rows.json"
    assert bench.main(["log", "--times", "2", "--json", str(out)]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    assert json.loads(out.read_text())[1] == {
        "suite": "log",
        "case": "case 1",
        "subject": "flexattn",
        "value": 1.5,
        "unit": "ms",
    }
    assert [path.name for path in tmp_path.iterdir()] == ["rows.json"]


def test_a_missing_suite_or_folder_is_one_line_and_exit_2(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench, "SUITES", (*bench.SUITES, "nothing"))
    assert bench.main(["nothing"]) == 2
    assert "benchmarks.nothing was not found" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "benchmarks.log", suite())
    assert bench.main(["log", "--json", str(tmp_path / "no" / "rows.json")]) == 2
    assert "is no folder" in capsys.readouterr().err
