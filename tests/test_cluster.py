"""Runs on a Ray cluster; a worker that is killed is started again and goes on."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_seeds import stat_of, steps_of, weights_of, words

from flexattn import train
from flexattn.audit.folder import RunFolder
from flexattn.config import resolve_path

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.filterwarnings("ignore")  # Ray's own


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ray")
    lines = resolve_path("corpora/medical.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "few.jsonl").write_bytes(b"".join(lines[:12]))
    return folder


@pytest.fixture
def cluster() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        try:
            yield
        finally:
            ray.shutdown()


def ancestors(pid: int) -> set[int]:
    found = set()
    while pid > 1:
        found.add(pid)
        pid = int(stat_of(pid)[1])
    return found


def workers_of(task: str) -> list[int]:
    """Ray's workers below this process that run a task; its agents are called ray:: as well."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (process / "cmdline").read_bytes().startswith(f"ray::{task}".encode()):
                pid = int(process.name)
                if os.getpid() in ancestors(pid):
                    found.append(pid)
    return found


def test_a_lost_worker_is_started_again_and_its_run_ends_like_one_of_its_own(
    place: Path, cluster: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train.main(words(place, "--set", "seed=3", name="alone")) == 0
    run, lost = place / "smoke" / "seed-3", []

    def kill() -> None:
        until = time.monotonic() + 120
        while time.monotonic() < until and not lost:
            if list(run.glob("checkpoints/step-*")):
                lost.extend(workers_of("smoke/seed-3")[:1])
            time.sleep(0.02)
        for pid in lost:
            os.kill(pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    assert train.main([*words(place), "--seeds", "3", "--ray", "local"]) == 0
    killer.join()
    assert lost, "the run ended before its worker could be killed"
    assert "1 of 1 runs are finished" in capsys.readouterr().out
    assert "goes on from step" in (run / "said.txt").read_text(encoding="utf-8")
    assert RunFolder.open(run).ended()
    assert steps_of(run) == steps_of(place / "alone")
    assert weights_of(run) == weights_of(place / "alone")


def test_an_address_without_a_cluster_is_one_line(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = [*words(place, name="none"), "--seeds", "1", "--ray", "127.0.0.1:1"]
    assert train.main(asked) == 2
    error = capsys.readouterr().err
    assert "--ray 127.0.0.1:1: no cluster answers there" in error
