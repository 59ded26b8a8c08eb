"""Paired comparisons of two arms: an estimate with a one-sided 95 % bound on each side.

Both arms answer the same prompts with the same seeds. A draw of the bootstrap resamples seeds and
then prompts, the same ones in both arms. Percentiles are expanded for few seeds (with S seeds the
plain percentile interval is too short by about sqrt((S - 1) / S) and takes z where t belongs).
Randomness is passed in as `rng`. Values in, values out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

LEVEL = 0.95  # one-sided
POWER = 0.80  # for which `seeds_needed` asks
DRAWS = 4000
HEAVY = 9.0  # kurtosis of Student's t with 5 degrees of freedom
_NORMAL = NormalDist()
# Student's t, 0.95 quantile, for 1, 2, .. 30 degrees of freedom
_T95 = (
    6.3138, 2.9200, 2.3534, 2.1318, 2.0150, 1.9432, 1.8946, 1.8595, 1.8331, 1.8125,
    1.7959, 1.7823, 1.7709, 1.7613, 1.7531, 1.7459, 1.7396, 1.7341, 1.7291, 1.7247,
    1.7207, 1.7171, 1.7139, 1.7109, 1.7081, 1.7056, 1.7033, 1.7011, 1.6991, 1.6973,
)  # fmt: skip


@dataclass(frozen=True)
class Bounds:
    """An estimate between two one-sided 95 % bounds.

    Attributes:
      estimate: of the difference or ratio that was asked for.
      lower: below it with a probability of at most 5 %.
      upper: above it with a probability of at most 5 %.
      seeds: how many pairs of runs stand behind it.
      needed: seeds for a power of 80 % at the margin, if the estimate is the truth; None where no
        number helps or none is known.
    """

    estimate: float
    lower: float
    upper: float
    seeds: int
    needed: int | None = None


def t95(freedom: int) -> float:
    """0.95 quantile of Student's t with `freedom` >= 1 degrees of freedom."""
    if freedom <= len(_T95):
        return _T95[freedom - 1]
    z = _NORMAL.inv_cdf(LEVEL)
    second = (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
    return z + (z**3 + z) / (4 * freedom) + second


def expanded_level(seeds: int) -> float:
    """Tail of the percentile interval that acts like 5 %: Phi(-sqrt(S / (S - 1)) t95(S - 1)).

    Source: Hesterberg 2015, What teachers should know about the bootstrap, section 5.3.
    """
    if seeds < 2:
        return 0.0
    return _NORMAL.cdf(-math.sqrt(seeds / (seeds - 1)) * t95(seeds - 1))


def resampled_means(
    values: tuple[Floats, ...], rng: np.random.Generator, draws: int = DRAWS
) -> tuple[Floats, ...]:
    """Means of several matrices under the same resampled seeds and prompts.

    Args:
      values: [S, P] each; a row is a seed, a column a prompt.
      rng: randomness.
      draws: D.

    Returns: [D] each.
    """
    seeds, prompts = values[0].shape
    by_seed = rng.multinomial(seeds, np.full(seeds, 1 / seeds), draws) / seeds
    by_prompt = rng.multinomial(prompts, np.full(prompts, 1 / prompts), draws) / prompts
    return tuple(((by_seed @ matrix) * by_prompt).sum(1) for matrix in values)


def mean_difference(
    candidate: Floats, baseline: Floats, rng: np.random.Generator, draws: int = DRAWS
) -> Bounds:
    """Mean of the candidate minus mean of the baseline, [S, P] each, in the KPI's unit."""
    ours, theirs = resampled_means((candidate, baseline), rng, draws)
    estimate = float(candidate.mean() - baseline.mean())
    return _between(estimate, ours - theirs, len(candidate))


def mean_ratio(
    candidate: Floats, baseline: Floats, rng: np.random.Generator, draws: int = DRAWS
) -> Bounds:
    """Mean of the candidate over mean of the baseline, [S, P] each.

    Raises: ValueError where the baseline's mean is not above 0.
    """
    if not baseline.mean() > 0.0:
        raise ValueError("the baseline's mean is 0; a ratio to it is undefined")
    ours, theirs = resampled_means((candidate, baseline), rng, draws)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.where(theirs > 0.0, ours / theirs, np.inf)
    return _between(float(candidate.mean() / baseline.mean()), ratios, len(candidate))


def variance_ratio(candidate: Floats, baseline: Floats) -> Bounds:
    """Variance across the candidate's seeds over that of the baseline, [S] each, by its logarithm.

    The squared error of each log variance is Bonett's, (kurtosis - (n - 3) / n) / (n - 1), with the
    larger kurtosis of the two arms and at least the normal one, since few seeds show too little of
    it; t takes z's place. By simulation a drop that isn't there passes 3 % of the time with normal
    data, 5 % with a kurtosis of 9 (Student's t, 5 degrees) and up to 7 % with five Laplace seeds.

    Raises: ValueError with fewer than 3 seeds an arm or without any variance in the baseline.
    Source: Bonett 2006, Computational Statistics & Data Analysis 50.
    """
    n, m = len(candidate), len(baseline)
    if min(n, m) < 3:
        raise ValueError(f"{min(n, m)} seeds an arm, expected 3 or more for a variance")
    ours, theirs = float(candidate.var(ddof=1)), float(baseline.var(ddof=1))
    if not theirs > 0.0:
        raise ValueError("the baseline doesn't vary between seeds; a ratio to it is undefined")
    if not ours > 0.0:
        raise ValueError("the candidate doesn't vary between seeds; were they the same?")
    kurtosis = max(3.0, _kurtosis(candidate), _kurtosis(baseline))
    error = math.sqrt(sum((kurtosis - (k - 3) / k) / (k - 1) for k in (n, m)))
    middle, reach = math.log(ours / theirs), t95(n + m - 2) * error
    return Bounds(math.exp(middle), math.exp(middle - reach), math.exp(middle + reach), min(n, m))


def paired_ratio(candidate: Floats, baseline: Floats, resolution: float = 0.0) -> Bounds:
    """Ratio of the means of paired runs by its logarithm, [S] each: convergence, or throughput.

    One number a run leaves a bootstrap nothing but S values to draw from: with 3 seeds it passes a
    ratio at its margin 17 % of the time. The squared error of log(mean c / mean b) is the variance
    of c_s / mean c - b_s / mean b over S (the delta method), and at least what the resolution of
    the figures leaves open; t takes z's place.

    Args:
      candidate: a figure above 0 of each run.
      baseline: likewise.
      resolution: step in which the figures are measured, in their unit.

    Raises: ValueError with fewer than 2 pairs or where a mean is not above 0.
    """
    n, ours, theirs = len(candidate), float(candidate.mean()), float(baseline.mean())
    if n < 2 or not (ours > 0.0 and theirs > 0.0):
        raise ValueError(f"{n} pairs with means {ours:g} and {theirs:g} have no ratio")
    apart = candidate / ours - baseline / theirs
    grid = resolution**2 / 12.0 * (ours**-2 + theirs**-2)  # of two figures rounded to a grid
    error = math.sqrt(max(float(apart.var(ddof=1)), grid) / n)
    middle, reach = math.log(ours / theirs), t95(n - 1) * error
    return Bounds(math.exp(middle), math.exp(middle - reach), math.exp(middle + reach), n)


def variation(values: Floats) -> Bounds:
    """Coefficient of variation of independent rounds, [K], by its logarithm.

    The squared error is a quarter of Bonett's for the variance, and what the mean adds; the
    kurtosis is at least 9, since timings have heavy tails and few rounds hide them. (A bootstrap of
    few rounds sees too little variance: with 5 it passes a coefficient at its margin 33 % of the
    time, with 10 23 %.)

    Raises: ValueError with fewer than 3 rounds or without variance.
    """
    n, mean, spread = len(values), float(values.mean()), float(values.std(ddof=1))
    if n < 3 or not (spread > 0.0 and mean > 0.0):
        raise ValueError(f"{n} rounds with mean {mean:g} and deviation {spread:g} don't vary")
    kurtosis = max(HEAVY, _kurtosis(values))
    error = (kurtosis - (n - 3) / n) / (n - 1) / 4.0 + (spread / mean) ** 2 / n
    middle, reach = math.log(spread / mean), t95(n - 1) * math.sqrt(error)
    return Bounds(math.exp(middle), math.exp(middle - reach), math.exp(middle + reach), n)


def seeds_needed(per_seed: Floats, margin: float) -> int | None:
    """Seeds at which a bound clears `margin` with a power of 80 %, if the mean effect is the truth.

    Args:
      per_seed: effect of each pair of runs, larger is better, [S].
      margin: what the lower bound has to clear, in the same unit.

    Returns: None where the effect is on the wrong side or fewer than 2 seeds are known.
    """
    if len(per_seed) < 2:
        return None
    ahead = float(per_seed.mean()) - margin
    if ahead <= 0.0:
        return None
    reach = (_NORMAL.inv_cdf(LEVEL) + _NORMAL.inv_cdf(POWER)) * float(per_seed.std(ddof=1)) / ahead
    return max(3, math.ceil(reach**2) + 1)


def seeds_for_variance(ratio: float, margin: float) -> int | None:
    """Seeds an arm at which `variance_ratio`'s bound clears `margin`, if `ratio` is the truth.

    Power 80 %, normal data; None where the ratio is not below the margin, or past 10,000 seeds.
    """
    for n in range(3, 10_001) if 0.0 < ratio < margin else ():
        error = math.sqrt(2.0 * (3.0 - (n - 3) / n) / (n - 1))
        if math.log(margin / ratio) >= (t95(2 * n - 2) + _NORMAL.inv_cdf(POWER)) * error:
            return n
    return None


def seeds_for_equivalence(per_seed: Floats, margin: float) -> int | None:
    """Seeds at which both bounds of a difference stay inside +-`margin`; see `seeds_needed`."""
    far = abs(float(per_seed.mean()))
    return seeds_needed(far - per_seed + per_seed.mean(), -margin) if far < margin else None


def _between(estimate: float, draws: Floats, seeds: int) -> Bounds:
    tail = expanded_level(seeds)
    lower, upper = np.quantile(draws, (tail, 1.0 - tail), method="nearest")
    return Bounds(estimate, float(lower), float(upper), seeds)


def _kurtosis(values: Floats) -> float:
    """Kurtosis: n sum (x - m)^4 / (sum (x - mean)^2)^2, m a trimmed mean."""
    n = len(values)
    cut = math.floor(n * min(0.25, 1 / (2 * math.sqrt(n - 4)))) if n > 5 else 0
    middle = np.sort(values)[cut : n - cut].mean()
    return float(n * ((values - middle) ** 4).sum() / ((values - values.mean()) ** 2).sum() ** 2)
