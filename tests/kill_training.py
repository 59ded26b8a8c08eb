"""Kill a real training at random moments, resume it each time, and compare with an unbroken one.

    PYTHONPATH=. python tests/kill_training.py FOLDER KILLS [--start fork|exec] [--seed N]

After every kill the log must be readable, and what was sealed before must still stand there, byte
for byte. A run that comes to its end must have the final weights, step lines and evaluations
of a run that nobody killed; then a fresh run begins, until there were KILLS kills. The last run is
brought to its end and replayed. `exec` starts `python -m flexattn.train` each time, `fork` starts
from a process that has loaded the libraries, so that more of the kills fall into the training.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from pathlib import Path

from flexattn import replay, train, training
from flexattn.audit.folder import RunFolder
from flexattn.audit.verify import verify
from flexattn.config import resolve_path

SETS = (
    "train.threads=1", "agent.hidden=16", "agent.char_dim=16", "agent.buffer_answers=24",
    "attention.heads=2", "attention.kv_heads=2", "train.clone_steps=8", "train.warmup_steps=2",
    "train.sac_steps=8", "train.clone_batch_answers=4", "train.batch_answers=4",
    "train.rollout_answers=6", "train.rollout_every=2", "train.evaluate_every=7",
    "train.evaluate_answers=2", "train.final_answers=2", "train.checkpoint_every=2",
    "train.keep_checkpoints=2", "log.seal_lines=64", "log.segment_mb=0.15", "run.name=run",
)  # fmt: skip
ANSWERS = 16
TAIL = {"torn-tail", "unsealed-tail", "unfinished", "file-missing"}


def words(folder: Path, corpus: Path) -> list[str]:
    """Go on with the run in `folder`, or begin it."""
    if (folder / "run" / "manifest.json").exists():
        return ["--plain", "--resume", str(folder / "run")]
    found = ["--plain", "--config", "configs/smoke.yaml"]
    for override in (*SETS, f"corpus.path={corpus}", f"run.folder={folder}"):
        found += ["--set", override]
    shutil.rmtree(folder, ignore_errors=True)
    return found


def start(how: str, folder: Path, corpus: Path) -> int:
    """A training in a process of its own; returns its pid."""
    asked = words(folder, corpus)
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 1)
    try:
        if how == "exec":
            os.execv(sys.executable, [sys.executable, "-m", "flexattn.train", *asked])
        code = train.main(asked)
        sys.stderr.flush()
        os._exit(code)
    except BaseException as error:
        print(repr(error), file=sys.stderr, flush=True)
        os._exit(1)


def sealed(run: Path) -> bytes:
    """The log's bytes up to its last seal."""
    data = b"".join(file.read_bytes() for file in sorted(run.glob("steps-*.jsonl")))
    last = data.rfind(b'{"event":"seal"')
    return data[: data.find(b"\n", last) + 1] if last >= 0 else b""


def parts(run: Path) -> dict[str, bytes]:
    """What must equal an unbroken run's: weights and states, step lines, evaluations."""
    newest = max((run / "checkpoints").glob("step-*"))
    files = [newest / "tensors.safetensors", run / "evaluations.jsonl", *run.glob("steps-*.jsonl")]
    return {str(file.relative_to(run)): file.read_bytes() for file in files}


def where(run: Path) -> str:
    """How far a killed run had come."""
    if not (run / "manifest.json").exists():
        return "before the folder stood"
    saved = sorted(place.name for place in (run / "checkpoints").glob("step-*"))
    if not saved:
        return "before the first checkpoint"
    return f"after checkpoint {int(saved[-1][5:])}"


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("kills", type=int)
    parser.add_argument("--start", choices=("fork", "exec"), default="fork")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args(argv)
    given.folder.mkdir(parents=True, exist_ok=True)
    corpus = given.folder / "few.jsonl"
    lines = resolve_path("corpora/medical.jsonl").read_bytes().splitlines(keepends=True)
    corpus.write_bytes(b"".join(sorted(lines, key=len)[:ANSWERS]))
    rng = random.Random(given.seed)
    durations = []
    for _ in range(2):  # the first one also fills the compiler's cache
        shutil.rmtree(given.folder / "whole", ignore_errors=True)
        began = time.monotonic()
        _, status = os.waitpid(start(given.start, given.folder / "whole", corpus), 0)
        durations.append(time.monotonic() - began)
        if status:
            print("the unbroken run failed")
            return 1
    expected = parts(given.folder / "whole" / "run")
    print(f"an unbroken run takes {durations[-1]:.1f} s", flush=True)

    cut, run = given.folder / "cut", given.folder / "cut" / "run"
    killed = finished = torn = 0
    before, places = b"", Counter[str]()
    while True:
        last = killed >= given.kills
        pid = start(given.start, cut, corpus)
        if not last:
            time.sleep(rng.uniform(0.0, durations[-1]))
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        if os.WIFEXITED(status):
            if os.WEXITSTATUS(status):
                print(f"after kill {killed}: the training ended with {os.WEXITSTATUS(status)}")
                return 1
            found = parts(run)
            odd = [name for name in expected if found.get(name) != expected[name]]
            if odd or found.keys() != expected.keys() or not sealed(run).startswith(before):
                print(f"after kill {killed}: a finished run differs in {odd or sorted(found)}")
                return 1
            finished += 1
            if last:
                break
            shutil.rmtree(cut)
            before = b""
            continue
        killed += 1
        places[where(run)] += 1
        if not (run / "manifest.json").exists():
            continue
        report = verify(RunFolder.open(run))
        torn += any(finding.code == "torn-tail" for finding in report.findings)
        odd = [str(finding) for finding in report.findings if finding.code not in TAIL]
        now = sealed(run)
        if odd or not now.startswith(before):
            print(f"after kill {killed}: {odd or 'a sealed line was lost or changed'}")
            return 1
        before = now
        if killed % 10 == 0:
            print(f"{killed} kills, {finished} runs finished", flush=True)
    for place in sorted(places, key=lambda place: (len(place), place)):
        print(f"{places[place]:5d} kills {place}")
    print(
        f"{killed} kills ({given.start}), {finished} runs came to their end, {torn} torn tails: no "
        f"unreadable log, no sealed line lost, weights, step lines and evaluations as unbroken"
    )
    return int(replay.main([str(run)]))


if __name__ == "__main__":
    assert training.Training  # loaded before the first fork, torch and all
    sys.exit(main(sys.argv[1:]))
