from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from flexattn.audit.archive import compress, open_step_file
from flexattn.audit.folder import RunFolder
from flexattn.audit.query import statistics
from flexattn.audit.verify import verify
from flexattn.audit.writer import RunLog
from flexattn.config import LogSection
from flexattn.errors import AuditError

zstandard = pytest.importorskip("zstandard")
GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture
def packed(tmp_path: Path) -> RunFolder:
    shutil.copytree(GOLDEN / "sound", tmp_path / "run")
    folder = RunFolder.open(tmp_path / "run")
    before, after = compress(folder)
    assert after < before / 4
    return folder


def test_a_compressed_log_is_read_as_if_it_were_not(packed: RunFolder) -> None:
    plain = verify(RunFolder.open(GOLDEN / "sound"))
    report = verify(packed)
    assert report.sound
    assert (report.head, report.root, report.steps) == (plain.head, plain.root, plain.steps)
    assert [file.suffix for file in packed.step_files()] == [".zst", ".zst"]
    assert compress(packed) == (0, 0)


def test_a_compressed_log_can_be_counted(packed: RunFolder) -> None:
    pytest.importorskip("duckdb")
    _, columns, rows = statistics(packed)["catalogs"]
    assert sum(row[columns.index("steps")] for row in rows) == 380


def test_a_damaged_archive_is_a_finding(packed: RunFolder) -> None:
    file = packed.step_files()[0]
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 255
    file.write_bytes(data)
    assert "bad-archive" in [f.code for f in verify(packed).findings]
    file.write_bytes(b"no archive")
    assert "bad-archive" in [f.code for f in verify(packed).findings]
    file.write_bytes(bytes(data[: len(data) // 3]))
    assert not verify(packed).sound


def test_a_bomb_ends_in_one_finding(packed: RunFolder) -> None:
    file = packed.step_files()[0]
    for bomb in (bytes(300_000_000), b'{"step":1}\n' * 20_000_000):
        file.write_bytes(zstandard.compress(bomb))
        assert file.stat().st_size < 100_000
        codes = [f.code for f in verify(packed).findings]
        assert codes[0] in ("line-too-long", "segment-too-long")


def test_nobody_goes_on_with_a_compressed_log(packed: RunFolder) -> None:
    with pytest.raises(AuditError, match="is compressed, so it is finished"):
        RunLog(packed, LogSection()).resume(None)


def test_small_reads_see_the_same_bytes(packed: RunFolder) -> None:
    plain = (GOLDEN / "sound" / "steps-00001.jsonl").read_bytes()
    with open_step_file(packed.step_files()[1]) as stream:
        data = b"".join(iter(lambda: stream.read(777), b""))
    assert data == plain
