"""Figures of the heads, one line at a time, cut where a checkpoint stood."""

from __future__ import annotations

import json
from pathlib import Path

from flexattn.diagnostics import FILE, Diagnostics


def test_lines_hold_kind_step_and_rounded_figures(tmp_path: Path) -> None:
    lines = Diagnostics(tmp_path)
    lines.add("rollout", 8, {"hit_rate": 1 / 3, "Lp": {3: 0.75, 4: 0.25}})
    assert json.loads((tmp_path / FILE).read_text()) == {
        "kind": "rollout", "step": 8, "hit_rate": 0.333333, "Lp": {"3": 0.75, "4": 0.25},
    }  # fmt: skip


def test_what_came_after_a_checkpoint_is_cut_and_written_again(tmp_path: Path) -> None:
    lines = Diagnostics(tmp_path)
    lines.add("sac", 1, {"alpha_char": 0.5})
    size = lines.size
    lines.add("sac", 2, {"alpha_char": 0.25})
    whole = (tmp_path / FILE).read_bytes()
    again = Diagnostics(tmp_path)
    again.cut(size)
    assert again.size == size
    again.add("sac", 2, {"alpha_char": 0.25})
    assert (tmp_path / FILE).read_bytes() == whole


def test_a_rank_that_writes_nothing_has_no_file() -> None:
    lines = Diagnostics(None)
    lines.add("sac", 1, {})
    lines.cut(0)
    assert lines.size == 0
