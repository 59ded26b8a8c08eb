"""Stage B from training to replay; who serves, and the way back when it does worse."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from flexattn import generate, replay, train
from flexattn.audit.folder import RunFolder
from flexattn.config import parse_config, resolve_path
from flexattn.seeds import Task
from flexattn.stages.serving import Serving
from flexattn.stages.steered import SteeredTraining

SMALL = [
    "train.threads=1", "agent.hidden=32", "agent.char_dim=32", "agent.buffer_answers=48",
    "attention.heads=2", "attention.kv_heads=2", "train.warmup_steps=3", "train.batch_answers=4",
    "train.rollout_answers=8", "train.rollout_every=2", "train.evaluate_every=4",
    "train.evaluate_answers=4", "train.final_answers=8", "train.checkpoint_every=3",
    "train.clone_batch_answers=4", "log.seal_lines=500",
]  # fmt: skip


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("corpus") / "few.jsonl"
    lines = resolve_path("corpora/medical.jsonl").read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:24]))
    return file


def words(corpus: Path, folder: Path, stage: str, *more: str) -> list[str]:
    found = ["--plain", "--config", f"configs/stage_{stage}.yaml"]
    for override in [*SMALL, f"corpus.path={corpus}", f"run.folder={folder}", *more]:
        found += ["--set", override]
    return found


@pytest.fixture(scope="module")
def run(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("logs")
    assert train.main(words(corpus, folder, "b", "train.sac_steps=9")) == 0
    return folder / "stage_b"


def test_its_run_is_sound_and_says_which_stage_it_is(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert replay.main([str(run)]) == 0, capsys.readouterr().out
    log = (run / "steps-00000.jsonl").read_text(encoding="utf-8")
    assert '{"event":"stage","stage":"B","verdict":"start"}' in log


def test_the_counts_write_its_characters_and_the_actor_its_windows(run: Path) -> None:
    lines = (run / "evaluations.jsonl").read_bytes().splitlines()
    last = [row for line in lines if (row := json.loads(line))["regime"] == "greedy"][-8:]
    assert sum(row["kpis"]["term_recall"] for row in last) / 8 > 0.9
    chosen = {choice for row in last for choice in row["Lp_steps"]}
    assert chosen


def test_a_pool_of_seeds_knows_how_many_steps_it_has(run: Path) -> None:
    task = Task(parse_config(RunFolder.open(run).config_text(), "config.yaml"))
    assert task.steps == max(int(place.name[5:]) for place in (run / "checkpoints").iterdir())


def test_it_answers_and_the_answer_can_be_replayed(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    question = ["--run", str(run), "--question", "请问什么是‘奥司他韦’？"]
    assert generate.main([*question, "--strategy", "top_p"]) == 0
    assert "奥司他韦" in capsys.readouterr().out
    assert replay.main([str(run / "generations" / "0001")]) == 0


@pytest.mark.parametrize("stop_at", [2, 8])
def test_a_run_that_was_stopped_ends_like_one_that_was_not(
    corpus: Path, run: Path, tmp_path: Path, stop_at: int, interrupt: Callable[..., int]
) -> None:
    asked = words(corpus, tmp_path, "b", "train.sac_steps=9")
    assert interrupt(SteeredTraining, stop_at, asked) == 130
    torn = tmp_path / "stage_b"
    assert train.main(["--plain", "--resume", str(torn)]) == 0
    newest = [
        sorted((r / "checkpoints").iterdir())[-1] / "tensors.safetensors" for r in (run, torn)
    ]
    one, other = (load_file(file) for file in newest)
    assert all((one[name] == other[name]).all() for name in one)
    assert (torn / "steps-00000.jsonl").read_bytes() == (run / "steps-00000.jsonl").read_bytes()


def test_a_newer_stage_that_answers_worse_goes_back_by_itself(
    corpus: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = [
        "agent.prior=none", "train.clone_steps=1", "train.sac_steps=1", "stages.least_answers=5",
    ]  # fmt: skip
    assert train.main(words(corpus, tmp_path, "c", *more)) == 0
    folder = tmp_path / "serving"
    untaught = RunFolder.open(tmp_path / "stage_c")
    serving = Serving.create(folder, RunFolder.open(run), untaught, "test")
    assert serving.change("promote", "", "test").share == 0.1
    assert serving.change("promote", "", "test").share == 1.0
    # both stages have answered by then: the older one before, the newer one everything since
    asked = tmp_path / "asked.jsonl"
    records = [json.loads(line) for line in corpus.read_bytes().splitlines()[:12]]
    asked.write_text(
        "".join(
            json.dumps({"id": f"r-{n}", "question": f"什么是{record['term']}？"}) + "\n"
            for n, record in enumerate(records)
        ),
        encoding="utf-8",
    )
    serving.change("rollback", "", "test")
    words_ = ["--stages", str(folder), "--questions", str(asked), "--json"]
    capsys.readouterr()
    assert generate.main(words_) == 0
    assert "stage B: 12 answers" in capsys.readouterr().err
    assert serving.state().share == 0.0
    for _ in range(2):
        serving.change("promote", "", "test")
    assert generate.main(words_) == 0
    said = capsys.readouterr()
    assert "stage C: 12 answers" in said.err
    assert "since a guard KPI was breached" in said.err
    state = serving.state()
    assert (state.last, state.share) == ("rollback", 0.0)
    assert generate.main(words_) == 0
    assert "stage B: 12 answers" in capsys.readouterr().err
    assert replay.main([str(folder)]) == 0, capsys.readouterr().out
    for log in (folder / "answers").glob("*/*"):
        assert replay.main([str(log)]) == 0, capsys.readouterr().out
