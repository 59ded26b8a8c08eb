"""The bounds are judged by simulation: what they promise, how often they keep it."""

from __future__ import annotations

import numpy as np
import pytest

from flexattn.evaluation import compare
from flexattn.evaluation.compare import Floats

TRIALS = 400
DRAWS = 500
# a share of 5 % seen in 400 trials stays below this with a probability of 97.5 %
ALLOWED = 0.05 + 1.96 * (0.05 * 0.95 / TRIALS) ** 0.5


def arms(
    rng: np.random.Generator, seeds: int, ratio: float, prompts: int = 30
) -> tuple[Floats, Floats]:
    """Two arms with common prompts; the candidate's expected value is `ratio` times the other's."""
    prompt = rng.gamma(4.0, 0.25, prompts)
    means = [(1.0, rng.normal(1.0, 0.06, (seeds, 1))), (ratio, rng.normal(1.0, 0.06, (seeds, 1)))]
    baseline, candidate = (
        level * seed * prompt + rng.normal(0.0, 0.2, (seeds, prompts)) for level, seed in means
    )
    return candidate, baseline


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_a_ratio_at_its_margin_passes_at_most_one_time_in_twenty(seeds: int) -> None:
    rng = np.random.default_rng(seeds)
    passed = 0
    for _ in range(TRIALS):
        candidate, baseline = arms(rng, seeds, 1.10)
        passed += compare.mean_ratio(candidate, baseline, rng, DRAWS).lower >= 1.10
    assert passed / TRIALS <= ALLOWED


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_a_difference_at_its_margin_passes_at_most_one_time_in_twenty(seeds: int) -> None:
    rng = np.random.default_rng(10 + seeds)
    low = high = 0
    for _ in range(TRIALS):
        bounds = compare.mean_difference(*arms(rng, seeds, 1.0), rng, DRAWS)
        low, high = low + (bounds.lower > 0.0), high + (bounds.upper < 0.0)
    assert max(low, high) / TRIALS <= ALLOWED


def test_a_clear_difference_is_seen() -> None:
    rng = np.random.default_rng(3)
    seen = sum(
        compare.mean_ratio(*arms(rng, 10, 1.30), rng, DRAWS).lower >= 1.10 for _ in range(100)
    )
    assert seen >= 80


@pytest.mark.parametrize("seeds", [5, 10])
@pytest.mark.parametrize("tail", ["normal", "heavy"])
def test_a_variance_at_its_margin_passes_at_most_one_time_in_twenty(seeds: int, tail: str) -> None:
    rng = np.random.default_rng(seeds)
    passed, trials = 0, 2000
    for _ in range(trials):
        noise = rng.normal(size=(2, seeds)) if tail == "normal" else rng.standard_t(5, (2, seeds))
        passed += compare.variance_ratio(noise[0] * 0.8**0.5, noise[1]).upper <= 0.8
    assert passed / trials <= 0.05 + 1.96 * (0.05 * 0.95 / trials) ** 0.5


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_steps_at_their_margin_pass_at_most_one_time_in_twenty(seeds: int) -> None:
    """Convergence is seen at evaluations alone, here every 20 characters."""
    rng = np.random.default_rng(seeds)
    passed = 0
    for _ in range(TRIALS):
        baseline = rng.choice([900.0, 1000.0, 1100.0, 1200.0], seeds)
        candidate = rng.choice([900.0, 1000.0, 1100.0, 1200.0], seeds) * 0.85
        bounds = compare.paired_ratio(np.round(candidate / 20) * 20, baseline, resolution=20.0)
        passed += bounds.upper <= 0.85
    assert passed / TRIALS <= ALLOWED


@pytest.mark.parametrize("rounds", [5, 10])
@pytest.mark.parametrize("tail", ["normal", "heavy"])
def test_a_wavering_at_its_margin_passes_at_most_one_time_in_twenty(rounds: int, tail: str) -> None:
    rng = np.random.default_rng(rounds)
    passed, trials = 0, 2000
    for _ in range(trials):
        noise = rng.normal(size=rounds) if tail == "normal" else rng.standard_t(5, rounds)
        spread = 15.0 if tail == "normal" else 15.0 * 0.6**0.5  # the standard deviation
        passed += compare.variation(100.0 + spread * noise).upper <= 0.15
    assert passed / trials <= 0.05 + 1.96 * (0.05 * 0.95 / trials) ** 0.5


