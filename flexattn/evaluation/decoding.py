"""How an answer is chosen from pi(a|s) at evaluation and serving; training never reaches this.

Every strategy works on the same legal set A(s): an illegal character has probability 0 before and
after. The order is fixed: top-k, then top-p of what is left, then temperature.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from flexattn.errors import FlexAttnError

STRATEGIES = ("greedy", "sample", "temperature", "top_k", "top_p", "joint")


@dataclass(frozen=True)
class Decoding:
    """One strategy and its numbers.

    Attributes:
      strategy: one of `STRATEGIES`; `joint` applies top_k, top_p and temperature in this order.
      top_k: characters kept, >= 1.
      top_p: probability mass kept, within (0, 1].
      temperature: > 0; below 1 sharpens.
    """

    strategy: str = "greedy"
    top_k: int = 20
    top_p: float = 0.9
    temperature: float = 1.0

    def __post_init__(self) -> None:
        """Refuse what has no meaning, in one line."""
        if self.strategy not in STRATEGIES:
            raise FlexAttnError(
                f"--strategy is {self.strategy}, expected one of {', '.join(STRATEGIES)}"
            )
        if self.top_k < 1:
            raise FlexAttnError(f"--top-k is {self.top_k}, expected 1 or more")
        if not 0.0 < self.top_p <= 1.0:
            raise FlexAttnError(f"--top-p is {self.top_p}, expected a share within (0, 1]")
        if not self.temperature > 0.0:
            raise FlexAttnError(f"--temperature is {self.temperature}, expected more than 0")


def reshape(pi: np.ndarray, decoding: Decoding) -> tuple[np.ndarray, np.ndarray]:
    """The distribution that a strategy samples from, and the mass of pi that it kept.

    Args:
      pi: pi(.|s), [N, |V|] float64, exactly 0 where illegal, sums to 1.
      decoding: the strategy.

    Returns: (distribution [N, |V|], kept mass [N]); greedy is a distribution on one character.
    """
    name = decoding.strategy
    kept = pi
    if name == "greedy":
        kept = np.zeros_like(pi)
        rows = np.arange(len(pi))
        best = pi.argmax(-1)
        kept[rows, best] = pi[rows, best]
    if name in ("top_k", "joint"):
        kept = _keep_top_k(kept, decoding.top_k)
    if name in ("top_p", "joint"):
        kept = _keep_top_p(kept, decoding.top_p)
    mass = kept.sum(-1)
    out = kept / mass[:, None]
    if name in ("temperature", "joint") and decoding.temperature != 1.0:
        scaled = np.where(
            out > 0, np.log(np.where(out > 0, out, 1.0)) / decoding.temperature, -np.inf
        )
        out = np.exp(scaled - scaled.max(-1, keepdims=True))
        out /= out.sum(-1, keepdims=True)
    return out, mass


def pick(distribution: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """One index a row by inverse CDF, never one of probability 0, [N] int64.

    Args:
      distribution: not negative, [N, |V|].
      uniform: where in the distribution, [N] within [0, 1).
    """
    edges = distribution.cumsum(-1)
    level = uniform * edges[:, -1]
    index = (edges <= level[:, None]).sum(-1)
    last = distribution.shape[1] - 1 - (distribution[:, ::-1] > 0).argmax(-1)
    return np.minimum(index, last)


def choose(
    pi: np.ndarray, decoding: Decoding, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """One character a row and the mass of pi that the strategy kept, [N] int64 and [N]."""
    distribution, kept = reshape(pi, decoding)
    return pick(distribution, rng.random(len(pi))), kept


def _keep_top_k(pi: np.ndarray, k: int) -> np.ndarray:
    if k >= pi.shape[1]:
        return pi
    order = np.argsort(-pi, axis=-1, kind="stable")[:, :k]
    kept = np.zeros_like(pi)
    np.put_along_axis(kept, order, np.take_along_axis(pi, order, -1), -1)
    return kept


def _keep_top_p(pi: np.ndarray, p: float) -> np.ndarray:
    """The fewest likeliest characters whose mass reaches p of what is there."""
    order = np.argsort(-pi, axis=-1, kind="stable")
    ranked = np.take_along_axis(pi, order, -1)
    before = ranked.cumsum(-1) - ranked
    ranked = np.where(before < p * ranked.sum(-1, keepdims=True), ranked, 0.0)
    kept = np.zeros_like(pi)
    np.put_along_axis(kept, order, ranked, -1)
    return kept
