"""A candidate is accepted when every KPI's bound clears its margin; points accept nothing.

PASS: the bound clears the margin. FAIL: the opposite bound shows that it is missed. INCONCLUSIVE:
neither, or nothing was measured. ERROR: the figures have no meaning (an all-zero metric, a baseline
of zero). All KPIs must pass, so no correction for multiplicity is needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from flexattn.evaluation import compare
from flexattn.evaluation.arms import REACHED, Arm, convergence, smoothed
from flexattn.evaluation.compare import Bounds
from flexattn.evaluation.rows import REGIMES
from flexattn.evaluation.throughput import Rounds

Floats = npt.NDArray[np.float64]
Word = Literal["PASS", "FAIL", "INCONCLUSIVE", "ERROR"]

SCHEMA = "flexattn.report/1"
EXIT_CODES = {"PASS": 0, "FAIL": 1, "ERROR": 1, "INCONCLUSIVE": 3}
MIN_SEEDS = 3  # fewer runs an arm show no spread between seeds
NOT_BELOW = 0.01  # margin of non-inferiority, a share
DRIFT = 0.05  # margin of equivalence between greedy and top-p, a share
STEADY = 0.15  # largest coefficient of variation of the throughput
OVERHEAD = 0.05  # largest share of the throughput that the log may cost
MIN_ROUNDS = 5  # of a throughput comparison
NOISE = "noise_10"
DRIFTING = ("term_recall", "rouge_l", "word_noncompliance", "typo_rate")


@dataclass(frozen=True)
class Verdict:
    """What came of one KPI.

    Attributes:
      name: the KPI.
      regime: where it was measured; "" where that means nothing.
      rule: what is asked, in words.
      verdict: PASS, FAIL, INCONCLUSIVE or ERROR.
      estimate: of the ratio or difference that the rule is about.
      lower: one-sided 95 % bound.
      upper: one-sided 95 % bound.
      margin: what a bound has to clear.
      baseline: the baseline's mean.
      candidate: the candidate's mean.
      seeds: pairs of runs.
      prompts: answers a run.
      needed: seeds for a power of 80 % if the estimate is the truth; None: unknown or no number.
      note: what else a reader should know.
    """

    name: str
    regime: str
    rule: str
    verdict: Word
    estimate: float | None = None
    lower: float | None = None
    upper: float | None = None
    margin: float | None = None
    baseline: float | None = None
    candidate: float | None = None
    seeds: int = 0
    prompts: int = 0
    needed: int | None = None
    note: str = ""


@dataclass(frozen=True)
class Acceptance:
    """All verdicts, and the one that follows."""

    kpis: tuple[Verdict, ...]

    @property
    def verdict(self) -> Word:
        """ERROR before FAIL before INCONCLUSIVE before PASS."""
        found = {kpi.verdict for kpi in self.kpis}
        order: tuple[Word, ...] = ("ERROR", "FAIL", "INCONCLUSIVE")
        return next((word for word in order if word in found), "PASS")

    @property
    def exit_code(self) -> int:
        """0 accepted, 1 rejected, 3 inconclusive."""
        return EXIT_CODES[self.verdict]

    def as_dict(self) -> dict[str, Any]:
        """The report's JSON."""
        return {
            "schema": SCHEMA,
            "verdict": self.verdict,
            "kpis": [asdict(kpi) for kpi in self.kpis],
        }


def judge(
    candidate: Arm,
    baseline: Arm,
    rng: np.random.Generator,
    draws: int = compare.DRAWS,
    rounds: Rounds | None = None,
) -> Acceptance:
    """Compare two arms that `arms.check_comparable` lets pass.

    Args:
      candidate: what shall go online.
      baseline: what there was.
      rng: of the bootstrap.
      draws: of the bootstrap.
      rounds: throughput measured in turns, if it was.
    """

    def ratio(name: str, at_least: float | None, at_most: float | None, rule: str) -> Verdict:
        return _ratio(candidate, baseline, name, NOISE, at_least, at_most, rule, rng, draws)

    kpis = [
        ratio("term_recall", 1.10, None, "candidate / baseline >= 1.10"),
        ratio("word_noncompliance", None, 0.70, "candidate / baseline <= 0.70"),
        ratio("typo_rate", None, 1.0, "candidate / baseline < 1"),
    ]
    for name in ("rouge_l", "bert_score"):
        found = [_not_below(candidate, baseline, name, regime, rng, draws) for regime in REGIMES]
        # a metric that no run computed is one gap, not one for each regime
        kpis += found if any(kpi.prompts for kpi in found) else [_with(found[0], regime="")]
    kpis += [
        _convergence(candidate, baseline),
        _variance(candidate, baseline),
        *(_drift(candidate, name, rng, draws) for name in DRIFTING),
    ]
    measured = rounds or Rounds({}, {})
    kpis += [
        _throughput(measured),
        _steadiness(measured),
        _overhead(measured),
    ]
    return Acceptance(tuple(kpis))