def test_a_drift_at_its_margin_is_called_none_at_most_one_time_in_twenty() -> None:
    rng = np.random.default_rng(4)
    passed = 0
    for _ in range(TRIALS):
        greedy = 0.9 + rng.normal(0.0, 0.05, (5, 30))
        shift = rng.normal(-0.05, 0.01, (5, 1)) + rng.normal(0.0, 0.05, (5, 30))
        bounds = compare.mean_difference(greedy + shift, greedy, rng, DRAWS)
        passed += bounds.lower >= -0.05 and bounds.upper <= 0.05
    assert passed / TRIALS <= ALLOWED


@pytest.mark.parametrize("seeds", [3, 10])
def test_bounds_cover_the_truth_at_least_as_often_as_they_promise(seeds: int) -> None:
    rng = np.random.default_rng(seeds)
    below = above = 0
    for _ in range(TRIALS):
        bounds = compare.mean_ratio(*arms(rng, seeds, 1.2), rng, DRAWS)
        below, above = below + (bounds.upper < 1.2), above + (bounds.lower > 1.2)
    assert max(below, above) / TRIALS <= ALLOWED


def test_seeds_for_a_variance_are_those_that_a_power_calculation_gives() -> None:
    assert compare.seeds_for_variance(0.8, 0.8) is None
    assert compare.seeds_for_variance(0.0, 0.8) is None
    needed = compare.seeds_for_variance(0.4, 0.8)
    assert needed is not None
    assert 45 <= needed <= 65  # 53 by the normal approximation
    wide = compare.seeds_for_variance(0.5, 0.8)
    assert wide is not None
    assert 100 <= wide <= 130  # 113


def test_seeds_for_an_equivalence_count_from_the_nearer_margin() -> None:
    drift = np.array([-0.03, -0.04, -0.02, -0.03])
    assert compare.seeds_for_equivalence(drift, 0.05) == 3
    assert compare.seeds_for_equivalence(drift * 2, 0.05) is None
    noisy = np.array([-0.09, 0.05, -0.07, 0.03])
    assert compare.seeds_for_equivalence(noisy, 0.05) == compare.seeds_for_equivalence(-noisy, 0.05)


def test_with_ten_seeds_a_drop_of_a_fifth_needs_a_ratio_near_a_quarter() -> None:
    base = np.array([-1.55, -1.0, -0.66, -0.38, -0.12, 0.12, 0.38, 0.66, 1.0, 1.55])
    assert compare.variance_ratio(base * 0.20**0.5, base).upper <= 0.8
    assert compare.variance_ratio(base * 0.30**0.5, base).upper > 0.8


def test_the_same_arm_twice_differs_by_nothing() -> None:
    rng = np.random.default_rng(0)
    _, baseline = arms(rng, 5, 1.0)
    bounds = compare.mean_difference(baseline, baseline, rng, DRAWS)
    assert (bounds.lower, bounds.estimate, bounds.upper) == (0.0, 0.0, 0.0)


def test_the_same_random_state_gives_the_same_bounds() -> None:
    candidate, baseline = arms(np.random.default_rng(0), 5, 1.2)
    first, second = (
        compare.mean_ratio(candidate, baseline, np.random.default_rng(7), DRAWS) for _ in range(2)
    )
    assert first == second


def test_what_has_no_ratio_is_refused() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="the baseline's mean is 0"):
        compare.mean_ratio(np.ones((3, 4)), np.zeros((3, 4)), rng, DRAWS)
    with pytest.raises(ValueError, match="have no ratio"):
        compare.paired_ratio(np.ones(3), np.zeros(3))
    with pytest.raises(ValueError, match="don't vary"):
        compare.variation(np.ones(5))
    with pytest.raises(ValueError, match="2 seeds an arm, expected 3 or more"):
        compare.variance_ratio(np.ones(2), np.ones(2))
    with pytest.raises(ValueError, match="the baseline doesn't vary"):
        compare.variance_ratio(np.arange(3.0), np.ones(3))
    with pytest.raises(ValueError, match="the candidate doesn't vary"):
        compare.variance_ratio(np.ones(3), np.arange(3.0))


def test_seeds_needed_grow_with_the_noise_and_end_where_the_effect_does() -> None:
    quiet, loud = np.array([0.19, 0.2, 0.21]), np.array([0.0, 0.2, 0.4])
    assert compare.seeds_needed(quiet, 0.1) == 3
    assert compare.seeds_needed(loud, 0.1) == 26
    assert compare.seeds_needed(loud, 0.3) is None
    assert compare.seeds_needed(loud[:1], 0.1) is None


def test_quantiles_of_t_join_their_approximation() -> None:
    assert compare.t95(1) == 6.3138
    assert compare.t95(31) == pytest.approx(1.6955, abs=2e-4)
    assert compare.t95(10_000) == pytest.approx(1.6450, abs=2e-4)
