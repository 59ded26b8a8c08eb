"""Promote, hold, go back: each one a sealed line that names its evidence."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import orjson
import pytest

from flexattn import replay, report
from flexattn.audit.folder import RunFolder
from flexattn.config import load_config
from flexattn.errors import AuditError
from flexattn.evaluation.acceptance import Acceptance
from flexattn.stages.serving import Serving

from .conftest import Arms

STAGES = load_config("configs/medical.yaml").stages


@pytest.fixture
def older(arms: Arms) -> list[str]:
    return arms("a", "a", 3)


def promote(folder: Path, older: list[str], newer: list[str]) -> int:
    words = ["--baseline", *older, "--candidate", *newer, "--draws", "200"]
    return report.main([*words, "--promote", str(folder)])


def events(folder: Path) -> list[dict[str, object]]:
    lines = (folder / "steps-00000.jsonl").read_bytes().splitlines()
    return [value for line in lines if (value := orjson.loads(line))["event"] == "stage"]


def test_a_stage_that_passes_gets_a_share_and_then_everything(
    tmp_path: Path, arms: Arms, older: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, newer = tmp_path / "serving", arms("b", "b", 2)
    shares = [0.0]
    for _ in range(2):
        assert promote(folder, older, newer) == 0
        shares.append(Serving.open(folder).state().share)
    assert shares == [0.0, STAGES.share, 1.0]
    told = [(e["stage"], e["verdict"], e["share"]) for e in events(folder)]
    assert told == [("A", "start", 0.0), ("B", "promote", 0.1), ("B", "promote", 1.0)]
    assert replay.main([str(folder)]) == 0, capsys.readouterr().out


def test_every_change_names_the_hash_of_the_verdict_that_decided_it(
    tmp_path: Path, arms: Arms, older: list[str]
) -> None:
    folder = tmp_path / "serving"
    promote(folder, older, arms("b", "b", 2))
    kept = (folder / "reports" / "0001.json").read_bytes()
    assert events(folder)[-1]["evidence"] == hashlib.sha256(kept).hexdigest()
    tree = orjson.loads(kept)
    assert tree["verdict"] == "PASS"
    assert {kpi["name"] for kpi in tree["kpis"]} == set(STAGES.guards)


def test_a_stage_that_fails_goes_back_by_itself(
    tmp_path: Path, arms: Arms, older: list[str]
) -> None:
    folder, worse = tmp_path / "serving", arms("b", "b", 6)
    first = RunFolder.open(older[0]), RunFolder.open(worse[0])
    serving = Serving.create(folder, *first, "test")
    assert serving.change("promote", "", "test").share == STAGES.share
    assert promote(folder, older, worse) == 1
    state = Serving.open(folder).state()
    assert (state.last, state.share) == ("rollback", 0.0)
    assert events(folder)[-1]["stage"] == "A"


def test_several_processes_may_change_one_folder(
    tmp_path: Path, arms: Arms, older: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "serving"
    runs = RunFolder.open(older[0]), RunFolder.open(arms("b", "b", 2)[0])
    Serving.create(folder, *runs, "test")

    def change(number: int) -> None:
        Serving.open(folder).change("promote" if number % 2 else "rollback", "", f"actor {number}")

    with ThreadPoolExecutor(4) as pool:  # a lock is of an opened file, so threads are as good
        list(pool.map(change, range(20)))
    actors = [str(event["actor"]) for event in events(folder)[1:]]
    assert sorted(actors) == sorted(f"actor {number}" for number in range(20))
    assert Serving.open(folder).state().changes == 21
    assert replay.main([str(folder)]) == 0, capsys.readouterr().out


def test_a_verdict_that_somebody_else_was_quicker_than_changes_nothing(
    tmp_path: Path, arms: Arms, older: list[str]
) -> None:
    folder = tmp_path / "serving"
    runs = RunFolder.open(older[0]), RunFolder.open(arms("b", "b", 2)[0])
    serving = Serving.create(folder, *runs, "test")
    before = serving.change("promote", "", "test").changes
    serving.change("hold", "", "somebody else")
    judged = Acceptance(())
    assert serving.decide(judged, {}, "test", after=before).last == "hold"
    assert not (folder / "reports").exists()


def test_too_few_seeds_pause_and_change_nothing(
    tmp_path: Path, arms: Arms, older: list[str]
) -> None:
    folder, newer = tmp_path / "serving", arms("b", "b", 2)
    assert promote(folder, older, newer) == 0
    assert promote(folder, older[:2], newer[:2]) == 3
    state = Serving.open(folder).state()
    assert (state.last, state.share) == ("hold", STAGES.share)


def test_one_command_goes_back_and_says_who_decided(
    tmp_path: Path, arms: Arms, older: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "serving"
    promote(folder, older, arms("b", "b", 2))
    capsys.readouterr()
    assert report.main(["--rollback", str(folder), "--actor", "on call"]) == 0
    assert "stage A answers everything again" in capsys.readouterr().out
    assert events(folder)[-1] == {
        "event": "stage", "stage": "A", "verdict": "rollback", "evidence": "", "actor": "on call",
        "share": 0.0,
    }  # fmt: skip
    assert replay.main([str(folder)]) == 0, capsys.readouterr().out


def test_a_change_that_was_altered_later_is_found(
    tmp_path: Path, arms: Arms, older: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "serving"
    promote(folder, older, arms("b", "b", 2))
    file = folder / "steps-00000.jsonl"
    file.write_bytes(file.read_bytes().replace(b'"share":0.1', b'"share":0.9'))
    assert replay.main([str(folder)]) == 1
    capsys.readouterr()
    assert report.main(["--rollback", str(folder)]) == 2
    assert "only a sound log can be gone on with" in capsys.readouterr().err


def test_another_run_in_a_stages_place_is_refused(
    tmp_path: Path, arms: Arms, older: list[str]
) -> None:
    folder, newer = tmp_path / "serving", arms("b", "b", 2)
    promote(folder, older, newer)
    manifest = Path(newer[0]) / "manifest.json"
    manifest.write_bytes(manifest.read_bytes() + b"\n")
    with pytest.raises(AuditError, match="it is another run"):
        Serving.open(folder)


def test_stages_are_served_in_their_order_alone(tmp_path: Path, arms: Arms) -> None:
    run = RunFolder.open(arms("c", "c", 2)[0])
    with pytest.raises(AuditError, match="expected a newer stage after an older one"):
        Serving.create(tmp_path / "serving", run, run, "test")
