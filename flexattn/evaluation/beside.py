"""The candidate beside the arms that need no reinforcement learning: differences, and goals.

A goal is judged like a KPI, by a bound and never by a point, but it decides no acceptance: a
candidate may be accepted against the baseline and still lose to plain cloning, and the report says
so. Seeds that only one of two arms has are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from flexattn.evaluation import compare
from flexattn.evaluation.acceptance import NOT_BELOW, Verdict, decided, defined, opened
from flexattn.evaluation.arms import Arm, Prompt
from flexattn.evaluation.compare import Bounds
from flexattn.evaluation.rows import summary

Floats = npt.NDArray[np.float64]
Pair = tuple[int, int]
Values = Mapping[Pair, Mapping[Prompt, float]]  # of one run

SHOWN = (
    ("term_recall", "greedy"), ("term_recall", "top_p"), ("term_recall", "noise_3"),
    ("term_recall", "noise_10"), ("term_recall", "heldout_term"), ("rouge_l", "noise_10"),
    ("word_noncompliance", "noise_10"), ("net_lexical", "greedy"),
)  # fmt: skip
NOT_WORSE = ("noise_3", "top_p", "heldout_term")  # regimes of term_recall
BETTER = ("noise_10", "heldout_term")
AHEAD = 1.10  # of the best other arm, in one of BETTER
SHARE = 0.80  # of the optimum


@dataclass(frozen=True)
class Difference:
    """Candidate minus another arm in one KPI and regime.

    Attributes:
      arm: the other one.
      name: the KPI.
      regime: where it was measured.
      candidate: its mean over the common seeds.
      other: the other's.
      bounds: of the difference, one-sided 95 % each.
      prompts: answers a run.
    """

    arm: str
    name: str
    regime: str
    candidate: float
    other: float
    bounds: Bounds
    prompts: int


def differences(
    candidate: Arm, others: Sequence[Arm], rng: np.random.Generator, draws: int
) -> list[Difference]:
    """Every KPI of SHOWN against every arm that answers the same prompts with a common seed."""
    found = []
    for other in others:
        ours, theirs = common_seeds(candidate, other)
        for name, regime in SHOWN if ours.runs else ():
            left, right = _matrices(ours, theirs, name, regime)
            if left.size:
                bounds = compare.mean_difference(left, right, rng, draws)
                means = float(left.mean()), float(right.mean())
                found.append(Difference(other.name, name, regime, *means, bounds, left.shape[1]))
    return found


def goals(
    candidate: Arm,
    others: Sequence[Arm],
    pairs: Mapping[str, Sequence[tuple[int, Values]]],
    optimum: tuple[float | None, float | None, float | None],
    rng: np.random.Generator,
    draws: int,
) -> list[Verdict]:
    """What reinforcement learning is asked to be worth.

    Args:
      candidate: the arm with reinforcement learning.
      others: arms without it.
      pairs: arm -> for each of its runs, seed and net_lexical by fixed pair and prompt.
      optimum: best net_lexical, its lp_selectivity and the best fixed pair's net_lexical, while
        the references are copied.
      rng: of the bootstrap.
      draws: of the bootstrap.
    """
    made = [
        _hardest(
            [_not_worse(candidate, other, regime, rng, draws) for other in others],
            "term_recall", regime, f"candidate - best other arm >= -{NOT_BELOW}",
        )
        for regime in NOT_WORSE
    ]  # fmt: skip
    ahead = [
        _hardest(
            [_ahead(candidate, other, regime, rng, draws) for other in others],
            "term_recall", regime, f"candidate / best other arm >= {AHEAD}, here or there",
        )
        for regime in BETTER
    ]  # fmt: skip
    best, selectivity, fixed = optimum
    return [
        *made,
        *ahead,
        _hardest(
            [
                _above_pair(candidate, name, pair, runs, rng, draws)
                for name, runs in pairs.items()
                for pair in (runs[0][1] if runs else ())
            ],
            "net_lexical", "greedy", "candidate - every fixed pair > 0",
        ),
        _gap(candidate, best, fixed, rng, draws),
        _selective(candidate, selectivity, rng, draws),
    ]  # fmt: skip


def common_seeds(one: Arm, two: Arm) -> tuple[Arm, Arm]:
    """Both arms, with the runs of their common seeds alone."""
    common = set(one.seeds) & set(two.seeds)
    return tuple(  # type: ignore[return-value]
        Arm(arm.name, tuple(run for run in arm.runs if run.config.seed in common))
        for arm in (one, two)
    )


def _matrices(ours: Arm, theirs: Arm, name: str, regime: str) -> tuple[Floats, Floats]:
    asked = set(theirs.prompts(regime))
    prompts = [prompt for prompt in ours.prompts(regime) if prompt in asked]
    return defined(ours.matrix(name, regime, prompts), theirs.matrix(name, regime, prompts))


def _not_worse(
    candidate: Arm, other: Arm, regime: str, rng: np.random.Generator, draws: int
) -> Verdict:
    ours, theirs = common_seeds(candidate, other)
    rule = f"candidate - {other.name} >= -{NOT_BELOW}"
    if not ours.runs:
        return Verdict("term_recall", regime, rule, "INCONCLUSIVE", note="no common seed")
    left, right = _matrices(ours, theirs, "term_recall", regime)
    blank = opened("term_recall", regime, rule, -NOT_BELOW, left, right)
    if blank.verdict == "ERROR" or not left.size:
        return blank
    bounds = compare.mean_difference(left, right, rng, draws)
    needed = compare.seeds_needed((left - right).mean(1), -NOT_BELOW)
    return decided(blank, bounds, bounds.lower >= -NOT_BELOW, bounds.upper < -NOT_BELOW, needed)


def _ahead(
    candidate: Arm, other: Arm, regime: str, rng: np.random.Generator, draws: int
) -> Verdict:
    ours, theirs = common_seeds(candidate, other)
    rule = f"candidate / {other.name} >= {AHEAD}"
    if not ours.runs:
        return Verdict("term_recall", regime, rule, "INCONCLUSIVE", note="no common seed")
    left, right = _matrices(ours, theirs, "term_recall", regime)
    blank = opened("term_recall", regime, rule, AHEAD, left, right)
    if blank.verdict == "ERROR" or not left.size or not right.mean() > 0.0:
        return blank
    bounds = compare.mean_ratio(left, right, rng, draws)
    needed = compare.seeds_needed(left.mean(1) / np.maximum(right.mean(1), 1e-12), AHEAD)
    return decided(blank, bounds, bounds.lower >= AHEAD, bounds.upper < AHEAD, needed)


def _above_pair(
    candidate: Arm,
    name: str,
    pair: Pair,
    runs: Sequence[tuple[int, Values]],
    rng: np.random.Generator,
    draws: int,
) -> Verdict:
    rule = f"candidate - {name} under Lh {pair[0]}, Lp {pair[1]} > 0"
    by_seed = {seed: values[pair] for seed, values in runs}
    ours = Arm("", tuple(run for run in candidate.runs if run.config.seed in by_seed))
    if not ours.runs:
        return Verdict("net_lexical", "greedy", rule, "INCONCLUSIVE", note="no common seed")
    prompts = [
        prompt
        for prompt in ours.prompts("greedy")
        if all(prompt in by_seed[seed] for seed in ours.seeds)
    ]
    left = ours.matrix("net_lexical", "greedy", prompts)
    right = np.array([[by_seed[seed][prompt] for prompt in prompts] for seed in ours.seeds])
    blank = opened("net_lexical", "greedy", rule, 0.0, left, right)
    if blank.verdict == "ERROR" or not left.size:
        return blank
    bounds = compare.mean_difference(left, right, rng, draws)
    needed = compare.seeds_needed((left - right).mean(1), 0.0)
    return decided(blank, bounds, bounds.lower > 0.0, bounds.upper < 0.0, needed)


def _gap(
    candidate: Arm,
    best: float | None,
    fixed: float | None,
    rng: np.random.Generator,
    draws: int,
) -> Verdict:
    """Both ends are negative, so a share of the optimum alone would say nothing."""
    rule = f"(candidate - best fixed pair) / (optimum - best fixed pair) >= {SHARE}, copying"
    if best is None or fixed is None or not best > fixed:
        note = "a fixed pair is the optimum; there is nothing to adapt to"
        return Verdict("net_lexical_share", "greedy", rule, "INCONCLUSIVE", note=note)
    low, reach = fixed, best - fixed
    return _share(
        candidate, "net_lexical_share", rule,
        lambda found: (found - low) / reach, "net_lexical", 1.0, rng, draws,
    )  # fmt: skip


def _selective(
    candidate: Arm, optimum: float | None, rng: np.random.Generator, draws: int
) -> Verdict:
    rule = f"candidate / optimum >= {SHARE}"
    if not optimum:
        note = "the optimum selects nothing"
        return Verdict("lp_selectivity", "greedy", rule, "INCONCLUSIVE", note=note)
    whole = optimum
    return _share(
        candidate, "lp_selectivity", rule, lambda found: found / whole, "lp_selectivity", 1.0, rng,
        draws,
    )  # fmt: skip


def _share(
    candidate: Arm,
    name: str,
    rule: str,
    share: Callable[[float], float],
    kpi: str,
    whole: float,
    rng: np.random.Generator,
    draws: int,
) -> Verdict:
    """A figure of each whole run as a share of what is possible."""
    found = [summary(list(run.final("greedy").values()))[kpi] for run in candidate.runs]
    shares = np.array([[share(value)] for value in found if value is not None])
    if len(shares) < len(found):
        note = "a run doesn't define it"
        return Verdict(name, "greedy", rule, "INCONCLUSIVE", margin=SHARE, note=note)
    everything = np.full_like(shares, whole)
    blank = opened(name, "greedy", rule, SHARE, shares, everything)
    if blank.verdict == "ERROR" or not shares.size:
        return blank
    bounds = compare.mean_difference(shares, np.zeros_like(shares), rng, draws)
    needed = compare.seeds_needed(shares[:, 0], SHARE)
    return decided(blank, bounds, bounds.lower >= SHARE, bounds.upper < SHARE, needed)


def _hardest(found: Sequence[Verdict], name: str, regime: str, rule: str) -> Verdict:
    """The verdict of all is the worst one; of equals, the one whose bound is closest."""
    if not found:
        return Verdict(name, regime, rule, "INCONCLUSIVE", note="no such arm was given")
    order = ("ERROR", "FAIL", "INCONCLUSIVE", "PASS")
    return min(
        found,
        key=lambda kpi: (
            order.index(kpi.verdict), kpi.lower if kpi.lower is not None else -np.inf
        ),
    )  # fmt: skip
