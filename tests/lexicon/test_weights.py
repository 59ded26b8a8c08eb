from __future__ import annotations

import math

import numpy as np
import pytest

from flexattn.lexicon.entries import Entry, columns_of
from flexattn.lexicon.weights import idf, term_weight, term_weights, zipf_weight


@pytest.mark.parametrize(
    ("df", "documents", "expected"),
    [
        pytest.param(0, 99, 1.0, id="in no answer"),
        pytest.param(99, 99, 0.0, id="in every answer"),
        pytest.param(9, 99, 0.5, id="in one of ten answers, halfway on the log scale"),
        pytest.param(0, 0, 1.0, id="nothing counted"),
    ],
)
def test_idf_is_the_share_of_answers_on_a_log_scale(
    df: int, documents: int, expected: float
) -> None:
    assert math.isclose(idf(df, documents), expected, abs_tol=1e-12)


@pytest.mark.parametrize(
    ("zipf", "expected"),
    [(None, 1.0), (0.0, 1.0), (3.0, 1.0), (5.0, 0.5), (7.0, 0.0), (9.0, 0.0)],
)
def test_zipf_weight_falls_from_one_at_3_to_nothing_at_7(
    zipf: float | None, expected: float
) -> None:
    assert zipf_weight(zipf) == expected


def test_a_term_of_two_characters_is_worth_seven_tenths() -> None:
    assert term_weight("病毒", 9, 99, 5.0) == 0.7 * term_weight("流感病毒", 9, 99, 5.0)
    assert term_weight("病毒", 0, 9, None, two_char=0.2) == 0.2


def test_the_vector_has_the_same_bits_as_the_scalar() -> None:
    rng = np.random.default_rng(7)
    entries = [
        Entry(i, "术" * int(rng.integers(2, 6)), int(rng.integers(0, 60)), z)
        for i, z in enumerate([None, *np.round(rng.uniform(0, 8, 300), 2).tolist()])
    ]
    expected = [term_weight(e.term, e.df, 60, e.zipf) for e in entries]
    assert term_weights(columns_of(entries), 60).tolist() == expected
