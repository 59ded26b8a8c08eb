"""Goals and differences beside the arms that need no reinforcement learning."""

from __future__ import annotations

from typing import cast

import numpy as np
import pytest

from flexattn.audit.folder import RunFolder
from flexattn.config import Config, load_config
from flexattn.evaluation import beside
from flexattn.evaluation.acceptance import Verdict
from flexattn.evaluation.arms import Arm, Run
from flexattn.evaluation.rows import REGIMES, Row

CONFIG = load_config("configs/medical.yaml")
FOLDER = cast("RunFolder", None)  # nothing here looks into the folder
PROMPTS = 12
BEST = (-3.8, 0.8, -3.9)  # net_lexical, lp_selectivity and the best fixed pair of perfect copying


def arm(name: str, seeds: range, lp: float = 0.7, **levels: float) -> Arm:
    """Runs with a little noise around `levels`; `lp` is the selectivity of every answer."""
    kpis = {"term_recall": 0.6, "rouge_l": 0.8, "word_noncompliance": 0.3, "net_lexical": -3.81}
    kpis |= levels
    runs = []
    for seed in seeds:
        rng = np.random.default_rng([seed, len(name)])
        rows = []
        for regime in REGIMES:
            for p in range(PROMPTS):
                values = {k: v + rng.normal(0.0, 0.004) for k, v in kpis.items()}
                wide = round(100 * lp)
                steps = {"3": 200 - wide, "4": wide}
                rows.append(row(regime, p, values, steps, (100, 300 + wide)))
        config: Config = CONFIG.model_copy(update={"seed": seed})
        runs.append(Run(FOLDER, config, tuple(rows)))
    return Arm(name, tuple(runs))


def row(
    regime: str, p: int, kpis: dict[str, float], caps: dict[str, int], opening: tuple[int, int]
) -> Row:
    return Row(
        regime, 9, f"r{p}", "什么？", "", "", kpis, 2.0, 3.0, {"2": 200}, caps, (0, 0), opening
    )


def pair_values(seeds: range, level: float) -> list[tuple[int, beside.Values]]:
    asked = [(f"r{p}", "什么？") for p in range(PROMPTS)]
    return [(seed, {(2, 3): dict.fromkeys(asked, level)}) for seed in seeds]


def goals(
    candidate: Arm, others: list[Arm], pairs: dict[str, list[tuple[int, beside.Values]]]
) -> dict[tuple[str, str, str], Verdict]:
    found = beside.goals(candidate, others, pairs, BEST, np.random.default_rng(1), 400)
    return {(kpi.name, kpi.regime, "ratio" if "/" in kpi.rule else "apart"): kpi for kpi in found}


def test_what_reaches_every_goal_passes_every_goal() -> None:
    plain = [arm("cloning", range(5), term_recall=0.5), arm("dagger", range(4), term_recall=0.52)]
    found = goals(arm("flex", range(5)), plain, {"cloning": pair_values(range(5), -3.9)})
    assert {kpi.verdict for kpi in found.values()} == {"PASS"}
    assert found["lp_selectivity", "greedy", "ratio"].estimate == pytest.approx(0.875)
    assert found["net_lexical_share", "greedy", "ratio"].estimate == pytest.approx(0.9, abs=0.02)


def test_the_hardest_of_the_other_arms_is_the_one_that_is_shown() -> None:
    plain = [arm("cloning", range(5), term_recall=0.5), arm("noise", range(5), term_recall=0.63)]
    found = goals(arm("flex", range(5)), plain, {"cloning": pair_values(range(5), -3.8)})
    lost = found["term_recall", "noise_3", "apart"]
    assert lost.verdict == "FAIL"
    assert "noise" in lost.rule
    assert found["term_recall", "noise_10", "ratio"].verdict == "FAIL"
    assert found["net_lexical", "greedy", "apart"].verdict == "FAIL"
    assert "Lh 2, Lp 3" in found["net_lexical", "greedy", "apart"].rule


def test_only_common_seeds_are_compared_and_two_decide_nothing() -> None:
    found = goals(arm("flex", range(5)), [arm("cloning", range(3, 8), term_recall=0.4)], {})
    assert found["term_recall", "noise_3", "apart"].verdict == "INCONCLUSIVE"
    assert found["term_recall", "noise_3", "apart"].seeds == 2
    assert found["net_lexical", "greedy", "apart"].note == "no such arm was given"
    none = goals(arm("flex", range(3)), [arm("cloning", range(7, 9))], {})
    assert none["term_recall", "top_p", "apart"].note == "no common seed"


def test_a_domain_without_anything_to_adapt_to_decides_nothing() -> None:
    rng = np.random.default_rng(1)
    found = beside.goals(arm("flex", range(3)), [], {}, (-3.9, 0.0, -3.9), rng, 400)
    assert [kpi.verdict for kpi in found[-2:]] == ["INCONCLUSIVE"] * 2


def test_differences_are_over_common_seeds_and_prompts() -> None:
    candidate, other = arm("flex", range(5)), arm("cloning", range(2, 9), term_recall=0.5)
    found = beside.differences(candidate, [other], np.random.default_rng(1), 400)
    one = next(d for d in found if (d.name, d.regime) == ("term_recall", "noise_10"))
    assert one.bounds.seeds == 3
    assert one.prompts == PROMPTS
    assert one.bounds.estimate == pytest.approx(0.1, abs=0.01)
    assert one.bounds.lower <= one.bounds.estimate <= one.bounds.upper
