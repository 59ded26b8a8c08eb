from __future__ import annotations

import errno
import hashlib
import os
import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from conftest_audit import HEADER

from flexattn.audit.files import StepFiles
from flexattn.audit.folder import RunFolder
from flexattn.audit.reader import Verifier, read_head, segments
from flexattn.audit.schema import FORMS
from flexattn.audit.verify import verify
from flexattn.audit.writer import RunLog, sampled
from flexattn.config import LogSection
from flexattn.errors import AuditError

SETTINGS = LogSection(seal_lines=50, segment_mb=0.03)
Episodes = list[dict[str, list[Any]]]


def bytes_of(folder: RunFolder) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.step_files()}


def verified_lines(folder: RunFolder) -> int:
    head = read_head(folder.path)
    verifier = Verifier(head if isinstance(head, dict) else None)
    count = 0
    for segment in segments(folder.step_files()):
        verifier.check(segment)
        assert not segment.findings
        assert segment.seal
        count += len(segment.lines)
    return count


def test_two_runs_with_the_same_steps_have_the_same_bytes(write_log, episodes: Episodes) -> None:
    one, two = write_log(episodes, "one"), write_log(episodes, "two")
    assert bytes_of(one) == bytes_of(two)
    assert one.run_fields() == two.run_fields()


def test_a_finished_log_verifies_and_head_json_holds_its_last_seal(
    write_log, episodes: Episodes
) -> None:
    folder = write_log(episodes, segment_mb=0.03)
    assert len(folder.step_files()) > 2
    lines = verified_lines(folder)
    assert lines == sum(len(c["step"]) + 1 for c in episodes) + 2
    last = folder.step_files()[-1].read_bytes().splitlines()[-1]
    assert read_head(folder.path)["head"] == orjson.loads(last)["seal"]
    assert orjson.loads(folder.step_files()[-1].read_bytes().splitlines()[-2]) == {
        "event": "end",
        "steps": sum(len(c["step"]) for c in episodes),
        "episodes": len(episodes),
        "evaluations": None,
    }


def test_an_episodes_lines_stand_together_behind_its_header(write_log, episodes: Episodes) -> None:
    folder = write_log(episodes)
    current = None
    for line in b"".join(bytes_of(folder).values()).splitlines():
        value = orjson.loads(line)
        if value.get("event") == "episode":
            current, step = value["ep"], 0
        if "step" in value:
            step += 1
            assert (value["ep"], value["step"]) == (current, step)


def _interrupted(
    folder: RunFolder, episodes: Episodes, checkpoint: int, stop: int
) -> dict[str, Any]:
    log = RunLog(folder, SETTINGS)
    for columns in episodes[:checkpoint]:
        log.episode(HEADER, columns)
    position = log.position()
    for columns in episodes[checkpoint:stop]:
        log.episode(HEADER, columns)
    log.close()
    return orjson.loads(orjson.dumps(position))


@pytest.mark.parametrize("seed", range(12))
def test_a_resumed_log_equals_one_that_was_never_cut(
    write_log, make_folder: Callable[..., RunFolder], episodes: Episodes, seed: int
) -> None:
    whole = write_log(episodes, "whole", segment_mb=0.03)
    rng = random.Random(seed)
    checkpoint = rng.randrange(len(episodes))
    stop = rng.randrange(checkpoint, len(episodes) + 1)
    folder = make_folder("cut")
    position = _interrupted(folder, episodes, checkpoint, stop)
    file = folder.step_files()[-1]
    spare = file.stat().st_size
    if position["file"] == len(folder.step_files()) - 1:
        spare -= position["offset"]
    elif file.read_bytes().endswith(b'"}\n'):
        spare = 0
    cut = rng.randrange(min(spare, 400) + 1) if seed % 2 else 0
    sealed = file.read_bytes().rfind(b'\n{"event":"seal"')
    if cut and file.stat().st_size - cut > file.read_bytes().find(b"\n", sealed + 1):
        os.truncate(file, file.stat().st_size - cut)
    start = 0 if seed % 4 == 3 else checkpoint
    log = RunLog(RunFolder.open(folder.path), SETTINGS)
    log.resume(position if start else None)
    for columns in episodes[start:]:
        log.episode(HEADER, columns)
    log.event("end")
    log.close()
    assert bytes_of(folder) == bytes_of(whole)


