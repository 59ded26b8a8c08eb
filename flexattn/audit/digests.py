"""The SHA-256 of each of many lines, or of other short messages.

A call of `hashlib` for each one costs more than the arithmetic and holds the interpreter lock, so
many are hashed side by side by `sha256`.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

from flexattn.audit.cut import Ends, line_ends
from flexattn.audit.sha256 import hash_all

Digests = npt.NDArray[np.uint8]  # [n, 32], a hash each row

FEW = 512  # up to so many hashlib is asked: no compiler is waited for


def digests(data: bytes, ends: Ends | None = None) -> Digests:
    """SHA-256 of each line of `data`, newline in it, [lines, 32].

    Args:
      data: lines; the last one may lack its newline.
      ends: `line_ends` of it, where they are known.
    """
    ends = line_ends(data) if ends is None else ends
    if len(data) > (ends[-1] if len(ends) else 0):
        ends = np.append(ends, np.int32(len(data)))
    return _hashed(np.frombuffer(data, np.uint8), ends, len(ends) > FEW)


def digests_of_rows(rows: npt.NDArray[np.uint8], many: bool) -> Digests:
    """SHA-256 of each row of `rows`, [n, bytes] -> [n, 32]; side by side where `many`."""
    count, size = rows.shape
    ends = np.arange(size, size * count + 1, size, dtype=np.int32)
    return _hashed(np.ascontiguousarray(rows).reshape(-1), ends, many)


def _hashed(data: npt.NDArray[np.uint8], ends: Ends, many: bool) -> Digests:
    out = np.empty((len(ends), 32), np.uint8)
    if many:
        hash_all(data, ends, out)
        return out
    whole, start = data.tobytes(), 0
    for n, end in enumerate(ends.tolist()):
        out[n] = np.frombuffer(hashlib.sha256(whole[start:end]).digest(), np.uint8)
        start = end
    return out
