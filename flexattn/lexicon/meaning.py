"""An id names one term in every version of a catalog; where two versions part, the lowest id tells.

Compared are arrays, so that a million terms of a new version hold nobody up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from flexattn.lexicon.columns import Terms
from flexattn.lexicon.compiled import compiled
from flexattn.lexicon.entries import Catalog

Places = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Meaning:
    """Which term each id names, in one version or in several that agree.

    Attributes:
      ids: [N] int64, increasing.
      place: [N] int64, where its term stands.
      terms: N of them.
    """

    ids: Places
    place: Places
    terms: Terms

    @classmethod
    def of(cls, catalog: Catalog) -> Meaning:
        """Of a catalog."""
        columns = catalog.columns
        order = np.argsort(columns.ids, kind="stable")
        return cls(columns.ids[order], order, columns.terms)

    def joined(self, other: Meaning) -> Meaning:
        """With the ids that only `other` has."""
        new = ~np.isin(other.ids, self.ids, assume_unique=True)
        if not new.any():
            return self
        added = other.terms.some(other.place[new])
        terms = Terms(
            np.concatenate([self.terms.points, added.points]),
            np.concatenate([self.terms.size, added.size]),
        )
        ids = np.concatenate([self.ids, other.ids[new]])
        place = np.concatenate([self.place, len(self.terms) + np.arange(len(added))])
        order = np.argsort(ids, kind="stable")
        return Meaning(ids[order], place[order], terms)

    def parts_from(self, other: Meaning) -> tuple[int, str, str] | None:
        """The lowest id that names another term there, with the term here and the one there."""
        mine, theirs = self.terms, other.terms
        here, there = _first_apart(
            self.ids, self.place, mine.points, mine.start, mine.size,
            other.ids, other.place, theirs.points, theirs.start, theirs.size,
        )  # fmt: skip
        if here < 0:
            return None
        return int(self.ids[here]), mine[self.place[here]], theirs[other.place[there]]


@compiled()
def _first_apart(
    ids: Any, place: Any, points: Any, start: Any, size: Any,
    other_ids: Any, other_place: Any, other_points: Any, other_start: Any, other_size: Any,
) -> Any:  # fmt: skip
    """Places in `ids` and `other_ids` of the first shared id whose terms differ, -1 for none."""
    i, j = np.int64(0), np.int64(0)
    while i < ids.shape[0] and j < other_ids.shape[0]:
        if ids[i] < other_ids[j]:
            i += 1
        elif ids[i] > other_ids[j]:
            j += 1
        else:
            a, b = place[i], other_place[j]
            if size[a] != other_size[b]:
                return i, j
            for k in range(size[a]):
                if points[start[a] + k] != other_points[other_start[b] + k]:
                    return i, j
            i += 1
            j += 1
    return np.int64(-1), np.int64(-1)