# ---- rules -----------------------------------------------------------------------------


def _ratio(
    candidate: Arm, baseline: Arm, name: str, regime: str, at_least: float | None,
    at_most: float | None, rule: str, rng: np.random.Generator, draws: int,
) -> Verdict:  # fmt: skip
    margin = at_least if at_least is not None else at_most
    ours, theirs = _matrices(candidate, baseline, name, regime)
    verdict = opened(name, regime, rule, margin, ours, theirs)
    if verdict.verdict == "ERROR" or margin is None or not ours.size:
        return verdict
    if not theirs.mean() > 0.0:
        return _with(verdict, "ERROR", note="the baseline is 0; a ratio to it is undefined")
    bounds = compare.mean_ratio(ours, theirs, rng, draws)
    per_seed = ours.mean(1) / np.maximum(theirs.mean(1), 1e-12)
    if at_least is not None:
        needed = compare.seeds_needed(per_seed, margin)
        return decided(verdict, bounds, bounds.lower >= margin, bounds.upper < margin, needed)
    needed = compare.seeds_needed(-per_seed, -margin)
    good = bounds.upper <= margin if margin < 1.0 else bounds.upper < margin
    return decided(verdict, bounds, good, bounds.lower > margin, needed)


def _not_below(
    candidate: Arm, baseline: Arm, name: str, regime: str, rng: np.random.Generator, draws: int
) -> Verdict:
    rule = f"candidate - baseline >= -{NOT_BELOW}"
    ours, theirs = _matrices(candidate, baseline, name, regime)
    verdict = opened(name, regime, rule, -NOT_BELOW, ours, theirs)
    if verdict.verdict == "ERROR" or not ours.size:
        return verdict
    if not ours.any() and not theirs.any():
        return _with(verdict, "ERROR", note="0 everywhere in both arms; was the metric computed?")
    bounds = compare.mean_difference(ours, theirs, rng, draws)
    needed = compare.seeds_needed((ours - theirs).mean(1), -NOT_BELOW)
    return decided(verdict, bounds, bounds.lower >= -NOT_BELOW, bounds.upper < -NOT_BELOW, needed)


def _drift(candidate: Arm, name: str, rng: np.random.Generator, draws: int) -> Verdict:
    """Whether online top-p and greedy agree for the candidate; prompts that both regimes asked."""
    rule = f"|top_p - greedy| <= {DRIFT}"
    asked = set(candidate.prompts("greedy"))
    prompts = [prompt for prompt in candidate.prompts("top_p") if prompt in asked]
    online, greedy = defined(
        candidate.matrix(name, "top_p", prompts), candidate.matrix(name, "greedy", prompts)
    )
    verdict = opened(f"drift_{name}", "top_p", rule, DRIFT, online, greedy)
    if verdict.verdict == "ERROR" or not online.size:
        return verdict
    bounds = compare.mean_difference(online, greedy, rng, draws)
    good = bounds.lower >= -DRIFT and bounds.upper <= DRIFT
    needed = compare.seeds_for_equivalence((online - greedy).mean(1), DRIFT)
    return decided(verdict, bounds, good, bounds.upper < -DRIFT or bounds.lower > DRIFT, needed)


