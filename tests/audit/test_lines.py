from __future__ import annotations

import math
import random
from pathlib import Path

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from flexattn.audit.lines import StepLines, event_line
from flexattn.audit.schema import GENERATION_FIELDS, TRAIN_FIELDS, defect, json_schema, rounded
from flexattn.errors import AuditError

number = st.floats(-1e6, 1e6).map(rounded)
text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=9)
VALUES = {
    "int": st.integers(0, 2**53 - 1),
    "float": number,
    "str": text,
    "text": text.map(lambda s: s[:1]),
    "short": st.just("9f3c21aa"),
    "chars": st.lists(text.map(lambda s: s[:1]), unique=True).map(tuple),
}


@st.composite
def column_sets(draw: st.DrawFn) -> dict[str, list[object]]:
    fields = draw(st.sampled_from([TRAIN_FIELDS, GENERATION_FIELDS]))
    count = draw(st.integers(1, 6))
    columns: dict[str, list[object]] = {}
    for field in fields:
        value = VALUES[field.kind]
        if field.name == "note":
            value = st.sampled_from(["period", "end"])
        if field.optional:
            value = st.none() | value
        if field.name in ("cat", "ep", "env"):
            columns[field.name] = [draw(value)] * count
        else:
            columns[field.name] = draw(st.lists(value, min_size=count, max_size=count))
    return columns


@settings(max_examples=80, deadline=None)
@given(st.lists(column_sets(), min_size=1, max_size=3))
def test_step_lines_are_byte_for_byte_what_orjson_writes(
    sets: list[dict[str, list[object]]],
) -> None:
    writer = StepLines()
    for columns in sets:
        rows = [
            {name: value for name, value in zip(columns, row, strict=True) if value is not None}
            for row in zip(*columns.values(), strict=True)
        ]
        assert writer.lines(columns) == [orjson.dumps(row) + b"\n" for row in rows]


def _columns() -> dict[str, list[object]]:
    values = {"int": 1, "float": 0.5, "str": "-", "text": "磷", "short": "9f3c21aa"}
    return {f.name: [None if f.optional else values[f.kind]] * 2 for f in TRAIN_FIELDS}


@pytest.mark.parametrize("name", ["idf", "sim", "reward", "len_cost"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, None])
def test_nothing_that_is_no_number_is_logged(name: str, bad: float | None) -> None:
    columns = _columns()
    columns[name] = [0.5, bad]
    with pytest.raises(AuditError, match=name):
        StepLines().lines(columns)


def test_a_missing_column_is_named() -> None:
    columns = _columns()
    del columns["chi_soft"]
    with pytest.raises(AuditError, match="chi_soft is missing"):
        StepLines().lines(columns)


def test_a_short_column_is_named() -> None:
    columns = _columns()
    columns["pos"] = ["-"]
    with pytest.raises(AuditError, match="pos has 1 values, expected 2"):
        StepLines().lines(columns)


def test_an_episode_has_one_catalog() -> None:
    columns = _columns()
    columns["cat"] = ["00000000", "00000001"]
    with pytest.raises(AuditError, match="cat changes within an episode"):
        StepLines().lines(columns)


def test_an_event_is_put_in_order_and_checked() -> None:
    line = event_line("resume", {"ep": 4, "line": 9})
    assert line == b'{"event":"resume","line":9,"ep":4}\n'
    with pytest.raises(AuditError, match="resume, ep is nothing"):
        event_line("resume", {"line": 9})
    with pytest.raises(AuditError, match="colour"):
        event_line("resume", {"line": 9, "ep": 1, "colour": "red"})
    with pytest.raises(AuditError, match="expected one of run, episode"):
        event_line("birthday", {})


def test_rounding_is_to_nine_decimals_and_knows_no_negative_zero() -> None:
    assert rounded(0.0351 + 1e-12) == 0.0351
    assert math.copysign(1.0, rounded(-1e-12)) == 1.0
    rng = random.Random(2)
    for _ in range(2000):
        value = rng.uniform(-3, 3)
        assert abs(rounded(value) - value) <= 5.0001e-10
        assert len(repr(rounded(value)).partition(".")[2]) <= 9 or abs(rounded(value)) < 1e-4


def test_the_schema_names_the_first_defect_of_a_line() -> None:
    line = orjson.loads(StepLines().lines({**_columns(), "note": ["end", None]})[0])
    assert defect(line) is None
    assert defect({**line, "Lh": 2.0})[0] == "Lh"
    assert defect({**line, "reward": 1})[2] == "a number with a decimal point"
    assert defect({**line, "len_cos": 0.0})[0] == "len_cos"
    assert defect({**line, "note": "why"})[0] == "note"
    assert defect({**line, "a": "磷酸"})[2] == "one character, or none at the end"
    assert defect({k: line[k] for k in reversed(line)})[1] == "the key out of its place"
    assert defect({"event": "seel"})[0] == "event"


@pytest.mark.parametrize("name", ["sound", "sound-generation"])
def test_every_line_of_a_sound_log_keeps_to_the_printed_json_schema(name: str) -> None:
    schema = Draft202012Validator(json_schema())
    golden = Path(__file__).parents[1] / "golden" / name
    for file in golden.glob("steps-*.jsonl"):
        for line in file.read_bytes().splitlines():
            value = orjson.loads(line)
            assert schema.is_valid(value)
            assert not schema.is_valid({**value, "colour": "red"})
            assert not schema.is_valid(dict(list(value.items())[1:]))
