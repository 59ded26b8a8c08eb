"""The main job in small: train, generate, replay and resume on the corpus's first answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file

from flexattn import generate, replay, train
from flexattn.agents.ongoing import Ongoing
from flexattn.agents.policy import Student
from flexattn.audit.folder import RunFolder
from flexattn.config import resolve_path
from flexattn.domain import Domain
from flexattn.generation.request import Request
from flexattn.generation.strategy import NAMES, Strategy, answer
from flexattn.stages.voice import actor_of, newest_checkpoint
from flexattn.training import Training

SMALL = [
    "train.threads=1", "agent.hidden=32", "agent.char_dim=32", "agent.buffer_answers=48",
    "attention.heads=2", "attention.kv_heads=2", "train.clone_steps=6", "train.warmup_steps=2",
    "train.sac_steps=6", "train.clone_batch_answers=4", "train.batch_answers=4",
    "train.rollout_answers=8", "train.rollout_every=2", "train.evaluate_every=5",
    "train.evaluate_answers=4", "train.final_answers=6", "train.checkpoint_every=3",
    "log.seal_lines=500",
]  # fmt: skip


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("corpus") / "few.jsonl"
    lines = resolve_path("corpora/medical.jsonl").read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:24]))
    return file


def _arguments(corpus: Path, folder: Path, *more: str) -> list[str]:
    words = ["--plain", "--config", "configs/smoke.yaml"]
    for override in [*SMALL, f"corpus.path={corpus}", f"run.folder={folder}", *more]:
        words += ["--set", override]
    return words


def _steps(run: Path) -> bytes:
    return b"".join(file.read_bytes() for file in sorted(run.glob("steps-*.jsonl")))


def _weights(run: Path) -> bytes:
    newest = sorted((run / "checkpoints").iterdir())[-1]
    tensors = load_file(newest / "tensors.safetensors")
    return b"".join(tensors[name].numpy().tobytes() for name in sorted(tensors))


@pytest.fixture(scope="module")
def run(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("logs")
    assert train.main(_arguments(corpus, folder)) == 0
    return folder / "smoke"


def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not(
    corpus: Path, run: Path, tmp_path: Path
) -> None:
    assert train.main(_arguments(corpus, tmp_path)) == 0
    again = tmp_path / "smoke"
    assert _steps(again) == _steps(run)
    assert _weights(again) == _weights(run)
    assert (again / "evaluations.jsonl").read_bytes() == (run / "evaluations.jsonl").read_bytes()
    assert train.main(_arguments(corpus, tmp_path, "seed=8")) == 0
    assert _steps(tmp_path / "smoke-2") != _steps(run)


def test_every_line_of_the_run_verifies(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert replay.main([str(run)]) == 0, capsys.readouterr().out


def test_one_changed_digit_is_found_with_file_line_and_field(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    copy = tmp_path / "smoke"
    shutil.copytree(run, copy)
    file = copy / "steps-00000.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    number, line = next(
        (n, line) for n, line in enumerate(lines, 1) if n > 40 and b'"chi_soft":1.0,' in line
    )
    lines[number - 1] = line.replace(b'"chi_soft":1.0,', b'"chi_soft":0.0,')
    file.write_bytes(b"".join(lines))
    assert replay.main([str(copy)]) == 1
    said = capsys.readouterr()
    assert f"steps-00000.jsonl:{number}" in said.out + said.err
    assert "chi_soft" in said.out + said.err


@pytest.mark.parametrize("strategy", NAMES)
def test_a_generation_is_logged_and_verifies(
    run: Path, strategy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    question = "请问什么是‘奥司他韦’？"
    words = ["--run", str(run), "--question", question, "--samples", "3", "--beams", "3"]
    assert generate.main([*words, "--strategy", strategy, "--seed", "3"]) == 0
    answer = capsys.readouterr().out.strip()
    folder = sorted((run / "generations").iterdir())[-1]
    lines = [json.loads(line) for line in _steps(folder).splitlines()]
    given = next(n for n in lines if n.get("event") == "episode" and n.get("rank", 0) == 0)["ep"]
    assert "".join(line["a"] for line in lines if "p" in line and line["ep"] == given) == answer
    assert replay.main([str(folder)]) == 0, capsys.readouterr().out


def test_a_file_of_questions_is_answered_line_by_line(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "asked.jsonl"
    file.write_text('{"id": "a", "question": "什么是阿司匹林？"}\n{"question": "什么是肝素？"}\n')
    words = ["--run", str(run), "--questions", str(file), "--json", "--out", str(tmp_path / "log")]
    assert generate.main(words) == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [answer["id"] for answer in answers] == ["a", "2"]
    assert all(answer["answer"] and answer["log_likelihood"] < 0 for answer in answers)
    assert replay.main([str(tmp_path / "log")]) == 0, capsys.readouterr().out
    file.write_text('{"question": "什么是肝素？"}\n{"question": 1}\n')
    again = [*words[:-1], str(tmp_path / "none")]
    assert generate.main(again) == 2
    assert "asked.jsonl:2: question is 1" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_an_explained_answer_shows_segments_caps_and_alternatives(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--run", str(run), "--question", "什么是奥司他韦？", "--explain"]
    assert generate.main(words) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("segment", "Lh", "Lp", "alternatives", "奥司他韦"))


def test_what_the_log_says_was_kept_must_be_legal(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "log"
    words = ["--run", str(run), "--question", "什么是阿司匹林？", "--strategy", "top_p"]
    assert generate.main([*words, "--top-p", "0.5", "--out", str(out)]) == 0
    file = out / "steps-00000.jsonl"
    data = file.read_bytes()
    file.write_bytes(data.replace(b'"among":["', '"among":["，","'.encode(), 1))
    assert replay.main([str(out)]) == 1
    assert "among" in capsys.readouterr().out


def test_a_ring_of_keys_answers_like_a_window_of_history(run: Path) -> None:
    domain = Domain.of_run(RunFolder.open(run))
    actor = actor_of(domain, newest_checkpoint(RunFolder.open(run)))
    asked = [Request(str(n), f"什么是{term}？") for n, term in enumerate(("阿司匹林", "肝素"))]

    class Again(Student):
        def take(self, rows: object) -> None:
            """A window of history has nothing to take along."""

    for strategy in (Strategy(), Strategy("beam", beams=3)):
        ring, window = (
            answer(domain.world, voice, asked, strategy, 0)
            for voice in (
                lambda choose, answers: Ongoing(actor, answers, choose=choose),
                lambda choose, answers: Again(actor, choose=choose),
            )
        )
        for one, other in zip(ring, window):
            assert [a.text for a in one] == [a.text for a in other]
            assert one[0].probability == pytest.approx(other[0].probability, rel=1e-4)


@pytest.mark.parametrize("stop_at", [4, 9, 13])
def test_a_run_that_was_stopped_ends_like_one_that_was_not(
    corpus: Path, run: Path, tmp_path: Path, stop_at: int, interrupt: Callable[..., int]
) -> None:
    assert interrupt(Training, stop_at, _arguments(corpus, tmp_path)) == 130
    torn = tmp_path / "smoke"
    assert train.main(["--plain", "--resume", str(torn)]) == 0
    assert _weights(torn) == _weights(run)
    assert _steps(torn) == _steps(run)
    assert replay.main([str(torn)]) == 0


def test_a_finished_run_says_so(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main(["--resume", str(run)]) == 0
    assert "finished" in capsys.readouterr().out


def test_a_resume_with_another_configuration_is_refused(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train.main(["--resume", str(run), "--set", "seed=9"]) == 2
    assert "differs from" in capsys.readouterr().err


def test_a_question_about_nothing_known_is_answered_with_a_note(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert generate.main(["--run", str(run), "--question", "hello"]) == 0
    assert "names no term" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--strategy", "beem"], "--strategy is beem"),
        (["--top-p", "1.5", "--strategy", "top_p"], "--top-p is 1.5"),
        (["--temperature", "0"], "--temperature is 0"),
        (["--top-k", "0"], "--top-k is 0"),
        (["--seed", "-1"], "--seed is -1"),
    ],
)
def test_a_bad_option_of_generate_is_one_line_and_exit_2(
    run: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert generate.main(["--run", str(run), "--question", "什么是阿司匹林？", *words]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