def _convergence(candidate: Arm, baseline: Arm) -> Verdict:
    rule = "candidate / baseline <= 0.85, characters to 90 % of the baseline's final ROUGE-L"
    blank = Verdict("convergence_steps", "greedy", rule, "ERROR", margin=0.85)
    finals = [smoothed(run.curve("rouge_l"))[-1:] for run in baseline.runs]
    if not all(finals) or not all(run.curve("rouge_l") for run in candidate.runs):
        return _with(blank, "ERROR", note="a run has no greedy evaluation")
    target = REACHED * float(np.mean([final[0][1] for final in finals]))
    ours, theirs = ([convergence(run, target) for run in arm.runs] for arm in (candidate, baseline))
    steps = [np.array([float(characters) for characters, _ in arm]) for arm in (ours, theirs)]
    censored = [sum(not reached for _, reached in arm) for arm in (ours, theirs)]
    blank = opened("convergence_steps", "greedy", rule, 0.85, steps[0][:, None], steps[1][:, None])
    blank = _with(
        blank,
        note=f"target ROUGE-L {target:.3f}; not reached by {censored[0]} candidate and "
             f"{censored[1]} baseline runs",
    )  # fmt: skip
    if blank.verdict == "ERROR":
        return blank
    if not steps[1].mean() > 0.0:
        return _with(blank, "ERROR", note="rows carry no count of trained characters")
    if len(steps[0]) < 2:
        return _with(blank, note=f"1 seed, expected {MIN_SEEDS} or more")
    bounds = compare.paired_ratio(steps[0], steps[1], _evaluated_every((candidate, baseline)))
    needed = compare.seeds_needed(-steps[0] / np.maximum(steps[1], 1.0), -0.85)
    # a censored candidate run would have needed longer than it is counted, so it proves nothing
    good = bounds.upper <= 0.85 and censored[0] == 0
    return decided(blank, bounds, good, bounds.lower > 0.85 and censored[1] == 0, needed)


def _evaluated_every(both: tuple[Arm, Arm]) -> float:
    """Characters between two evaluations, the most of any run: how fine a convergence is seen."""
    curves = [[at for at, _ in run.curve("rouge_l")] for arm in both for run in arm.runs]
    return float(max((b - a for curve in curves for a, b in pairwise(curve)), default=0))


def _variance(candidate: Arm, baseline: Arm) -> Verdict:
    rule = "candidate / baseline <= 0.80, variance of the final ROUGE-L between seeds"
    ours, theirs = _matrices(candidate, baseline, "rouge_l", "greedy")
    verdict = opened("seed_variance", "greedy", rule, 0.80, ours, theirs)
    if verdict.verdict == "ERROR" or not ours.size or verdict.seeds < MIN_SEEDS:
        return verdict
    ours, theirs = ours.mean(1), theirs.mean(1)
    if (ours == 1.0).all() and theirs.var(ddof=1) > 0.0:
        # a logarithm of 0 has no bound; a run that fails now and then may not be among these
        return _with(
            verdict, baseline=float(theirs.var(ddof=1)), candidate=0.0, estimate=0.0,
            note="every run of the candidate has ROUGE-L 1, so no bound can be given",
        )  # fmt: skip
    try:
        bounds = compare.variance_ratio(ours, theirs)
    except ValueError as error:
        return _with(verdict, "ERROR", note=str(error))
    verdict = _with(verdict, baseline=float(theirs.var(ddof=1)), candidate=float(ours.var(ddof=1)))
    needed = compare.seeds_for_variance(bounds.estimate, 0.80)
    return decided(verdict, bounds, bounds.upper <= 0.80, bounds.lower > 0.80, needed)


def _throughput(rounds: Rounds) -> Verdict:
    sides = rounds.train
    verdict = _timed("tokens_per_s", "candidate / baseline >= 0.90", 0.90, sides, "baseline")
    if not verdict.seeds:
        return verdict
    bounds = compare.paired_ratio(sides["candidate"], sides["baseline"])
    if "control" in sides:
        same = compare.paired_ratio(sides["control"], sides["baseline"])
        note = f"the baseline against itself: {same.lower:.3f} .. {same.upper:.3f}"
        verdict = _with(verdict, note=note)
    needed = compare.seeds_needed(sides["candidate"] / sides["baseline"], 0.90)
    return decided(verdict, bounds, bounds.lower >= 0.90, bounds.upper < 0.90, needed)


def _steadiness(rounds: Rounds) -> Verdict:
    rule = f"coefficient of variation of the candidate's rounds <= {STEADY}"
    verdict = _timed("throughput_cv", rule, STEADY, rounds.train, "candidate")
    if not verdict.seeds:
        return verdict
    try:
        bounds = compare.variation(rounds.train["candidate"])
    except ValueError as error:
        return _with(verdict, "ERROR", note=str(error))
    return decided(verdict, bounds, bounds.upper <= STEADY, bounds.lower > STEADY, None)


