from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import orjson
import pytest

from flexattn.audit.folder import RunFolder
from flexattn.audit.reader import Verifier, missing_file, read_head, segments
from flexattn.audit.schema import MAX_LINE_BYTES
from flexattn.audit.verify import verify


def test_segments_are_the_files_bytes_and_nothing_else(write_log, episodes) -> None:
    folder = write_log(episodes, segment_mb=0.03)
    for file in folder.step_files():
        parts = list(segments([file]))
        assert b"".join(p.data + p.seal for p in parts) == file.read_bytes()
        assert [p.offset for p in parts] == [
            sum(len(q.data) + len(q.seal) for q in parts[:n]) for n in range(len(parts))
        ]
        lines = file.read_bytes().splitlines(True)
        for part in parts:
            start = part.file_line - 1
            assert lines[start : start + len(part.lines)] == part.lines


@pytest.mark.parametrize("chunk", [1, 7, 64, 1000])
def test_how_much_is_read_at_a_time_changes_nothing(
    write_log, episodes, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_log(episodes[:6])
    whole = list(segments(folder.step_files()))
    monkeypatch.setattr("flexattn.audit.reader._CHUNK", chunk)
    assert list(segments(folder.step_files())) == whole


def _written(write_log, episodes, line: bytes) -> RunFolder:
    folder = write_log(episodes[:3], end=False)
    with open(folder.step_files()[0], "ab") as file:
        file.write(line)
    return folder


def test_a_line_without_end_is_refused_in_one_sentence(write_log, episodes) -> None:
    folder = _written(write_log, episodes, b'{"step":' + b"1" * (MAX_LINE_BYTES + 99))
    report = verify(folder)
    assert [f.code for f in report.findings] == ["line-too-long"]
    assert "longer than 1048576 bytes" in str(report.findings[0])


def test_a_line_that_is_too_long_is_refused_also_where_it_ends(write_log, episodes) -> None:
    folder = _written(write_log, episodes, b'{"step":' + b"1" * (MAX_LINE_BYTES + 99) + b"}\n")
    assert "line-too-long" in [f.code for f in verify(folder).findings]


def test_lines_without_any_seal_are_refused(
    write_log, episodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_log(episodes, end=False, seal_lines=100_000)
    monkeypatch.setattr("flexattn.audit.reader.MAX_SEGMENT_BYTES", 4096)
    assert "segment-too-long" in [f.code for f in verify(folder).findings]


def test_more_lines_than_a_seal_can_list_are_refused(
    write_log, episodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_log(episodes, seal_lines=50)
    monkeypatch.setattr("flexattn.audit.reader.MAX_SEGMENT_LINES", 40)
    report = verify(folder, workers=2)
    assert report.findings[0].code == "segment-too-long"
    assert report.findings[0].line == 1


@pytest.mark.parametrize(
    "line",
    [
        b"[" * 100_000 + b"\n",
        b'{"a":' * 100_000 + b"\n",
        b"\xff\xfe\n",
        b'"\\ud800"\n',
        b"null\n",
        b"1e999\n",
        b'{"step":1e999}\n',
        b'{"event":"seal"}\n',
        b'{"event":"seal",}\n',
        b'{"event":{}}\n',
        b'{"event":"episode","ep":18446744073709551616}\n',
        b"\n",
        b"\x00" * 500 + b"\n",
    ],
    ids=["deep-list", "deep-object", "utf-8", "surrogate", "null", "huge", "huge-step", "no-seal",
         "bad-seal", "odd-event", "big-integer", "empty", "zeros"],
)  # fmt: skip
def test_a_crafted_line_is_a_finding_and_never_a_crash(write_log, episodes, line: bytes) -> None:
    report = verify(_written(write_log, episodes, line))
    assert not report.sound
    assert all("\n" not in str(finding) and len(str(finding)) < 600 for finding in report.findings)


def test_a_gigabyte_in_one_line_costs_no_memory(tmp_path: Path, write_log, episodes) -> None:
    folder = write_log(episodes[:3], end=False)
    with open(folder.step_files()[0], "r+b") as file:
        file.truncate(1 << 30)  # a hole: zeros that take no disk
    code = (
        "import resource, sys\n"
        "resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))\n"
        "from flexattn.audit.folder import RunFolder\n"
        "from flexattn.audit.verify import verify\n"
        "print(verify(RunFolder.open(sys.argv[1])).findings[0].code)\n"
        "print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder.path)],
        capture_output=True,
        check=True,
        text=True,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
    )
    said, peak = done.stdout.split()
    assert said == "line-too-long"
    assert int(peak) < 200_000  # KB


def test_a_missing_step_file_is_named() -> None:
    files = [Path("steps-00000.jsonl"), Path("steps-00002.jsonl")]
    assert missing_file(files) == "steps-00001.jsonl"
    assert missing_file(files[:1]) is None


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[]", b'{"seals":1}', b'{"seals":"1","head":"00"}', b"x" * 70_000]
)
def test_a_head_that_is_none_is_a_finding(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "head.json").write_bytes(text)
    found = read_head(tmp_path)
    assert getattr(found, "code", None) == "head-bad"


def test_one_defect_gives_one_finding_and_the_rest_is_still_vouched_for(
    write_log, episodes
) -> None:
    folder = write_log(episodes)
    file = folder.step_files()[0]
    data = bytearray(file.read_bytes())
    seals = data.count(b'{"event":"seal"')
    data[data.index(b'"Lh":') + 5] ^= 1
    file.write_bytes(data)
    verifier, findings = Verifier(), []
    for segment in segments([file]):
        verifier.check(segment)
        findings += segment.findings
    assert [f.code for f in findings] == ["line-changed"]
    assert verifier.seals == seals


def test_findings_are_bounded(write_log, episodes, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_log(episodes)
    file = folder.step_files()[0]
    file.write_bytes(file.read_bytes().replace(b'{"event":"episode"', b'{"event":"episodf"'))
    monkeypatch.setattr("flexattn.audit.verify.MAX_FINDINGS", 5)
    report = verify(folder)
    assert len(report.findings) == 5
    assert report.more > 5
    assert orjson.loads(orjson.dumps(report.as_dict()))["more"] == report.more
    monkeypatch.setattr("flexattn.audit.story.MAX_FINDINGS", 3)
    bounded = verify(folder)
    assert len(bounded.findings) + bounded.more == len(report.findings) + report.more


def test_reading_needs_no_seek(write_log, episodes) -> None:
    folder = write_log(episodes[:4])
    data = folder.step_files()[0].read_bytes()

    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

    parts = list(segments(folder.step_files(), lambda _: Pipe(data)))
    assert sum(len(p.lines) for p in parts) == data.count(b"\n") - data.count(b'"event":"seal"')
