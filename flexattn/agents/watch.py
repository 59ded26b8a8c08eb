"""Collapse watch: a head that sits on one value is reported once.

A head of one choice can't collapse. Lh settling on its shortest window may be right, where answers
are known by heart; the warning says what to look at, and training goes on.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

COLLAPSED = 0.995  # share of the steps on one value


class CollapseWatch:
    """Remembers which heads it has warned about; a checkpoint keeps that."""

    def __init__(self) -> None:
        """Nothing has been warned about."""
        self.warned: set[str] = set()

    def see(self, name: str, choices: Sequence[int], shares: npt.NDArray[np.float64]) -> str | None:
        """The warning, the first time that a head has collapsed.

        Args:
          name: of the head, as the log names it.
          choices: its values, characters.
          shares: of the steps under each, sums to 1.
        """
        if len(shares) < 2 or shares.max() <= COLLAPSED or name in self.warned:
            return None
        self.warned.add(name)
        return (
            f"warning: {name} sits on {choices[int(shares.argmax())]} in {shares.max():.1%} of the "
            f"steps; raise agent.kappa or look at its cost"
        )
