from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from flexattn.audit.folder import RunFolder
from flexattn.config import load_config
from flexattn.evaluation import acceptance, arms
from flexattn.evaluation.acceptance import Verdict
from flexattn.evaluation.arms import Arm, Run
from flexattn.evaluation.rows import REGIMES, Row

CONFIG = load_config(Path(__file__).parents[2] / "configs" / "medical.yaml")
FOLDER = cast("RunFolder", None)  # nothing here looks into the folder
PROMPTS = 10
STEPS = (1000, 2000, 3000, 4000, 5000, 6000)


def arm(name: str, seeds: int = 10, seed: int = 0, **levels: float) -> Arm:
    """Runs whose KPIs are `levels` plus a little noise; ROUGE-L climbs with rate `speed`."""
    rng = np.random.default_rng(seed)
    kpis = {"term_recall": 0.5, "word_noncompliance": 0.4, "typo_rate": 0.3, "rouge_l": 0.9}
    kpis |= levels
    speed, spread = kpis.pop("speed", 1.0), kpis.pop("spread", 0.01)
    runs = []
    for number in range(seeds):
        shift = rng.normal(0.0, spread)
        rows = []
        for step in STEPS:
            climb = min(1.0, 0.3 + 0.14 * speed * step / 1000)
            for regime in REGIMES if step == STEPS[-1] else ("greedy",):
                for p in range(PROMPTS):
                    values = {k: max(0.0, v + rng.normal(0.0, 0.01)) for k, v in kpis.items()}
                    values["rouge_l"] = (kpis["rouge_l"] + shift) * climb
                    rows.append(row(regime, step, p, values))
        config = CONFIG.model_copy(update={"seed": number})
        runs.append(Run(FOLDER, config, tuple(rows)))
    return Arm(name, tuple(runs))


def row(regime: str, step: int, prompt: int, kpis: dict[str, float]) -> Row:
    return Row(
        regime, step, f"r{prompt}", "什么？", "", "", kpis, 2.0, 3.0, {"2": 1}, {"3": 1}, (0, 0),
        (0, 0), characters=step * 50,
    )  # fmt: skip


def verdicts(candidate: Arm, baseline: Arm) -> dict[tuple[str, str], Verdict]:
    found = acceptance.judge(candidate, baseline, np.random.default_rng(7), draws=400)
    return {(kpi.name, kpi.regime): kpi for kpi in found.kpis}


def test_a_better_candidate_passes_what_was_measured_and_nothing_else() -> None:
    better = arm(
        "b", seed=1, term_recall=0.7, word_noncompliance=0.1, typo_rate=0.1, rouge_l=0.95,
        speed=2.0, spread=0.001,
    )  # fmt: skip
    found = verdicts(better, arm("a", spread=0.02))
    assert found["term_recall", "noise_10"].verdict == "PASS"
    assert found["term_recall", "noise_10"].estimate == pytest.approx(1.4, abs=0.02)
    assert found["word_noncompliance", "noise_10"].verdict == "PASS"
    assert found["typo_rate", "noise_10"].verdict == "PASS"
    assert {found["rouge_l", regime].verdict for regime in REGIMES} == {"PASS"}
    assert found["convergence_steps", "greedy"].verdict == "PASS"
    assert found["seed_variance", "greedy"].verdict == "PASS"
    assert found["drift_rouge_l", "top_p"].verdict == "PASS"
    assert found["bert_score", ""].verdict == "INCONCLUSIVE"
    assert "no model was given" in found["bert_score", ""].note
    assert found["tokens_per_s", ""].verdict == "INCONCLUSIVE"


def test_a_worse_candidate_fails() -> None:
    worse = arm("b", seed=1, term_recall=0.4, word_noncompliance=0.6, typo_rate=0.6, rouge_l=0.7)
    found = verdicts(worse, arm("a"))
    for name in ("term_recall", "word_noncompliance", "typo_rate"):
        assert found[name, "noise_10"].verdict == "FAIL"
    assert found["rouge_l", "top_p"].verdict == "FAIL"


def test_the_same_candidate_twice_is_not_below_itself_but_no_improvement() -> None:
    same = arm("a")
    found = verdicts(same, same)
    assert found["rouge_l", "greedy"].verdict == "PASS"
    assert found["term_recall", "noise_10"].verdict == "FAIL"
    assert found["seed_variance", "greedy"].verdict == "INCONCLUSIVE"


def test_two_seeds_decide_nothing() -> None:
    found = verdicts(arm("b", seeds=2, seed=1, term_recall=0.9), arm("a", seeds=2))
    assert found["term_recall", "noise_10"].verdict == "INCONCLUSIVE"
    assert "2 seeds an arm" in found["term_recall", "noise_10"].note