def _overhead(rounds: Rounds) -> Verdict:
    rule = f"1 - with log / without log <= {OVERHEAD}"
    sides = {"candidate": rounds.log.get("with"), "baseline": rounds.log.get("without")}
    known = {name: values for name, values in sides.items() if values is not None}
    verdict = _timed("log_overhead", rule, OVERHEAD, known, "baseline")
    if not verdict.seeds:
        return verdict
    ratio = compare.paired_ratio(known["candidate"], known["baseline"])
    bounds = Bounds(1 - ratio.estimate, 1 - ratio.upper, 1 - ratio.lower, ratio.seeds)
    needed = compare.seeds_needed(known["candidate"] / known["baseline"], 1.0 - OVERHEAD)
    return decided(verdict, bounds, bounds.upper <= OVERHEAD, bounds.lower > OVERHEAD, needed)


def _timed(name: str, rule: str, margin: float, sides: Mapping[str, Floats], other: str) -> Verdict:
    """A verdict over rounds; it has none where a side is missing or there are too few."""
    blank = Verdict(name, "", rule, "INCONCLUSIVE", margin=margin)
    if not {"candidate", other} <= sides.keys():
        return _with(blank, note="not measured; give --bench")
    count = len(sides["candidate"])
    if count < MIN_ROUNDS:
        return _with(blank, note=f"{count} rounds, expected {MIN_ROUNDS} or more")
    return _with(
        blank, seeds=count, prompts=1,
        candidate=float(sides["candidate"].mean()), baseline=float(sides[other].mean()),
    )  # fmt: skip


# ---- parts -----------------------------------------------------------------------------


def _matrices(candidate: Arm, baseline: Arm, name: str, regime: str) -> tuple[Floats, Floats]:
    prompts = baseline.prompts(regime)
    return defined(candidate.matrix(name, regime, prompts), baseline.matrix(name, regime, prompts))


def defined(ours: Floats, theirs: Floats) -> tuple[Floats, Floats]:
    """Prompts whose answer defines the KPI in every run of both arms."""
    known = ~(np.isnan(ours).any(0) | np.isnan(theirs).any(0))
    return ours[:, known], theirs[:, known]


def opened(
    name: str, regime: str, rule: str, margin: float | None, ours: Floats, theirs: Floats
) -> Verdict:
    """A verdict before the statistics: INCONCLUSIVE without data, ERROR where it has no meaning."""
    if not ours.size:
        note = "no answer defines it"
        if name == "bert_score":
            note = "not computed: no model was given"
        return Verdict(name, regime, rule, "INCONCLUSIVE", margin=margin, note=note)
    verdict = Verdict(
        name, regime, rule, "INCONCLUSIVE", margin=margin, baseline=float(theirs.mean()),
        candidate=float(ours.mean()), seeds=ours.shape[0], prompts=ours.shape[1],
    )  # fmt: skip
    if not (np.isfinite(ours).all() and np.isfinite(theirs).all()):
        return _with(verdict, "ERROR", note="a value is not finite")
    if verdict.seeds < MIN_SEEDS:
        note = f"{verdict.seeds} seeds an arm, expected {MIN_SEEDS} or more for a verdict"
        return _with(verdict, "INCONCLUSIVE", note=note)
    return verdict


def decided(verdict: Verdict, bounds: Bounds, good: bool, bad: bool, needed: int | None) -> Verdict:
    """The verdict with its bounds: PASS where `good`, FAIL where `bad`, else INCONCLUSIVE."""
    few = verdict.seeds < MIN_SEEDS
    word: Word = "INCONCLUSIVE" if few or not (good or bad) else "PASS" if good else "FAIL"
    if word != "INCONCLUSIVE" or needed is None:
        needed = None
    else:
        needed = max(needed, verdict.seeds + 1)  # these seeds did not decide it
    return _with(
        verdict, word,
        estimate=bounds.estimate, lower=bounds.lower, upper=bounds.upper, needed=needed,
    )  # fmt: skip


def _with(verdict: Verdict, word: Word | None = None, **changes: Any) -> Verdict:
    return replace(verdict, verdict=word or verdict.verdict, **changes)
