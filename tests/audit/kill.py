"""Write a log, be killed at random moments, resume; says whether anything sealed was ever lost.

    python tests/audit/kill.py FOLDER KILLS

The writer's process writes episodes, takes a checkpoint now and then, and goes on from the newest
one when it is started again. At the end its log must equal that of a run that nobody killed.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

import orjson

sys.path.insert(0, str(Path(__file__).parent))

from conftest_audit import CATALOG, HEADER, make_columns

from flexattn.audit.folder import RunFolder, write_file
from flexattn.audit.verify import verify
from flexattn.audit.writer import RunLog
from flexattn.config import LogSection

EPISODES = 1500
SETTINGS = LogSection(seal_lines=64, segment_mb=0.2)
TAIL = {"torn-tail", "unsealed-tail", "unfinished"}


def folder_at(path: Path) -> RunFolder:
    if (path / "manifest.json").exists():
        return RunFolder.open(path)
    return RunFolder.create(path, config=b"seed: 1\n", corpus=b"{}\n", catalogs={"t.json": CATALOG})


def work(path: Path) -> None:
    """Go on with the run, or begin it; ends it."""
    folder, checkpoint = folder_at(path), path / "checkpoint.json"
    episodes = [make_columns(random.Random(ep % 50), 5 + ep % 17) for ep in range(50)]
    log = RunLog(folder, SETTINGS)
    start = 0
    if folder.step_files():
        position = orjson.loads(checkpoint.read_bytes()) if checkpoint.exists() else None
        log.resume(position)
        start = position["episodes"] if position else 0
    for ep in range(start, EPISODES):
        log.episode(HEADER, episodes[ep % 50])
        if ep % 60 == 0:
            write_file(checkpoint, orjson.dumps(log.position()))
            time.sleep(0.002)  # a run does other things too
    log.event("end")
    log.close()


def child(path: Path) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            work(path)
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            os._exit(1)
        os._exit(0)
    return pid


def main(path: Path, kills: int) -> int:
    rng = random.Random(kills)
    work(path / "whole")
    killed = finished = seals = 0
    while killed < kills:
        pid = child(path / "cut")
        time.sleep(rng.uniform(0.001, 0.12))
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        if os.WIFEXITED(status):
            if os.WEXITSTATUS(status):
                return 1
            finished += 1
            for file in sorted((path / "cut").rglob("*"), reverse=True):
                file.rmdir() if file.is_dir() else file.unlink()
            seals = 0
            continue
        killed += 1
        if not (path / "cut" / "manifest.json").exists():
            continue
        report = verify(RunFolder.open(path / "cut"))
        odd = [str(f) for f in report.findings if f.code not in TAIL and f.code != "file-missing"]
        if odd or report.seals < seals:
            print(f"after kill {killed}: {odd or 'sealed lines were lost'}")
            return 1
        seals = report.seals
    work(path / "cut") if not verify(folder_at(path / "cut")).sound else None
    same = all(
        (path / "cut" / file.name).read_bytes() == file.read_bytes()
        for file in (path / "whole").glob("steps-*")
    )
    print(f"{killed} kills, {finished} runs ended before theirs, equal to one never killed: {same}")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