@pytest.mark.parametrize(
    ("name", "levels"),
    [
        pytest.param("term_recall", {"term_recall": -1.0}, id="a baseline of zero"),
        pytest.param("typo_rate", {"typo_rate": -1.0}, id="a rate of zero"),
        pytest.param("word_noncompliance", {"word_noncompliance": -1.0}, id="nothing to lower"),
    ],
)
def test_a_ratio_to_zero_is_an_error_and_never_a_pass(name: str, levels: dict[str, float]) -> None:
    found = verdicts(arm("b", seed=1), arm("a", **levels))
    assert found[name, "noise_10"].verdict == "ERROR"
    assert "undefined" in found[name, "noise_10"].note


def test_a_metric_that_is_zero_everywhere_is_an_error() -> None:
    zero = arm("a", rouge_l=0.0, spread=0.0)
    found = verdicts(zero, zero)
    assert found["rouge_l", "greedy"].verdict == "ERROR"
    assert found["seed_variance", "greedy"].verdict == "ERROR"


def test_a_candidate_at_the_ceiling_with_every_seed_leaves_its_variance_undecided() -> None:
    best, below = arm("b", seed=1, spread=0.0), arm("b", seed=1, spread=0.0)
    top = [
        tuple(replace(row, kpis={**row.kpis, "rouge_l": 1.0}) for row in run.rows)
        for run in best.runs
    ]
    best = Arm("b", tuple(replace(run, rows=rows) for run, rows in zip(best.runs, top)))
    found = verdicts(best, arm("a", spread=0.02))["seed_variance", "greedy"]
    assert (found.verdict, found.estimate, found.upper) == ("INCONCLUSIVE", 0.0, None)
    assert "no bound" in found.note
    # a variance of 0 anywhere else, or of the baseline, has no such reason
    assert verdicts(below, arm("a"))["seed_variance", "greedy"].verdict == "ERROR"
    assert verdicts(best, best)["seed_variance", "greedy"].verdict == "ERROR"


def test_a_regime_without_answers_decides_nothing() -> None:
    def silent(name: str, seed: int) -> Arm:
        runs = arm(name, seed=seed).runs
        kept = [tuple(r for r in run.rows if r.regime != "heldout_phrasing") for run in runs]
        return Arm(name, tuple(Run(FOLDER, run.config, rows) for run, rows in zip(runs, kept)))

    candidate, baseline = silent("b", 1), silent("a", 0)
    arms.check_comparable(candidate, baseline)
    found = verdicts(candidate, baseline)["rouge_l", "heldout_phrasing"]
    assert found.verdict == "INCONCLUSIVE"
    assert found.note == "no answer defines it"


def test_a_candidate_that_never_converges_is_counted_and_passes_nothing() -> None:
    found = verdicts(arm("b", seed=1, rouge_l=0.5), arm("a"))["convergence_steps", "greedy"]
    assert found.verdict != "PASS"
    assert "not reached by 10 candidate and 0 baseline runs" in found.note


def test_the_verdict_of_all_is_the_worst_and_has_its_exit_code() -> None:
    def of(*words: str) -> acceptance.Acceptance:
        return acceptance.Acceptance(tuple(Verdict("k", "", "", w) for w in words))  # type: ignore[arg-type]

    assert of("PASS", "PASS").exit_code == 0
    assert of("PASS", "INCONCLUSIVE").exit_code == 3
    assert of("INCONCLUSIVE", "FAIL").exit_code == 1
    assert of("FAIL", "ERROR").verdict == "ERROR"
    assert of("ERROR").exit_code == 1
    assert of("PASS").as_dict()["kpis"][0]["name"] == "k"


def test_arms_with_other_seeds_or_prompts_are_refused() -> None:
    few = arm("a", seeds=3)
    with pytest.raises(ValueError, match="expected the same seeds in both arms"):
        arms.check_comparable(arm("b", seeds=2), few)


def test_convergence_is_where_the_curve_stays_above_the_target() -> None:
    def curve(*values: float) -> Run:
        rows = (row("greedy", i, 0, {"rouge_l": v}) for i, v in enumerate(values, 1))
        return Run(FOLDER, CONFIG, tuple(rows))

    assert arms.convergence(curve(0.1, 0.9, 0.9, 0.9, 0.9), 0.85) == (200, True)
    assert arms.convergence(curve(0.9, 0.9, 0.0, 0.9, 0.9, 0.9), 0.85) == (300, True)
    assert arms.convergence(curve(0.1, 0.2, 0.3), 0.85) == (150, False)
    assert arms.convergence(curve(0.9, 0.9, 0.9), 0.85) == (50, True)
