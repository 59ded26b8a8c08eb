from __future__ import annotations

import numpy as np
import pytest

from flexattn.stages.guard import judge_served

GUARDS = ("rouge_l",)


def served(mean: float, count: int = 300, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {"rouge_l": np.clip(rng.normal(mean, 0.1, count), 0, 1)}


@pytest.mark.parametrize(
    ("newer", "older", "verdict"),
    [
        pytest.param(served(0.80), served(0.80, seed=1), "PASS", id="as good"),
        pytest.param(served(0.60), served(0.80, seed=1), "FAIL", id="far worse"),
        pytest.param(served(0.78), served(0.80, seed=1), "INCONCLUSIVE", id="at the margin"),
        pytest.param(served(0.20, count=9), served(0.80), "INCONCLUSIVE", id="too few answers"),
        pytest.param(served(0.0) | {"rouge_l": np.zeros(300)}, {"rouge_l": np.zeros(300)}, "ERROR",
                     id="0 everywhere"),
        pytest.param({"rouge_l": np.full(300, np.nan)}, served(0.8), "ERROR", id="not finite"),
    ],
)  # fmt: skip
def test_a_newer_stage_passes_only_where_it_is_not_worse_by_the_margin(
    newer: dict[str, np.ndarray], older: dict[str, np.ndarray], verdict: str
) -> None:
    assert judge_served(newer, older, GUARDS, 0.03, least=100).verdict == verdict


def test_less_of_a_defect_is_better() -> None:
    clean, dirty = ({"word_noncompliance": np.tile([0.0, rate], 200)} for rate in (0.01, 0.4))
    guards = ("word_noncompliance",)
    assert judge_served(clean, dirty, guards, 0.02, least=100).verdict == "PASS"
    assert judge_served(dirty, clean, guards, 0.02, least=100).verdict == "FAIL"


def test_a_stage_that_stands_at_the_margin_is_sent_back_in_one_look_of_a_hundred() -> None:
    back = passed = 0
    for trial in range(1500):
        rng = np.random.default_rng(trial)
        newer, older = rng.normal(0.77, 0.2, 150), rng.normal(0.80, 0.2, 400)
        found = judge_served({"rouge_l": newer}, {"rouge_l": older}, GUARDS, 0.03, least=100)
        back += found.verdict == "FAIL"
        passed += found.verdict == "PASS"
    assert back / 1500 < 0.02
    assert passed / 1500 < 0.02
