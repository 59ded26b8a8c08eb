"""Many seeds: one run folder each, finished ones skipped, killed ones gone on with."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from flexattn import job, report, seeds, train
from flexattn.audit.alone import alone_in
from flexattn.audit.folder import RunFolder
from flexattn.config import resolve_path
from flexattn.errors import ConfigError

ROOT = Path(__file__).parents[1]
SMALL = [
    "train.threads=1", "agent.hidden=16", "agent.char_dim=16", "agent.buffer_answers=16",
    "attention.heads=2", "attention.kv_heads=2", "train.clone_steps=30", "train.warmup_steps=1",
    "train.sac_steps=2", "train.clone_batch_answers=2", "train.batch_answers=2",
    "train.rollout_answers=4", "train.rollout_every=2", "train.evaluate_every=100",
    "train.final_answers=2", "train.checkpoint_every=5", "train.keep_checkpoints=2",
]  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("seeds")
    lines = resolve_path("corpora/medical.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "few.jsonl").write_bytes(b"".join(lines[:12]))
    return folder


def words(place: Path, *more: str, name: str = "smoke") -> list[str]:
    found = ["--plain", "--config", "configs/smoke.yaml"]
    sets = [f"corpus.path={place / 'few.jsonl'}", f"run.folder={place}", f"run.name={name}"]
    for override in [*SMALL, *sets]:
        found += ["--set", override]
    return [*found, *more]


def steps_of(run: Path) -> bytes:
    return b"".join(file.read_bytes() for file in sorted(run.glob("steps-*.jsonl")))


def weights_of(run: Path) -> bytes:
    newest = max((run / "checkpoints").iterdir())
    tensors = load_file(newest / "tensors.safetensors")
    return b"".join(tensors[name].numpy().tobytes() for name in sorted(tensors))


def stat_of(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def children_of(pid: int) -> list[int]:
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if int(stat_of(int(place.name))[1]) == pid:
                found.append(int(place.name))
    return found


def workers_of(pid: int) -> list[int]:
    """Processes of the pool that train; a helper of multiprocessing's is none."""
    return [
        child
        for child in children_of(pid)
        if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]


def _hear_interrupts() -> None:
    """A shell's job in the background ignores Ctrl-C, and so would all that it starts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def wait_for(what: str, seen: object, seconds: float = 120.0) -> None:
    until = time.monotonic() + seconds
    while not seen():  # type: ignore[operator]
        assert time.monotonic() < until, what
        time.sleep(0.02)


def test_a_killed_worker_and_a_stopped_pool_go_on_and_end_like_a_run_of_its_own(
    place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert train.main(words(place, "--set", "seed=3", name="alone")) == 0
    command = [sys.executable, "-m", "flexattn.train", *words(place), "--seeds", "3-4"]
    pool = subprocess.Popen(
        [*command, "--workers", "1"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, preexec_fn=_hear_interrupts,
    )  # fmt: skip
    first, second = place / "smoke" / "seed-3", place / "smoke" / "seed-4"
    try:
        wait_for("a checkpoint", lambda: list(first.glob("checkpoints/step-*")))
        os.kill(workers_of(pool.pid)[0], signal.SIGKILL)
        wait_for("the second run", lambda: list(second.glob("steps-*")))
        pool.send_signal(signal.SIGINT)
        said, error = pool.communicate(timeout=60)
    finally:
        pool.kill()
    assert pool.returncode == 130, error
    assert error == "interrupted\n"
    assert "smoke/seed-3 was killed by signal 9; it goes on from step" in said
    assert "the same command goes on" in said
    assert not RunFolder.open(second).ended()

    before = steps_of(first)
    assert train.main([*words(place), "--seeds", "3-4"]) == 0
    said = capfd.readouterr().out
    assert "smoke/seed-3: was finished before" in said
    assert "2 of 2 runs are finished" in said
    assert RunFolder.open(second).ended()
    assert steps_of(first) == before == steps_of(place / "alone")
    assert weights_of(first) == weights_of(place / "alone")


def test_report_reads_the_gathered_seeds_and_names_the_arm_by_its_folder(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [str(run) for run in sorted((place / "smoke").glob("seed-*"))]
    assert len(runs) == 2
    assert report.main(["--baseline", *runs, "--candidate", *runs, "--draws", "100"]) in (1, 3)
    assert "candidate (smoke) against baseline (smoke)" in capsys.readouterr().out


def test_a_folder_with_another_configuration_is_refused_before_anything_starts(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train.main([*words(place, "--set", "agent.gamma=0.9"), "--seeds", "3-9"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {place / 'smoke' / 'seed-3'}: holds a run of another")
    assert error.count("\n") == 1
    assert not (place / "smoke" / "seed-5").exists()


def test_two_trainings_never_share_a_folder(place: Path) -> None:
    folder = RunFolder.open(place / "alone")
    with (
        alone_in(folder.path, wait=False),
        pytest.raises(ConfigError, match="another process trains here"),
        job._alone_in(folder),
    ):
        pytest.fail("two train in one folder")


def test_a_run_that_cannot_begin_is_given_up_with_its_reason(
    place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    asked = words(place, "--seeds", "1", "--set", "lexicon.catalog=gone.json", name="lost")
    assert train.main(asked) == 1
    said = capfd.readouterr()
    assert "gone.json: no such file" in said.err
    assert "0 of 1 runs are finished" in said.out


@pytest.mark.parametrize(
    ("text", "found"),
    [("0-3", (0, 1, 2, 3)), ("7", (7,)), ("1,5-6", (1, 5, 6)), (" 2 , 3 ", (2, 3))],
)
def test_seeds_are_numbers_and_ranges(text: str, found: tuple[int, ...]) -> None:
    assert seeds.parse_seeds(text) == found


@pytest.mark.parametrize("text", ["", "a", "3-1", "1-", "-1", "1,1", "0-2,2", "0-99999"])
def test_other_seeds_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--seeds"):
        seeds.parse_seeds(text)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--seeds", "1"], "--seeds: needs --config"),
        (["--workers", "2", "--config", "configs/smoke.yaml"], "--workers: is for many runs"),
        (["--config", "a.yaml", "--config", "b.yaml"], "is given 2 times"),
        (["--config", "configs/smoke.yaml", "--seeds", "1", "--workers=0"], "--workers 0"),
        (["--config", "configs/smoke.yaml", "--config", "configs/smoke.yaml", "--seeds", "1"],
         "run.name is smoke like in configs/smoke.yaml"),
        (["--resume", "logs/x", "--seeds", "1"], "--resume: goes with one run"),
    ],
)  # fmt: skip
def test_options_that_do_not_go_together_are_one_line(
    more: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train.main(more) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
