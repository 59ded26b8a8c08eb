from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from flexattn.errors import AuditError
from flexattn.evaluation import rows
from flexattn.evaluation.rows import Decisions, Row, Scorer

REFERENCE = "奥司他韦抗流感。"
SCORER = Scorer.of([REFERENCE], {"奥司他韦": 1, "流感": 1}, lengths=(2, 4), caps=(3, 4))


def decisions(caps: list[int]) -> Decisions:
    n = len(caps)
    segments = ["奥司他韦", *["-"] * (n - 1)]
    return Decisions([2] * n, caps, list(range(n)), segments, [0.1] * n, [0.05] * n)


def row(caps: list[int], output: str = REFERENCE) -> Row:
    return SCORER.row("greedy", 10, "m1", "什么是奥司他韦？", output, REFERENCE, decisions(caps))


def test_a_copied_answer_has_every_kpi_at_its_best() -> None:
    scored = row([4, 3, 3, 3, 3, 3, 3, 3, 3])
    assert scored.kpis == {
        "term_recall": 1.0, "rouge_l": 1.0, "word_noncompliance": 0.0, "typo_rate": 0.0,
        "net_lexical": pytest.approx(0.45), "hit_rate": pytest.approx(1 / 9),
        "long_term_share": 1.0, "top100_share": 1.0,
    }  # fmt: skip
    assert scored.opening == (1, 4)
    assert scored.Lp_steps == {"3": 8, "4": 1}


def test_selectivity_is_over_all_steps_of_all_answers() -> None:
    found = rows.summary([row([4, 3, 3]), row([3, 3, 3, 4, 4])])
    assert found["lp_selectivity"] == pytest.approx((4 + 3) / 2 - (3 + 3 + 3 + 3 + 4 + 4) / 6)
    assert found["lh_selectivity"] == 0.0
    assert found["Lh_entropy"] == 0.0
    assert found["term_recall"] == 1.0


def test_no_rows_define_nothing() -> None:
    assert set(rows.summary([]).values()) == {None}


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "evaluations.jsonl"
    file.write_bytes(row([4, 3]).line() + row([3]).line())
    first, second = rows.read_rows(file)
    assert first.output == REFERENCE
    assert (first.opening, second.turning) == ((1, 4), (1, 2))


def test_a_number_that_is_none_is_refused_when_written() -> None:
    broken = dataclasses.replace(row([3]), kpis={"rouge_l": float("nan")})
    with pytest.raises(ValueError, match="holds nan, expected finite numbers"):
        broken.line()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        pytest.param(b"{\n", "evaluations.jsonl:2: is no JSON", id="cut"),
        pytest.param(b"{}\n", "evaluations.jsonl:2: kpis is missing", id="another file"),
        pytest.param(b'{"kpis": 3}\n', "evaluations.jsonl:2: is no evaluation row", id="a type"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: bytes, message: str) -> None:
    file = tmp_path / "evaluations.jsonl"
    file.write_bytes(row([3]).line() + line)
    with pytest.raises(AuditError, match=message):
        list(rows.read_rows(file))
