"""Stage A from training to replay where torch can't be imported, and its way back after a stop."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from flexattn import generate, replay, train
from flexattn.audit.folder import RunFolder
from flexattn.config import parse_config, resolve_path
from flexattn.seeds import Task
from flexattn.stages.counted import CountedTraining

BLOCKED = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ImportError("torch is blocked")
sys.meta_path.insert(0, Blocked())
import importlib
sys.exit(importlib.import_module(sys.argv[1]).main(sys.argv[2:]))
"""
SMALL = ["train.rollout_answers=8", "train.evaluate_every=2", "train.evaluate_answers=8",
         "train.final_answers=8", "train.checkpoint_every=2", "log.seal_lines=500"]  # fmt: skip


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("corpus") / "few.jsonl"
    lines = resolve_path("corpora/medical.jsonl").read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:24]))
    return file


def words(corpus: Path, folder: Path, *more: str) -> list[str]:
    found = ["--plain", "--config", "configs/stage_a.yaml"]
    for override in [*SMALL, f"corpus.path={corpus}", f"run.folder={folder}", *more]:
        found += ["--set", override]
    return found


def without_torch(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def run(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("logs")
    without_torch("flexattn.train", *words(corpus, folder))
    return folder / "stage_a"


def rows(run: Path, regime: str) -> list[dict[str, object]]:
    lines = (run / "evaluations.jsonl").read_bytes().splitlines()
    return [row for line in lines if (row := json.loads(line))["regime"] == regime]


def test_a_pool_of_seeds_knows_how_many_steps_it_has(run: Path) -> None:
    task = Task(parse_config(RunFolder.open(run).config_text(), "config.yaml"))
    assert task.steps == max(int(place.name[5:]) for place in (run / "checkpoints").iterdir())


def test_it_recalls_more_than_half_of_the_terms_without_torch(run: Path) -> None:
    found = [row["kpis"]["term_recall"] for row in rows(run, "greedy")]
    assert sum(found) / len(found) > 0.9


def test_every_line_of_it_is_derived_again_without_torch(run: Path) -> None:
    assert "every number derived again" in without_torch("flexattn.replay", str(run))
    log = (run / "steps-00000.jsonl").read_text(encoding="utf-8")
    assert '{"event":"stage","stage":"A","verdict":"start"}' in log


def test_it_answers_without_torch_and_the_answer_can_be_replayed(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    question = ["--run", str(run), "--question", "请问什么是‘奥司他韦’？"]
    text = without_torch("flexattn.generate", *question)
    assert "神经氨酸酶" in text
    for strategy in ("top_p", "beam", "best_of"):
        assert generate.main([*question, "--strategy", strategy, "--seed", "3"]) == 0
    for folder in sorted((run / "generations").iterdir()):
        assert replay.main([str(folder)]) == 0, capsys.readouterr().out


def test_its_checkpoint_holds_a_table_that_can_be_read(run: Path) -> None:
    newest = sorted((run / "checkpoints").iterdir())[-1]
    table = json.loads((newest / "state.json").read_text(encoding="utf-8"))["table"]
    assert {row["head"] for row in table} == {"Lh", "Lp"}
    long = [row for row in table if row.get("expected term") == "fits 6"]
    assert max(row["choice"] for row in long) == 6


@pytest.mark.parametrize("stop_at", [1, 4])
def test_a_run_that_was_stopped_ends_like_one_that_was_not(
    corpus: Path, run: Path, tmp_path: Path, stop_at: int, interrupt: Callable[..., int]
) -> None:
    assert interrupt(CountedTraining, stop_at, words(corpus, tmp_path)) == 130
    torn = tmp_path / "stage_a"
    assert train.main(["--plain", "--resume", str(torn)]) == 0
    for name in ("steps-00000.jsonl", "evaluations.jsonl"):
        assert (torn / name).read_bytes() == (run / name).read_bytes(), name
    assert replay.main([str(torn)]) == 0


def test_a_checkpoint_of_other_counts_is_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    copy = tmp_path / "stage_a"
    shutil.copytree(run, copy)
    state = sorted((copy / "checkpoints").iterdir())[-1] / "state.json"
    tree = json.loads(state.read_text(encoding="utf-8")) | {"counts": "0" * 64}
    del tree["state_sha256"]  # else the change itself is found first
    state.write_text(json.dumps(tree), encoding="utf-8")
    assert generate.main(["--run", str(copy), "--question", "什么是肝素？"]) == 2
    assert "has counts 00000000, the corpus gives" in capsys.readouterr().err
