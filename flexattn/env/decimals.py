"""A float64 as the log prints it, compiled: rounded to 9 decimals, in the fewest digits.

    k = rint(x 10^9)     # half to even, as `schema.rounded` does
    text = k / 10^9      # trailing zeros cut, one digit at least on both sides of the point

Up to 15 digits no two decimals share a float64, so these are the very digits that `orjson` finds by
its search for the shortest. Below 1e-5 they stand as in 1.5e-6.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from flexattn.lexicon.compiled import compiled

SCALE = 1_000_000_000  # 10 to `schema.DECIMALS`
MOST = 1e15  # k from which on a float64 has fewer digits than k
LONGEST = 26  # bytes of any number here
_ZERO, _POINT, _MINUS, _E = ord("0"), ord("."), ord("-"), ord("e")


@compiled()
def put_whole(out: Any, at: Any, value: Any) -> Any:
    """Write a whole number, not negative, from out[at] on; returns the place behind it."""
    end, top = at + 1, np.int64(10)
    while value >= top:
        top *= 10
        end += 1
    for j in range(end - 1, at - 1, -1):
        out[j] = _ZERO + value % 10
        value //= 10
    return end


@compiled()
def put_number(out: Any, at: Any, value: Any) -> Any:
    """Write a float64 from out[at] on; returns the place behind it, -1 for one that's too large.

    NaN and Infinity are too large.
    """
    scaled = np.rint(value * SCALE)
    if not abs(scaled) < MOST:
        return np.int64(-1)
    k = np.int64(scaled)
    if k < 0:
        out[at] = _MINUS
        at += 1
        k = -k
    whole, part = k // SCALE, k % SCALE
    if whole == 0 and 0 < part < 10_000:
        return _put_tiny(out, at, part)
    at = put_whole(out, at, whole)
    out[at] = _POINT
    at += 1
    if part == 0:
        out[at] = _ZERO
        return at + 1
    digits = 9
    while part % 10 == 0:
        part //= 10
        digits -= 1
    for j in range(at + digits - 1, at - 1, -1):
        out[j] = _ZERO + part % 10
        part //= 10
    return at + digits


@compiled()
def _put_tiny(out: Any, at: Any, part: Any) -> Any:
    """Write part / 10^9, 0 < part < 10^4, as 1e-9 or 1.5e-6."""
    exponent, top = 9, np.int64(10)
    while part >= top:
        top *= 10
        exponent -= 1
    while part % 10 == 0:
        part //= 10
    behind = put_whole(out, at + 1, part)
    out[at] = out[at + 1]  # the first digit moves before the point
    if behind == at + 2:
        behind = at + 1
    else:
        out[at + 1] = _POINT
    out[behind] = _E
    out[behind + 1] = _MINUS
    out[behind + 2] = _ZERO + exponent
    return behind + 3
