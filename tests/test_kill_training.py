"""A whole training, killed at random moments and resumed each time, ends like an unbroken one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("kills", "start"),
    [
        (2, "fork"),
        pytest.param(20, "exec", marks=pytest.mark.slow),
        pytest.param(200, "fork", marks=pytest.mark.slow),
    ],
)
def test_a_killed_training_loses_nothing_sealed_and_ends_as_unbroken(
    tmp_path: Path, kills: int, start: str
) -> None:
    script = Path(__file__).parent / "kill_training.py"
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path), str(kills), "--start", start],
        cwd=ROOT, capture_output=True, text=True, timeout=7200,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        },
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{kills} kills ({start})" in done.stdout
    assert "no sealed line lost, weights, step lines and evaluations as unbroken" in done.stdout
    assert "sound" in done.stdout
