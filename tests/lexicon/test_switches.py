"""The journal of switches: read again, continued, and whole behind a full disk."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from flexattn.lexicon.switches import VERSIONS, Switch, Switches

HASH = "0" * 64


def test_what_was_appended_is_read_again(tmp_path: Path) -> None:
    first = Switches(tmp_path)
    first.append(HASH, "a.json")
    first.close()
    second = Switches(tmp_path)
    assert second.append("1" * 64, "a.json").revision == 2
    assert Switches(tmp_path).made == [Switch(1, HASH, "a.json"), Switch(2, "1" * 64, "a.json")]


def test_a_full_disk_leaves_no_half_line(tmp_path: Path) -> None:
    journal = Switches(tmp_path)
    journal.append(HASH, "a.json")
    before = (tmp_path / VERSIONS).read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 10, limits[1]))
    try:
        with pytest.raises(OSError, match="No space left"):
            journal.append(HASH, "a.json")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / VERSIONS).read_bytes() == before
    assert journal.append(HASH, "a.json").revision == 2
    assert len(Switches(tmp_path).made) == 2
