"""New catalog versions in a running training: real deliveries, real logs, real replays."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flexattn import catalog as catalog_verb
from flexattn import replay
from flexattn.audit.folder import RunFolder
from flexattn.config import load_config
from flexattn.display import Display
from flexattn.env.collect import EpisodeSteps
from flexattn.job import begin, go_on
from flexattn.lexicon.banned import find_banned
from flexattn.live import LiveCatalogs

ROOT = Path(__file__).parents[1]
SMALL = (
    "corpus.records=20", "agent.hidden=16", "agent.char_dim=16", "agent.buffer_answers=24",
    "train.clone_steps=2", "train.warmup_steps=4", "train.sac_steps=12",
    "train.clone_batch_answers=4", "train.batch_answers=2", "train.rollout_answers=5",
    "train.rollout_every=2", "train.evaluate_every=1000", "train.final_answers=2",
    "train.checkpoint_every=4", "train.threads=1", "log.seal_lines=300",
)  # fmt: skip
NEW_BANS = ["治疗", "抑制", "感染", "用于", "一种"]


class KilledError(Exception):
    """Stands for the end of the process."""


class Watched(Display):
    """Does something at given steps."""

    def __init__(self, at: dict[int, Callable[[], None]]) -> None:
        super().__init__(plain=True)
        self.at = at
        self.said: list[str] = []

    def reached(self, step: int, total: int) -> None:
        super().reached(step, total)
        self.at.pop(step, lambda: None)()

    def say(self, text: str) -> None:
        self.said.append(text)


def version(path: Path, number: int, banned: list[str]) -> Path:
    """The medical catalog with other weights, without a tenth of its terms, with more bans."""
    made: dict[str, Any] = json.loads((ROOT / "catalogs/medical.json").read_text("utf-8"))
    made["version"] = f"trial-{number}"
    made["documents"] += 100 * number
    made["entries"] = [entry for entry in made["entries"] if entry["id"] % 10 != number]
    made["banned"] += banned
    path.write_text(json.dumps(made), encoding="utf-8")
    return path


def swap(file: Path, run: Path) -> Callable[[], None]:
    def job() -> None:
        assert catalog_verb.main(["swap", str(file), "--run", str(run)]) == 0

    return job


def train(run: Path, at: dict[int, Callable[[], None]], *more: str) -> Watched:
    named = (f"run.folder={run.parent}", f"run.name={run.name}")
    config = load_config(ROOT / "configs/smoke.yaml", (*SMALL, *named, *more))
    shown = Watched(at)
    begin(config, shown)
    return shown


def log_of(run: Path) -> list[dict[str, Any]]:
    files = RunFolder.open(run).step_files()
    return [json.loads(line) for file in files for line in file.read_bytes().splitlines()]


def log_bytes(run: Path) -> bytes:
    return b"".join(file.read_bytes() for file in RunFolder.open(run).step_files())


def is_sound(run: Path) -> bool:
    return replay.main([str(run), "--workers", "1"]) == 0


def test_a_version_delivered_during_training_is_taken_between_two_rollouts(tmp_path: Path) -> None:
    run, new = tmp_path / "run", version(tmp_path / "new.json", 1, NEW_BANS)
    shown = train(run, {9: swap(new, run)})
    lines = log_of(run)
    (event,) = [line for line in lines if line.get("event") == "catalog"]
    assert (event["after"], event["moment"], event["version"]) == (10, 0, "trial-1")
    assert any("catalog version trial-1" in line for line in shown.said)
    used = [line["catalog"] for line in lines if line.get("event") == "episode"]
    change = event["ep"]
    assert set(used[:change]) != set(used[change:]) == {event["catalog"]}
    assert len(set(used)) == 2
    assert (run / "catalogs" / f"{event['catalog']}.json").is_file()
    assert not list((run / "catalogs/inbox").iterdir())
    texts: dict[int, str] = {}
    for line in lines:
        if "a" in line and line["ep"] >= change:
            texts[line["ep"]] = texts.get(line["ep"], "") + line.get("w", line["a"])
    assert texts
    assert not [text for text in texts.values() if find_banned(text, NEW_BANS)]
    evaluated = (run / "evaluations.jsonl").read_text("utf-8").splitlines()
    assert not [row for row in evaluated if find_banned(json.loads(row)["output"], NEW_BANS)]
    assert is_sound(run)


def test_a_version_that_is_missing_from_the_folder_makes_its_lines_unsound(tmp_path: Path) -> None:
    run, new = tmp_path / "run", version(tmp_path / "new.json", 1, [])
    train(run, {9: swap(new, run)})
    (event,) = [line for line in log_of(run) if line.get("event") == "catalog"]
    (run / "catalogs" / f"{event['catalog']}.json").unlink()
    assert not is_sound(run)


def test_refused_catalogs_are_a_warning_and_training_goes_on(tmp_path: Path) -> None:
    run = tmp_path / "run"

    def put() -> None:
        inbox = run / "catalogs/inbox"
        inbox.mkdir()
        (inbox / "torn.json").write_bytes(b"{")
        strange: dict[str, Any] = json.loads((ROOT / "catalogs/medical.json").read_text("utf-8"))
        strange["entries"] = [{"id": 9_000_001, "term": "鱻龘", "df": 0, "zipf": None}]
        (inbox / "strange.json").write_text(json.dumps(strange), encoding="utf-8")

    shown = train(run, {9: put})
    warnings = [line for line in shown.said if line.startswith("warning: ")]
    assert len(warnings) == 2
    assert any("torn.json:1: column" in line for line in warnings)
    assert any("no answer of the corpus holds one of its terms" in line for line in warnings)
    assert not [line for line in log_of(run) if line.get("event") == "catalog"]
    assert is_sound(run)


def deliver_within(
    run: Path, new: Path, monkeypatch: pytest.MonkeyPatch, after: int = 10, at: int = 7
) -> None:
    """Deliver a version while a rollout's eighth character is being chosen."""
    newer = LiveCatalogs.newer
    waiting = [swap(new, run)]

    def watched(self: LiveCatalogs, done: int, moment: int = 0) -> Any:
        if waiting and done >= after and moment == at:
            waiting.pop()()
        return newer(self, done, moment)

    monkeypatch.setattr(LiveCatalogs, "newer", watched)


