"""The sketch is a decayed, signed count of the characters that lie behind the observed history.

    sketch <- decay * sketch + e(c)      each time a character c leaves the history

e(c) has two entries of +1 or -1, one in each half, at places hashed from c. Both ways to compute
it, step by step and over whole sequences, do the same float32 operations in the same order.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from flexattn.lexicon.compiled import compiled

DECAY = np.float32(0.95)

_MIX = np.uint64(0x9E3779B97F4A7C15)
_MIX2 = np.uint64(0xBF58476D1CE4E5B9)
_S31, _S32, _S7 = np.uint64(31), np.uint64(32), np.uint64(7)


@compiled()
def push(sketch: Any, char: Any) -> None:
    """Let `char` leave the history: decay [D] float32 `sketch` and add e(char), in place."""
    dim = sketch.shape[0]
    for d in range(dim):
        sketch[d] *= DECAY
    half = dim - (dim >> 1)
    bits = (np.uint64(char) + np.uint64(1)) * _MIX
    bits = (bits ^ (bits >> _S31)) * _MIX2
    bits ^= bits >> _S32
    one = np.float32(1.0)
    first = np.int64((bits >> _S7) & np.uint64(0xFFFFF)) % half
    sketch[first] += one if bits & np.uint64(1) else -one
    if dim > half:
        second = half + np.int64((bits >> _S32) & np.uint64(0xFFFFF)) % (dim - half)
        sketch[second] += one if bits & np.uint64(2) else -one


@compiled(allocates=True)
def _sequence(ids: Any, max_history: Any, out: Any) -> None:
    for b in range(ids.shape[0]):
        for t in range(1, ids.shape[1]):
            out[b, t] = out[b, t - 1]
            if t > max_history:
                push(out[b, t], ids[b, t - 1 - max_history])


def sketch_sequence(ids: npt.NDArray[Any], max_history: int, dim: int) -> npt.NDArray[np.float32]:
    """The sketch that an observation holds before each character of whole answers.

    Args:
      ids: written ids, [B, T]; entry t is written at step t + 1.
      max_history: characters that the observation shows.
      dim: D.

    Returns: [B, T, D] float32; entry t counts ids[:, :t - max_history], with the numbers that
      stepping gives, bit for bit.
    """
    out = np.zeros((*ids.shape, dim), np.float32)
    _sequence(np.ascontiguousarray(ids, np.int32), max_history, out)
    return out
