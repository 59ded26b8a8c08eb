"""A catalog's entries by column, so that a million of them are handled by a few calls.

Python runs one thread at a time: a loop over a million objects in the thread that builds a new
version would hold up the threads that step environments. Compiled loops over arrays don't.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, overload

import numpy as np
import numpy.typing as npt

Places = npt.NDArray[np.int64]


class Terms(Sequence[str]):
    """Texts as code points behind one another; a text is made when it is asked for.

    Attributes:
      points: [.] uint32, all texts' code points.
      start: [n] int64, where each begins.
      size: [n] int64, characters of each.
    """

    __slots__ = ("points", "size", "start")

    def __init__(self, points: npt.NDArray[np.uint32], size: Places) -> None:
        """Take the texts' code points behind one another, and how long each text is."""
        self.points = points
        self.size = size
        self.start = np.cumsum(size) - size

    @classmethod
    def of(cls, texts: Sequence[str]) -> Terms:
        """The same texts; nothing is copied where they are `Terms` already."""
        if isinstance(texts, Terms):
            return texts
        size = np.fromiter(map(len, texts), np.int64, len(texts))
        return cls(points_of("".join(texts)), size)

    def some(self, which: Places) -> Terms:
        """The texts at these places, in their order."""
        size = self.size[which]
        inside = np.arange(size.sum()) - np.repeat(np.cumsum(size) - size, size)
        return Terms(self.points[np.repeat(self.start[which], size) + inside], size)

    def __len__(self) -> int:
        """How many texts."""
        return len(self.size)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[str, ...]: ...
    def __getitem__(self, index: int | slice) -> str | tuple[str, ...]:
        """One text, or a tuple of some."""
        if isinstance(index, slice):
            return tuple(self[i] for i in range(*index.indices(len(self))))
        first = self.start[index]
        return self.points[first : first + self.size[index]].tobytes().decode("utf-32-le")

    def __iter__(self) -> Iterator[str]:
        """All texts, decoded in one go."""
        text = self.points.tobytes().decode("utf-32-le")
        for first, size in zip(self.start.tolist(), self.size.tolist()):
            yield text[first : first + size]

    def __eq__(self, other: object) -> bool:
        """The same texts in the same order, in whatever sequence."""
        if not isinstance(other, Sequence) or isinstance(other, str):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other))

    def __hash__(self) -> int:
        """By content, as a tuple's."""
        return hash(tuple(self))


class Columns(NamedTuple):
    """Entries by column, N of them.

    Attributes:
      ids: [N] int64.
      terms: N texts.
      df: [N] int64.
      zipf: [N] float64, nan where unknown.
      kinds: the different kinds, "" for none among them.
      kind: [N] int64, which of them.
      sources: likewise.
      source: [N] int64.
    """

    ids: Places
    terms: Terms
    df: Places
    zipf: npt.NDArray[np.float64]
    kinds: list[str]
    kind: Places
    sources: list[str]
    source: Places


def points_of(text: str) -> npt.NDArray[np.uint32]:
    """Code points of a text, [len(text)]."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
