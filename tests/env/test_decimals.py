from __future__ import annotations

import math

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexattn.audit.schema import rounded
from flexattn.env.decimals import LONGEST, put_number, put_whole


def text(value: float) -> bytes | None:
    out = np.zeros(LONGEST, np.uint8)
    end = put_number(out, 0, value)
    assert end <= LONGEST
    return bytes(out[:end]) if end >= 0 else None


@settings(max_examples=2000, deadline=None)
@given(
    st.floats(-999_999, 999_999)
    | st.integers(-(10**15) + 1, 10**15 - 1).map(lambda k: k / 1e9)
    | st.integers(-20_000, 20_000).map(lambda k: k / 1e9)
    | st.floats(-1e-5, 1e-5)
)
def test_a_number_is_written_as_orjson_writes_the_rounded_one(value: float) -> None:
    assert text(value) == orjson.dumps(rounded(value))


def test_every_value_between_two_decimals_of_the_log_is_written_as_one_of_them() -> None:
    rng = np.random.default_rng(3)
    for value in [*rng.normal(size=20_000), *(rng.integers(0, 10**6, 20_000) / 1e9)]:
        assert text(value) == orjson.dumps(rounded(float(value)))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e6, -1e6, 1e300])
def test_what_has_more_digits_than_a_float64_holds_is_left_to_the_slow_way(value: float) -> None:
    assert text(value) is None


@given(st.integers(0, 2**53))
def test_a_whole_number_is_written_as_python_does(value: int) -> None:
    out = np.zeros(LONGEST, np.uint8)
    assert bytes(out[: put_whole(out, 0, value)]) == b"%d" % value
