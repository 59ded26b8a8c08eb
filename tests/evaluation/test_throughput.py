from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from flexattn.errors import FlexAttnError
from flexattn.evaluation import acceptance, throughput
from flexattn.evaluation.acceptance import Verdict
from flexattn.evaluation.throughput import Rounds


def measurement(suite: str, case: str, value: float, unit: str = "tokens/s") -> dict[str, object]:
    return {"suite": suite, "case": case, "subject": "flexattn", "value": value, "unit": unit}


def judged(rounds: Rounds) -> dict[str, Verdict]:
    rules = (acceptance._throughput, acceptance._steadiness, acceptance._overhead)
    return {(kpi := rule(rounds)).name: kpi for rule in rules}


def rounds(candidate: float, logged: float, noise: float = 0.01) -> Rounds:
    rng = np.random.default_rng(1)
    sides = {"candidate": candidate, "baseline": 100.0, "control": 100.0}
    log = {"with": logged, "without": 100.0}
    made = [
        {name: level * rng.normal(1.0, noise, 10) for name, level in group.items()}
        for group in (sides, log)
    ]
    return Rounds(*made)


def test_a_candidate_as_fast_as_the_baseline_and_a_cheap_log_pass() -> None:
    found = judged(rounds(candidate=99.0, logged=98.0))
    assert {kpi.verdict for kpi in found.values()} == {"PASS"}
    assert "the baseline against itself" in found["tokens_per_s"].note
    assert found["log_overhead"].estimate == pytest.approx(0.02, abs=0.01)


def test_a_slow_candidate_and_a_dear_log_fail() -> None:
    found = judged(rounds(candidate=80.0, logged=80.0))
    assert found["tokens_per_s"].verdict == "FAIL"
    assert found["log_overhead"].verdict == "FAIL"


def test_a_machine_that_wavers_decides_nothing_about_speed() -> None:
    found = judged(rounds(candidate=80.0, logged=97.0, noise=0.4))
    assert found["tokens_per_s"].verdict == "INCONCLUSIVE"
    assert found["log_overhead"].verdict == "INCONCLUSIVE"
    assert found["throughput_cv"].verdict != "PASS"


def test_what_was_not_measured_is_inconclusive_and_says_so() -> None:
    assert {kpi.note for kpi in judged(Rounds({}, {})).values()} == {"not measured; give --bench"}
    few = {side: values[:3] for side, values in rounds(99.0, 98.0).train.items()}
    assert judged(Rounds(few, {}))["tokens_per_s"].note == "3 rounds, expected 5 or more"


def test_rounds_are_paired_by_their_number_and_other_suites_are_left_aside(tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    file.write_text(json.dumps([
        measurement("train", "candidate/2", 20.0), measurement("train", "candidate/1", 10.0),
        measurement("train", "baseline/1", 11.0), measurement("train", "baseline/2", 21.0),
        measurement("train", "candidate/3", 30.0), measurement("env", "core/64", 5.0, "steps/s"),
    ]))  # fmt: skip
    read = throughput.read_bench([str(file)])
    assert read.train["candidate"].tolist() == [10.0, 20.0]
    assert read.train["baseline"].tolist() == [11.0, 21.0]
    assert read.log == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("{", "is no valid JSON", id="cut"),
        pytest.param("{}", "holds no list", id="another file"),
        pytest.param('[{"suite": "train"}]', "row 0: is no measurement", id="keys missing"),
        pytest.param(json.dumps([measurement("log", "with/1", 0.0)]), "value is 0.0", id="zero"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "bench.json"
    file.write_text(text)
    with pytest.raises(FlexAttnError, match=message):
        throughput.read_bench([str(file)])
    with pytest.raises(FlexAttnError, match="no such file"):
        throughput.read_bench([str(tmp_path / "none.json")])
