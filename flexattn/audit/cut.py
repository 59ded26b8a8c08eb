"""Where lines end, and which of them are events: bytes in, places out, no line is copied."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Ends = npt.NDArray[np.int32]  # place behind each line; a segment is far shorter than 2 GiB

_NEWLINE = ord("\n")
_TELLING = 2  # the byte in which `{"step"` and `{"event"` part


def line_ends(data: bytes | memoryview) -> Ends:
    """The place behind each newline of `data`, [whole lines]."""
    found = np.flatnonzero(np.frombuffer(data, np.uint8) == _NEWLINE)
    return (found + 1).astype(np.int32)


def lines_with(data: bytes | memoryview, ends: Ends, start: bytes, first: int = 0) -> list[int]:
    """Which lines, counted from 0, begin with `start`, which has three bytes or more.

    Args:
      data: bytes in which whole lines stand behind one another.
      ends: the places behind them.
      start: what they should begin with.
      first: place in `data` of the first of these lines.
    """
    starts = np.empty(len(ends), np.int64)
    starts[:1], starts[1:] = first, ends[:-1]
    telling = np.frombuffer(data, np.uint8)[np.minimum(starts + _TELLING, len(data) - 1)]
    near = np.flatnonzero(telling == start[_TELLING])
    found, size = zip(near.tolist(), starts[near].tolist()), len(start)
    return [line for line, place in found if data[place : place + size] == start]
