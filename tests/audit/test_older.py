from __future__ import annotations

from pathlib import Path

import pytest

from flexattn.audit.older import check_older
from flexattn.config import RewardSection

FILE = Path(__file__).parents[1] / "golden" / "older.jsonl"
SOUND = (
    b'{"step":1,"Lh":4,"Lp":3,"a":"\xe8\x8c\xb6","seg":"\xe8\x8c\xb6\xe5\x8f\xb6","len":2,'
    b'"idf":0.5,"sim":0.85,"delta":0.015,"ler":0.015,"len_cost":0.0775}\n'
)


def defects(lines: list[bytes]) -> list[tuple[int, str, str]]:
    found = check_older(lines, "older.jsonl", RewardSection(), 0.75, 8)
    return [(f.line, f.code, f.field) for f in found]


def test_each_defect_of_an_older_log_is_named_with_line_and_field() -> None:
    assert defects(FILE.read_bytes().splitlines(True)) == [
        (1, "digits", "delta"),  # 0.02 for 0.0297
        (1, "cost", "len_cost"),  # none at all
        (2, "digits", "delta"),  # 0.014 for 0.01485, where 0.019 on line 3 is rounded
        (2, "cost", "len_cost"),  # without the part of Lh
        (3, "cost", "len_cost"),
        (4, "length", "len"),  # 多酚类物质 has 5 characters
        (4, "over-cap", "Lp"),
        (5, "blank", "a"),
        (5, "older-spelling", "len_cos"),
        (5, "cost", "len_cos"),
        (6, "step-order", "step"),  # 5, then 9
        (6, "length", "len"),
        (6, "number", "delta"),  # 0.030 for 0.02838
    ]


def test_a_sound_line_has_no_defect() -> None:
    assert defects([SOUND]) == []


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"{", "not-json"),
        (b"[1]", "not-json"),
        (b'{"step":NaN}', "not-json"),
        (b'{"step":1,"step":2}', "not-json"),
        (b"[" * 90_000, "not-json"),
        (b"\xff", "not-json"),
        (b" " * 2 + b"x" * (1 << 21), "not-json"),
        (b"{}", "schema"),
        (SOUND.replace(b'"Lh":4', b'"Lh":"4"'), "schema"),
        (SOUND.replace(b'"Lh":4', b'"Lh":true'), "schema"),
        (SOUND.replace(b'"len_cost":0.0775', b'"len_cost":"x"'), "schema"),
        (SOUND.replace(b'"a":"\xe8\x8c\xb6"', b'"a":"x"'), "hit"),
        (SOUND.replace(b'"ler":0.015', b'"ler":0.016'), "number"),
    ],
)
def test_a_line_that_cannot_be_read_is_one_finding(line: bytes, code: str) -> None:
    assert [found[1] for found in defects([line])] == [code]
