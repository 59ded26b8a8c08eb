"""One run: TensorBoard's events, also after a resume; and a newest checkpoint that is damaged."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from test_seeds import steps_of, weights_of, words

from flexattn import train
from flexattn.config import resolve_path
from flexattn.training import Training


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("job")
    lines = resolve_path("corpora/medical.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "few.jsonl").write_bytes(b"".join(lines[:12]))
    return folder


@pytest.fixture(scope="module")
def run(place: Path) -> Path:
    assert train.main(words(place, name="whole")) == 0
    return place / "whole"


@pytest.mark.filterwarnings("ignore")  # TensorBoard's own
def test_tensorboard_shows_training_and_evaluation_each_step_once_after_a_resume(
    place: Path, run: Path, interrupt: Callable[..., int]
) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    board = ["--set", "train.tensorboard=true", "--set", "train.evaluate_every=10"]
    assert interrupt(Training, 28, words(place, *board, name="board")) == 130
    torn = place / "board"
    assert train.main(["--plain", "--resume", str(torn)]) == 0

    events = accumulator.EventAccumulator(str(torn / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("train/clone_loss")] == [10, 20, 30]
    assert [event.step for event in events.Scalars("greedy/rouge_l")] == [10, 20, 30, 33]
    assert weights_of(torn) == weights_of(run), "what is shown changes nothing"


@pytest.mark.parametrize("damage", ["cut", "garbled"])
def test_a_run_whose_newest_checkpoint_is_damaged_goes_on_from_the_one_before(
    run: Path, tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    torn = tmp_path / "torn"
    shutil.copytree(run, torn)
    log = torn / "steps-00000.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join(lines[:-2]))  # without `end` and the seal that covers it
    newest = max((torn / "checkpoints").iterdir())
    if damage == "cut":
        tensors = newest / "tensors.safetensors"
        tensors.write_bytes(tensors.read_bytes()[:-100])
    else:
        (newest / "state.json").write_bytes(b"\xff" * 50)
    assert train.main(["--plain", "--resume", str(torn)]) == 0
    said = capsys.readouterr().out
    assert f"warning: {newest}" in said
    assert "going back to the one before" in said
    assert steps_of(torn) == steps_of(run)
    assert weights_of(torn) == weights_of(run)
