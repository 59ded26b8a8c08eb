"""The first four bytes of each line's SHA-256: they say which line was changed.

That one was changed, says the segment's own hash, which is `hashlib`'s. A call of `hashlib` for
each line costs more than the arithmetic and holds the interpreter lock, so many lines are hashed
side by side by `sha256`.
"""

from __future__ import annotations

import hashlib
import io

import numpy as np

from flexattn.audit.cut import Ends, line_ends
from flexattn.audit.sha256 import hash_lines

FEW_LINES = 512  # up to which hashlib is asked: no compiler is waited for


def shorts(data: bytes, ends: Ends | None = None) -> bytes:
    """First four bytes of the SHA-256 of each line of `data`, newline in it, run together.

    Args:
      data: lines; the last one may lack its newline.
      ends: `line_ends` of it, where they are known.
    """
    ends = line_ends(data) if ends is None else ends
    if len(data) > (ends[-1] if len(ends) else 0):
        ends = np.append(ends, np.int32(len(data)))
    if len(ends) <= FEW_LINES:
        return b"".join([hashlib.sha256(line).digest()[:4] for line in io.BytesIO(data)])
    out = np.empty((len(ends), 4), np.uint8)
    hash_lines(np.frombuffer(data, np.uint8), ends, out)
    return out.tobytes()
