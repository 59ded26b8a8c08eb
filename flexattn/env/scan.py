"""Decisions read from step lines, compiled, where the lines keep to a writer's layout.

What is read here is believed only if the lines derived from it are, byte for byte, those of the
log; anything unusual (an escape, another order, an unknown character) is left to the slow way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from flexattn.env.rerun import Decided
from flexattn.env.vocabulary import END, SPECIALS
from flexattn.env.world import World
from flexattn.lexicon.compiled import compiled

_TAIL_BYTES = 96  # n_legal, w and note stand within so many bytes of a line's end
_PADDING = bytes(64)  # longer than any word looked for, so that no read leaves the memory
_QUOTE, _BRACE, _NEWLINE, _ZERO = ord('"'), ord("}"), ord("\n"), ord("0")


def _word(text: bytes) -> npt.NDArray[np.uint8]:
    return np.frombuffer(text, np.uint8)


_STEP, _LH, _LP, _A = _word(b'{"step":'), _word(b',"Lh":'), _word(b',"Lp":'), _word(b',"a":"')
_SEG, _N_LEGAL, _W = _word(b',"seg":"'), _word(b',"n_legal":'), _word(b',"w":"')
_ILLEGAL = _word(b',"note":"illegal"')


class Scanner:
    """Reads what the student decided, for one world."""

    def __init__(self, world: World) -> None:
        """Take its choices and characters."""
        settings = world.settings
        self._histories = _places(settings.history_chars)
        self._caps = _places(settings.hit_cap_chars)
        self._points = world.vocabulary.by_point

    def read(self, episodes: Sequence[bytes], room: int) -> Decided:
        """What episodes say was decided.

        Args:
          episodes: the step lines of each.
          room: steps that an episode may have.

        Returns: `counts` is -1 for an episode of more steps, and where a line isn't laid out as a
          writer lays it out.
        """
        ends = np.cumsum(np.fromiter(map(len, episodes), np.int64, len(episodes)))
        data = np.frombuffer(b"".join([*episodes, _PADDING]), np.uint8)
        out = Decided.empty(room, len(episodes))
        _read_all(data, ends, self._histories, self._caps, self._points, *out)
        return out


def _places(choices: Sequence[int]) -> npt.NDArray[np.int32]:
    """Value -> its index among `choices`, -1 for another one."""
    table = np.full(max(choices) + 1, -1, np.int32)
    table[list(choices)] = range(len(choices))
    return table


@compiled()
def _behind(data: Any, at: Any, word: Any) -> Any:
    """The place behind `word`, if it stands at data[at]; else -1."""
    if at < 0:
        return np.int64(-1)
    for j in range(word.shape[0]):
        if data[at + j] != word[j]:
            return np.int64(-1)
    return np.int64(at + word.shape[0])


@compiled()
def _whole(data: Any, at: Any) -> Any:
    """A whole number of at most 9 digits at data[at], and the place behind it; -1 for none."""
    value, digits = np.int64(0), np.int64(0)
    if at >= 0:
        while digits < 10 and _ZERO <= data[at + digits] <= _ZERO + 9:
            value = 10 * value + data[at + digits] - _ZERO
            digits += 1
    if digits < 1 or digits > 9:
        return np.int64(-1), np.int64(-1)
    return value, np.int64(at + digits)


@compiled()
def _character(data: Any, at: Any, points: Any) -> Any:
    """Id of the text at data[at], one character or none, and the place behind its quote; or -1."""
    bad = np.int64(-1), np.int64(-1)
    if at < 0:
        return bad
    first = np.int64(data[at])
    if first == _QUOTE:
        return np.int64(END), np.int64(at + 1)
    if first < 0x80:
        point, size = first, 1
    elif first < 0xE0:
        point, size = first & 0x1F, 2
    elif first < 0xF0:
        point, size = first & 0x0F, 3
    else:
        point, size = first & 0x07, 4
    for j in range(1, size):
        point = point << 6 | np.int64(data[at + j]) & 0x3F
    if point >= points.shape[0] or data[at + size] != _QUOTE or points[point] < SPECIALS:
        return bad
    return np.int64(points[point]), np.int64(at + size + 1)


@compiled()
def _tail(data: Any, start: Any, end: Any) -> Any:
    """The place behind the key n_legal of the line data[start:end], -1 for none."""
    for at in range(end - _N_LEGAL.shape[0] - 1, max(start, end - _TAIL_BYTES), -1):
        behind = _behind(data, at, _N_LEGAL)
        if behind >= 0:
            return behind
    return np.int64(-1)


def _next_newline(typing: Any, data: Any, at: Any) -> Any:
    """Bytes before the first newline in data[at : at + 64], 64 where there is none.

    Inside compiled functions only; all the 64 bytes must be there.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        octets = ir.VectorType(ir.IntType(8), 64)
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        place = builder.gep(array.data, [arguments[1]])
        found = builder.load(builder.bitcast(place, octets.as_pointer()))
        found.align = 1
        same = builder.icmp_unsigned("==", found, ir.Constant(octets, [_NEWLINE] * 64))
        mask = builder.bitcast(same, ir.IntType(64))
        return builder.cttz(mask, ir.Constant(ir.IntType(1), 0))

    return types.int64(data, types.intp), generate


next_newline: Any = intrinsic(_next_newline)


@compiled()
def _line_end(data: Any, at: Any, stop: Any) -> Any:
    """The place behind the next newline before `stop`, -1 for none; 64 bytes follow `stop`."""
    while at < stop:
        ahead = next_newline(data, at)
        if ahead < 64:
            return np.int64(at + ahead + 1) if at + ahead < stop else np.int64(-1)
        at += 64
    return np.int64(-1)


@compiled()
def _read_all(
    data: Any, ends: Any, histories: Any, caps: Any, points: Any,
    history: Any, cap: Any, char: Any, written: Any, illegal: Any, counts: Any,
) -> None:  # fmt: skip
    """Fill the columns of every episode."""
    stop = np.int64(0)
    for n in range(ends.shape[0]):
        start, stop = stop, ends[n]
        t = 0
        while t >= 0 and start < stop:
            end = _line_end(data, start, stop)
            if end < 0 or t == char.shape[0]:
                t = -1
                break
            _, at = _whole(data, _behind(data, start, _STEP))
            lh, at = _whole(data, _behind(data, at, _LH))
            lp, at = _whole(data, _behind(data, at, _LP))
            a, at = _character(data, _behind(data, at, _A), points)
            fits = _behind(data, at, _SEG) >= 0
            _, at = _whole(data, _tail(data, start, end))
            w, behind = _character(data, _behind(data, at, _W), points)
            if behind >= 0:
                at = behind
            fits = fits and at >= 0 and lh < histories.shape[0] and lp < caps.shape[0]
            if not fits or histories[lh] < 0 or caps[lp] < 0:
                t = -1
                break
            history[t, n], cap[t, n], char[t, n], written[t, n] = histories[lh], caps[lp], a, w
            illegal[t, n] = _behind(data, at, _ILLEGAL) >= 0
            start = end
            t += 1
        counts[n] = t
