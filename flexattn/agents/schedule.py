"""Values that change over training: linear between a first and a last value, constant outside.

Also the curriculum: A short windows, B mixed, C by the domain's own lengths.
"""

from __future__ import annotations

import numpy as np


def linear(ends: tuple[float, float], step: int, steps: int) -> float:
    """Value at `step` of a line from ends[0] at step 0 to ends[1] at the last of `steps` steps."""
    if steps <= 1:
        return ends[1]
    share = min(1.0, max(0.0, step / (steps - 1)))
    return ends[0] + share * (ends[1] - ends[0])


def zipf_probabilities(choices: int) -> np.ndarray:
    """Zipf over ranks 1..choices, so that short windows come first, [choices], sums to 1."""
    weights = 1.0 / np.arange(1, choices + 1)
    return weights / weights.sum()


def length_probabilities(lengths: np.ndarray, caps: tuple[int, ...]) -> np.ndarray:
    """Share of the domain's terms that each cap is the smallest to admit, [|P|], sums to 1.

    Terms longer than every cap count for the largest.
    """
    slots = np.minimum(np.searchsorted(np.asarray(caps), lengths), len(caps) - 1)
    counts = np.bincount(slots, minlength=len(caps)).astype(np.float64) + 1.0
    return counts / counts.sum()


def curriculum(rho: float, histories: int, cap_probabilities: np.ndarray) -> np.ndarray:
    """(Lh, Lp) ~ (1 - rho) Zipf(H) x Zipf(P) + rho Uniform(H) x Empirical(P).

    Args:
      rho: share of the domain's own histogram, 0..1.
      histories: |H|.
      cap_probabilities: the empirical histogram, [|P|].

    Returns: joint probabilities, [|H|, |P|], sums to 1.
    """
    caps = len(cap_probabilities)
    short = np.outer(zipf_probabilities(histories), zipf_probabilities(caps))
    domain = np.outer(np.full(histories, 1.0 / histories), cap_probabilities)
    return (1.0 - rho) * short + rho * domain
