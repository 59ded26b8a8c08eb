"""Scored answers are read whole: a crash costs the line it tore off, a foreign line is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from flexattn.errors import AuditError
from flexattn.stages.served import append, scored

LINE = b'{"request":"r1","stage":"A","changes":1,"kpis":{"rouge_l":0.5}}\n'


def test_a_torn_line_is_not_read_and_cut_before_the_next_one(tmp_path: Path) -> None:
    file = tmp_path / "served.jsonl"
    assert scored(file) == []
    append(file, [LINE])
    with file.open("ab") as torn:
        torn.write(LINE[:20])
    assert len(scored(file)) == 1
    append(file, [LINE, LINE])
    assert file.read_bytes() == LINE * 3
    assert [row["kpis"] for row in scored(file)] == [{"rouge_l": 0.5}] * 3


@pytest.mark.parametrize("line", [b"not json\n", b"[1]\n", b'{"stage":"A"}\n'])
def test_a_line_that_is_no_scored_answer_is_named(line: bytes, tmp_path: Path) -> None:
    file = tmp_path / "served.jsonl"
    file.write_bytes(LINE + line)
    with pytest.raises(AuditError, match=r"served\.jsonl:2: "):
        scored(file)
