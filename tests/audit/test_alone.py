"""Two at once: a lock is held by one, and a folder name is given once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from flexattn.audit.alone import alone_in, claim
from flexattn.errors import AuditError


def test_a_lock_is_held_by_one(tmp_path: Path) -> None:
    second = alone_in(tmp_path, wait=False)
    with alone_in(tmp_path, wait=False), pytest.raises(BlockingIOError):
        second.__enter__()
    with alone_in(tmp_path, wait=False):
        pass


def test_everybody_who_asks_at_once_gets_a_folder_of_his_own(tmp_path: Path) -> None:
    def names(number: int) -> Path:
        return tmp_path / "base" / f"{number:04d}"

    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: claim(names), range(40)))
    assert sorted(made) == [names(number) for number in range(1, 41)]


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"")
    with pytest.raises(AuditError, match=r"file/0001: cannot be made"):
        claim(lambda number: file / f"{number:04d}")
