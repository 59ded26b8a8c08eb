"""A newer stage may not be worse than the older one by more than a margin, in any guard KPI.

    PASS          the lower bound of newer - older is -margin or more (of a rate: older - newer)
    FAIL          its upper bound is below -margin
    INCONCLUSIVE  neither, or too little was measured;   ERROR  the figures have no meaning

A report's runs are compared pair by pair, as `acceptance` does; served answers are compared group
by group, since each request was answered by one stage alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from flexattn.evaluation import compare
from flexattn.evaluation.acceptance import MIN_SEEDS, Acceptance, Verdict, Word
from flexattn.evaluation.arms import Arm
from flexattn.evaluation.compare import Bounds

Floats = npt.NDArray[np.float64]

REGIMES = ("greedy", "top_p")  # as it is served
LESS_IS_BETTER = ("word_noncompliance", "typo_rate")
SERVED_LEVEL = 0.99  # one-sided, of a look at served answers: there are many looks
_Z = NormalDist().inv_cdf(SERVED_LEVEL)


def judge_runs(
    newer: Arm,
    older: Arm,
    guards: Sequence[str],
    margin: float,
    rng: np.random.Generator,
    draws: int = compare.DRAWS,
) -> Acceptance:
    """Compare the finished runs of two stages that `arms.check_comparable` lets pass.

    Args:
      newer: what shall go online.
      older: what is.
      guards: KPIs.
      margin: in the KPI's unit.
      rng: of the bootstrap.
      draws: of the bootstrap.
    """
    return Acceptance(
        tuple(
            _runs(newer, older, name, regime, margin, rng, draws)
            for name in guards
            for regime in REGIMES
        )
    )


def judge_served(
    newer: Mapping[str, Floats],
    older: Mapping[str, Floats],
    guards: Sequence[str],
    margin: float,
    least: int,
) -> Acceptance:
    """Compare answers that were served, each by one stage alone.

    Args:
      newer: KPI -> values of the newer stage's answers, [n].
      older: the same of the older stage's, [m].
      guards: KPIs.
      margin: in the KPI's unit.
      least: answers that each stage must have.
    """
    empty = np.zeros(0)
    return Acceptance(
        tuple(
            _served(newer.get(name, empty), older.get(name, empty), name, margin, least)
            for name in guards
        )
    )


def _runs(
    newer: Arm, older: Arm, name: str, regime: str, margin: float, rng: np.random.Generator,
    draws: int,
) -> Verdict:  # fmt: skip
    prompts = older.prompts(regime)
    ours, theirs = (arm.matrix(name, regime, prompts) for arm in (newer, older))
    known = ~(np.isnan(ours).any(0) | np.isnan(theirs).any(0))
    ours, theirs = ours[:, known], theirs[:, known]
    blank = _blank(name, regime, margin)
    if not ours.size:
        return replace(blank, note="no answer defines it")
    blank = replace(
        blank, baseline=float(theirs.mean()), candidate=float(ours.mean()),
        seeds=ours.shape[0], prompts=ours.shape[1],
    )  # fmt: skip
    if ours.shape[0] < MIN_SEEDS:
        note = f"{ours.shape[0]} seeds a stage, expected {MIN_SEEDS} or more for a verdict"
        return replace(blank, note=note)
    if _meaningless(ours, theirs, name):
        return replace(blank, verdict="ERROR", note="0 everywhere; was it computed?")
    sign = -1.0 if name in LESS_IS_BETTER else 1.0
    return _decided(blank, compare.mean_difference(sign * ours, sign * theirs, rng, draws), margin)


def _served(newer: Floats, older: Floats, name: str, margin: float, least: int) -> Verdict:
    blank = _blank(name, "served", margin)
    n, m = len(newer), len(older)
    if min(n, m) < max(2, least):
        return replace(blank, prompts=min(n, m), note=f"{n} and {m} answers, expected {least}")
    blank = replace(
        blank, baseline=float(older.mean()), candidate=float(newer.mean()), seeds=1,
        prompts=min(n, m),
    )  # fmt: skip
    if not (np.isfinite(newer).all() and np.isfinite(older).all()):
        return replace(blank, verdict="ERROR", note="a value is not finite")
    if _meaningless(newer, older, name):
        return replace(blank, verdict="ERROR", note="0 everywhere; was it computed?")
    sign = -1.0 if name in LESS_IS_BETTER else 1.0
    estimate = sign * float(newer.mean() - older.mean())
    # two groups of answers, their errors independent (Welch)
    reach = _Z * math.sqrt(newer.var(ddof=1) / n + older.var(ddof=1) / m)
    return _decided(blank, Bounds(estimate, estimate - reach, estimate + reach, 1), margin)


def _blank(name: str, regime: str, margin: float) -> Verdict:
    sides = "older - newer" if name in LESS_IS_BETTER else "newer - older"
    return Verdict(name, regime, f"{sides} >= -{margin}", "INCONCLUSIVE", margin=-margin)


def _meaningless(ours: Floats, theirs: Floats, name: str) -> bool:
    """A metric that is 0 everywhere was not computed; a rate of defects may be 0."""
    return name not in LESS_IS_BETTER and not ours.any() and not theirs.any()


def _decided(verdict: Verdict, bounds: Bounds, margin: float) -> Verdict:
    word: Word = "INCONCLUSIVE"
    if bounds.lower >= -margin:
        word = "PASS"
    elif bounds.upper < -margin:
        word = "FAIL"
    return replace(
        verdict, verdict=word, estimate=bounds.estimate, lower=bounds.lower, upper=bounds.upper
    )