def test_a_log_of_the_older_form_is_gone_on_with_in_that_form(
    write_log,
    make_folder: Callable[..., RunFolder],
    episodes: Episodes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("flexattn.audit.folder.SCHEMA", FORMS[0])
    whole = write_log(episodes, "whole", segment_mb=0.03)
    folder = make_folder("cut")
    position = _interrupted(folder, episodes, 9, 12)
    monkeypatch.undo()
    log = RunLog(RunFolder.open(folder.path), SETTINGS)
    log.resume(position)
    for columns in episodes[9:]:
        log.episode(HEADER, columns)
    log.event("end")
    log.close()
    assert bytes_of(folder) == bytes_of(whole)
    assert b'"tree"' not in b"".join(file.read_bytes() for file in folder.step_files())
    assert read_head(folder.path)["schema"] == FORMS[0]


def test_a_torn_line_is_cut_and_reported(make_folder, episodes: Episodes) -> None:
    folder = make_folder()
    position = _interrupted(folder, episodes, 1, 2)
    file = folder.step_files()[-1]
    os.truncate(file, file.stat().st_size - 10)
    log = RunLog(folder, SETTINGS)
    found = log.resume(position)
    log.close()
    assert found.cut_bytes > 10
    assert "torn line" in str(found)
    assert file.read_bytes().endswith(b"}\n")


def test_a_resumed_run_that_does_something_else_is_an_error_that_names_the_line(
    make_folder, episodes: Episodes
) -> None:
    folder = make_folder()
    position = _interrupted(folder, episodes, 3, 9)
    before = bytes_of(folder)
    log = RunLog(folder, SETTINGS)
    log.resume(position)
    changed = {**episodes[3], "reward": [0.125, *episodes[3]["reward"][1:]]}
    log.episode(HEADER, changed)
    line = position["file_line"] + 2
    with pytest.raises(AuditError, match=rf"steps-0000\d.jsonl:{line}: .*0.125"):
        log.close()
    assert bytes_of(folder) == before


def test_where_steps_cannot_be_repeated_exactly_a_line_says_what_is_superseded(
    make_folder, episodes: Episodes
) -> None:
    folder = make_folder()
    position = _interrupted(folder, episodes, 3, 9)
    before = b"".join(bytes_of(folder).values())
    log = RunLog(folder, SETTINGS)
    found = log.resume(position, exact=False)
    assert log.episode(HEADER, episodes[20]) == 3
    log.event("end")
    log.close()
    after = b"".join(bytes_of(folder).values())
    assert after.startswith(before)
    assert orjson.loads(after[len(before) :].splitlines()[0]) == {
        "event": "resume",
        "line": position["line"],
        "ep": 3,
    }
    assert (
        found.kept_lines
        == sum(len(c["step"]) + 1 for c in episodes[3:9])
        + before.count(b'"event":"seal"')
        - position["seals"]
    )
    verified_lines(folder)


def test_a_checkpoint_of_another_run_is_refused(make_folder, episodes: Episodes) -> None:
    position = _interrupted(make_folder("one"), episodes, 9, 9)
    _interrupted(make_folder("two"), episodes[::-1], 9, 9)
    with pytest.raises(AuditError, match=r"belongs to another log|log ends at line"):
        RunLog(RunFolder.open(make_folder("three").path.parent / "two"), SETTINGS).resume(position)


def test_a_log_shorter_than_its_checkpoint_is_refused(make_folder, episodes: Episodes) -> None:
    folder = make_folder()
    position = _interrupted(folder, episodes, 9, 9)
    for file in folder.step_files()[1:]:
        file.unlink()
    file = folder.step_files()[0]
    os.truncate(file, file.read_bytes().find(b"\n", 2000) + 1)
    with pytest.raises(AuditError, match="lines were lost"):
        RunLog(folder, SETTINGS).resume(position)


def test_nobody_goes_on_with_a_log_that_was_changed(make_folder, episodes: Episodes) -> None:
    folder = make_folder()
    position = _interrupted(folder, episodes, 9, 12)
    file = folder.step_files()[0]
    data = bytearray(file.read_bytes())
    data[400] ^= 1
    file.write_bytes(data)
    with pytest.raises(AuditError, match="changed after writing; only a sound log"):
        RunLog(folder, SETTINGS).resume(position)


def test_a_folder_with_a_log_is_not_overwritten(write_log, episodes: Episodes) -> None:
    folder = write_log(episodes[:2])
    with pytest.raises(AuditError, match="holds a log already"):
        RunLog(folder, SETTINGS).episode(HEADER, episodes[0])
    with pytest.raises(AuditError, match="holds a run already"):
        write_log(episodes[:2])


def test_an_error_of_the_thread_reaches_the_caller(
    make_folder, episodes: Episodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(StepFiles, "_open", full)
    log = RunLog(make_folder(), SETTINGS)
    log.episode(HEADER, episodes[0])
    with pytest.raises(AuditError, match="No space left on device; what stands in it up to line 0"):
        log.close()
    assert not any(t.name == "flexattn-log" for t in threading.enumerate())


def test_a_full_queue_makes_the_caller_wait(make_folder, episodes: Episodes) -> None:
    folder = make_folder()
    with RunLog(folder, LogSection(queue_records=1, seal_lines=50)) as log:
        for columns in episodes:
            log.episode(HEADER, columns)
        log.event("end")
    assert verified_lines(folder) > 100


def test_nothing_follows_the_end(make_folder, episodes: Episodes) -> None:
    log = RunLog(make_folder(), SETTINGS)
    log.episode(HEADER, episodes[0])
    log.event("end")
    with pytest.raises(AuditError, match="nothing can follow"):
        log.episode(HEADER, episodes[1])
    log.close()
    with pytest.raises(AuditError, match="closed"):
        log.episode(HEADER, episodes[1])


def test_sampling_leaves_out_whole_episodes_the_same_ones_each_time(
    write_log, episodes: Episodes
) -> None:
    folder = write_log(episodes, sample=0.5)
    logged = {
        value["ep"]
        for line in b"".join(bytes_of(folder).values()).splitlines()
        if "ep" in (value := orjson.loads(line))
    }
    assert logged == {ep for ep in range(len(episodes)) if sampled(ep, 0.5)}
    assert 10 < len(logged) < 30
    verified_lines(folder)


def test_the_end_names_the_evaluations(make_folder, episodes: Episodes) -> None:
    folder = make_folder()
    (folder.path / "evaluations.jsonl").write_bytes(b'{"step":1}\n')
    with RunLog(folder, SETTINGS) as log:
        log.event("end")
    line = folder.step_files()[0].read_bytes().splitlines()[1]
    assert orjson.loads(line)["evaluations"] == hashlib.sha256(b'{"step":1}\n').hexdigest()


def test_the_run_event_is_the_same_whatever_the_folder_is_called(make_folder) -> None:
    assert make_folder("a").run_fields() == make_folder("b").run_fields()


def test_a_failing_caller_still_gets_its_lines_written(make_folder, episodes: Episodes) -> None:
    folder = make_folder()

    def interrupted() -> None:
        with RunLog(folder, SETTINGS) as log:
            log.episode(HEADER, episodes[0])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    tail = folder.step_files()[0].read_bytes().splitlines()
    assert len(tail) == 2 + len(episodes[0]["step"])
    assert not Path(folder.path / "head.json").exists()
    report = verify(folder)
    assert [finding.code for finding in report.findings] == ["unsealed-tail"]
    assert f"nothing seals the {len(tail)} lines since line 1" in str(report.findings[0])