def test_bans_act_at_once_in_answers_that_are_being_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, new = tmp_path / "run", version(tmp_path / "new.json", 2, NEW_BANS)
    deliver_within(run, new, monkeypatch)
    train(run, {}, "lexicon.ban_immediately=true")
    lines = log_of(run)
    (event,) = [line for line in lines if line.get("event") == "catalog"]
    assert (event["after"], event["moment"]) == (10, 7)
    headers = {line["ep"]: line for line in lines if line.get("event") == "episode"}
    under = {ep: header["bans"] for ep, header in headers.items() if "bans" in header}
    assert under
    assert all(bans == [[8, event["catalog"]]] for bans in under.values())
    for ep in under:
        assert headers[ep]["catalog"] in RunFolder.open(run).catalogs  # its own version stays
        steps = [line for line in lines if line.get("ep") == ep and "a" in line]
        text = "".join(line.get("w", line["a"]) for line in steps)
        for ban in NEW_BANS:
            place = text.find(ban)
            while place >= 0:
                assert place + len(ban) <= 7  # it stood there before
                place = text.find(ban, place + 1)
    assert is_sound(run)
    assert replay.main([str(run), "--oracle", "--episode", str(max(under))]) == 0


def test_a_log_that_leaves_the_bans_out_is_not_sound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, new = tmp_path / "run", version(tmp_path / "new.json", 2, NEW_BANS)
    deliver_within(run, new, monkeypatch)
    header = EpisodeSteps.header

    def silent(self: EpisodeSteps, env: int) -> dict[str, Any]:
        return {key: value for key, value in header(self, env).items() if key != "bans"}

    monkeypatch.setattr(EpisodeSteps, "header", silent)
    train(run, {}, "lexicon.ban_immediately=true")
    assert not is_sound(run)


@pytest.mark.parametrize("at_once", [False, True], ids=["between rollouts", "within one"])
def test_a_run_killed_after_a_swap_ends_as_one_that_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: bool
) -> None:
    new = version(tmp_path / "new.json", 3, NEW_BANS)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    more = [f"lexicon.ban_immediately={str(at_once).lower()}"]

    def kill() -> None:
        raise KilledError

    for run, stop in ((whole, None), (killed, kill)):
        at: dict[int, Callable[[], None]] = {11: stop} if stop else {}
        with monkeypatch.context() as patch:
            if at_once:
                deliver_within(run, new, patch, after=8, at=5)
            else:
                at[8] = swap(new, run)
            if stop:
                with pytest.raises(KilledError):
                    train(run, at, *more)
            else:
                train(run, at, *more)
    assert b'{"event":"catalog"' in log_bytes(killed)
    assert log_bytes(killed) != log_bytes(whole)
    assert go_on(RunFolder.open(killed), Watched({})) is not None
    assert log_bytes(killed) == log_bytes(whole)
    assert (killed / "head.json").read_bytes() == (whole / "head.json").read_bytes()
    assert is_sound(killed)


def test_a_version_whose_event_was_lost_in_a_crash_is_taken_afterwards(tmp_path: Path) -> None:
    new, run = version(tmp_path / "new.json", 4, []), tmp_path / "run"

    def kill() -> None:
        raise KilledError

    with pytest.raises(KilledError):
        train(run, {9: swap(new, run), 11: kill}, "log.seal_lines=100000")
    (file,) = RunFolder.open(run).step_files()
    lines = file.read_bytes().splitlines(keepends=True)
    event = next(n for n, line in enumerate(lines) if line.startswith(b'{"event":"catalog"'))
    seals = [n for n, line in enumerate(lines) if line.startswith(b'{"event":"seal"')]
    assert not [n for n in seals if n > event]  # nothing sealed is cut
    file.write_bytes(b"".join(lines[:event]))
    assert go_on(RunFolder.open(run), Watched({})) is not None
    (found,) = [line for line in log_of(run) if line.get("event") == "catalog"]
    assert found["version"] == "trial-4"
    assert is_sound(run)


def test_the_watcher_takes_up_a_version_beside_training(tmp_path: Path) -> None:
    pytest.importorskip("watchfiles")
    run, new = tmp_path / "run", version(tmp_path / "new.json", 5, [])

    def wait() -> None:
        swap(new, run)()
        versions = run / "catalogs/versions.jsonl"
        for _ in range(200):
            if versions.exists() and versions.read_bytes().count(b"\n") > 1:
                return
            time.sleep(0.05)

    train(run, {9: wait}, "lexicon.watch=true")
    (event,) = [line for line in log_of(run) if line.get("event") == "catalog"]
    assert (event["after"], event["version"]) == (10, "trial-5")
    assert is_sound(run)
