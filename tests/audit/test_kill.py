from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "kill.py"
ROOT = str(SCRIPT.parents[2])
PATHS = os.pathsep.join([ROOT, str(SCRIPT.parent), os.environ.get("PYTHONPATH", "")])


def python(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words],
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "PYTHONPATH": PATHS},
    )


@pytest.mark.parametrize("kills", [12, pytest.param(200, marks=pytest.mark.slow)])
def test_a_killed_writer_loses_nothing_sealed_and_goes_on_in_the_same_chain(
    tmp_path: Path, kills: int
) -> None:
    done = python(str(SCRIPT), str(tmp_path), str(kills))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "equal to one never killed: True" in done.stdout


def test_a_log_that_nobody_closed_is_written_when_the_program_ends(tmp_path: Path) -> None:
    code = """
import sys, random, kill
folder = kill.folder_at(kill.Path(sys.argv[1]) / "run")
log = kill.RunLog(folder, kill.SETTINGS)
for ep in range(30):
    log.episode(kill.HEADER, kill.make_columns(random.Random(ep), 9))
"""
    done = python("-c", code, str(tmp_path))
    assert done.stderr == ""
    lines = (tmp_path / "run" / "steps-00000.jsonl").read_bytes().splitlines()
    assert sum(line.startswith(b'{"step"') for line in lines) == 270


def test_a_full_disk_ends_in_one_error_and_a_log_that_can_be_read(tmp_path: Path) -> None:
    code = """
import resource, signal, sys, random, kill
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
folder = kill.folder_at(kill.Path(sys.argv[1]) / "run")
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
log = kill.RunLog(folder, kill.SETTINGS)
try:
    for ep in range(900):
        log.episode(kill.HEADER, kill.make_columns(random.Random(1), 9))
    log.close()
except Exception as error:
    print(type(error).__name__, error)
print([finding.code for finding in kill.verify(folder).findings])
"""
    done = python("-c", code, str(tmp_path))
    said = done.stdout.splitlines()
    assert said[0].startswith("AuditError "), done.stderr
    assert "steps-00000.jsonl: cannot be written: File too large; what stands in it" in said[0]
    assert said[1] in ("['torn-tail']", "['unsealed-tail']")
    assert done.stderr == ""
