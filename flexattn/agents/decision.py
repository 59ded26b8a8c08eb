"""What a policy hands to the environment, and what may be written in its place; needs no torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from flexattn.env.core import Core

Ids = npt.NDArray[np.int32]
Choose = Callable[[npt.NDArray[np.float64]], tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]]


class Decision(NamedTuple):
    """One action for each environment, and how likely its character was.

    Attributes:
      history: index into H, [N] int32.
      cap: index into P, [N] int32.
      char: character, [N] int32.
      probability: pi(a|s) over A(s), [N] float64; 0 where not active.
      kept: mass of pi(.|s) that the choice was made from, [N] float64.
    """

    history: Ids
    cap: Ids
    char: Ids
    probability: npt.NDArray[np.float64]
    kept: npt.NDArray[np.float64]


def nothing(n: int) -> Decision:
    """A decision for environments that don't step."""
    zeros = [np.zeros(n, np.int32) for _ in range(3)]
    return Decision(zeros[0], zeros[1], zeros[2], np.zeros(n), np.ones(n))


def is_legal(legal: npt.NDArray[np.uint64], char: Ids) -> npt.NDArray[np.bool_]:
    """Whether each row's character stands in its packed mask, [N] bool."""
    word = np.minimum(char >> 6, legal.shape[1] - 1)
    bits = legal[np.arange(len(char)), word] >> (char & 63).astype(np.uint64)
    return (bits & np.uint64(1)).astype(bool) & (char >> 6 < legal.shape[1])


def would_complete_banned(env: Core, char: Ids) -> npt.NDArray[np.bool_]:
    """Whether writing `char` now would complete a banned term, [N] bool.

    What is put into a history in the student's place keeps the ban too.
    """
    return is_legal(env.world.mask.blocked[env.state.automaton], char)
