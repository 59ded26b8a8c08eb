"""Step lines set in type: from arrays to bytes in one compiled pass, without the interpreter lock.

What a line says is defined by `records.columns` and `audit.lines`, and a test holds these bytes to
theirs. What repeats (keys, characters, terms, entries, notes) is cut once for each world.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import orjson
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from flexattn.env.decimals import LONGEST, put_number, put_whole
from flexattn.env.records import notes
from flexattn.env.world import World
from flexattn.lexicon.compiled import compiled

_KEYS = (
    b'{"step":', b',"sim":', b',"delta":', b',"ler":', b',"len_cost":', b',"base":',
    b',"chi_soft":', b',"reward":', b"-", b',"w":', b',"note":"illegal"', b"}\n",
    b',"seg":"-","len":0,"idf":0.0,"sim":0.0,"delta":0.0,"ler":0.0,"len_cost":',
)  # fmt: skip
(
    _STEP, _SIM, _DELTA, _LER, _COST, _BASE, _CHI, _REWARD, _TO, _W, _ILLEGAL, _CLOSE, _NO_HIT,
) = range(len(_KEYS))  # fmt: skip


class Type(NamedTuple):
    """Pieces of lines behind one another; piece n is data[start[n] : start[n + 1]].

    Attributes:
      data: [.] uint8.
      start: [pieces + 1] int64.
      windows: first piece of Lh and Lp, one for each pair; `caps` of them for each Lh.
      chars: first piece of the characters as JSON, by id.
      terms: first piece of seg and len, by term; the last one is for no term.
      places: first piece of file and pos, likewise.
      notes: first piece of the notes, by the character's id; empty where it has none.
      sizes: [terms] int64, characters of each term.
    """

    data: npt.NDArray[np.uint8]
    start: npt.NDArray[np.int64]
    windows: int
    caps: int
    chars: int
    terms: int
    places: int
    notes: int
    sizes: npt.NDArray[np.int64]


class Typesetter:
    """Sets the lines of episodes of one world."""

    def __init__(self, world: World) -> None:
        """Cut the pieces."""
        settings, vocabulary = world.settings, world.vocabulary
        windows = [
            b',"Lh":%d,"Lp":%d,"a":' % (lh, lp)
            for lh in settings.history_chars
            for lp in settings.hit_cap_chars
        ]
        chars = [orjson.dumps(vocabulary.char(n)) for n in range(vocabulary.alphabet)]
        terms = [
            b',"seg":%b,"len":%d,"idf":' % (orjson.dumps(term), len(term))
            for term in world.term_list
        ]
        file = orjson.dumps(world.catalog_file)[:-1]
        places = [b',"file":%b#%d","pos":"t' % (file, n) for n in world.entry_ids.tolist()]
        named = notes(world)
        ends = [
            b',"note":"%b"' % named[n].encode() if n in named else b""
            for n in range(vocabulary.alphabet)
        ]
        groups: Sequence[Sequence[bytes]] = (
            _KEYS, windows, chars, [*terms, b',"seg":"-","len":0,"idf":'],
            [*places, b',"file":"-","pos":"-'], ends,
        )  # fmt: skip
        first = np.cumsum([0, *map(len, groups)]).tolist()
        self._cat = world.catalog_short.encode()
        self._type = Type(
            *_joined(piece for group in groups for piece in group),
            windows=first[1],
            caps=len(settings.hit_cap_chars),
            chars=first[2],
            terms=first[3],
            places=first[4],
            notes=first[5],
            sizes=np.array([len(term) for term in world.term_list], np.int64),
        )
        longest = [max(map(len, group), default=0) for group in groups]
        self._room = sum(map(len, _KEYS)) + sum(longest) + longest[2] + 12 * LONGEST

    def lines(
        self,
        rows: npt.NDArray[Any],
        counts: npt.NDArray[np.int64],
        episodes: Sequence[tuple[int, int]],
    ) -> tuple[bytes, npt.NDArray[np.int64]] | None:
        """The lines of episodes, one episode behind the other.

        Args:
          rows: [N, T] of `STEP`.
          counts: [N], steps of each episode.
          episodes: `ep` and `env` of each.

        Returns: (bytes, [N] ends of the episodes in them), or None where a number is NaN, infinite
          or a million or more: then the slow way writes it, or says what it is.
        """
        form = b'","cat":"' + self._cat + b'","ep":%d,"env":%d,"n_legal":'
        heads = [form % pair for pair in episodes]
        room = self._room + max(map(len, heads), default=0)
        out = np.empty(int(counts.sum()) * room, np.uint8)
        ends = np.zeros(len(counts), np.int64)
        if not _set_all(rows, counts, *_joined(heads), self._type, out, ends):
            return None
        return out[: ends[-1] if len(ends) else 0].tobytes(), ends


_MADE: WeakKeyDictionary[World, Typesetter] = WeakKeyDictionary()


def typesetter_of(world: World) -> Typesetter:
    """The typesetter of a world, made once."""
    made = _MADE.get(world)
    if made is None:
        made = _MADE[world] = Typesetter(world)
    return made


def _joined(pieces: Iterable[bytes]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    held = list(pieces)
    start = np.zeros(len(held) + 1, np.int64)
    np.cumsum([len(piece) for piece in held], out=start[1:])
    return np.frombuffer(b"".join(held) or b"\0", np.uint8), start


def _copy(typing: Any, out: Any, at: Any, data: Any, start: Any, count: Any) -> Any:
    """Copy data[start : start + count] to out[at:]; inside compiled functions only."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        (to, source), (_, at, _, start, count) = signature.args[0:3:2], arguments

        def place(kind: Any, array: Any, offset: Any) -> Any:
            return builder.gep(context.make_array(kind)(context, builder, array).data, [offset])

        cgutils.raw_memcpy(
            builder, place(to, arguments[0], at), place(source, arguments[2], start), count, 1
        )
        return context.get_dummy_value()

    whole = types.intp
    return types.void(out, whole, data, whole, whole), generate


copy_bytes: Any = intrinsic(_copy)


@compiled()
def _put(out: Any, at: Any, data: Any, start: Any, n: Any) -> Any:
    """Write piece n from out[at] on; returns the place behind it."""
    first, count = start[n], start[n + 1] - start[n]
    copy_bytes(out, at, data, first, count)
    return at + count


@compiled()
def _put_numbers(out: Any, at: Any, row: Any, T: Any) -> Any:
    """What stands between `a` and `file`; -1 where a number is too large."""
    hit = row.term >= 0
    plain = row.idf == 0.0 and row.sim == 0.0 and row.delta == 0.0 and row.ler == 0.0
    if not hit and plain:
        at = _put(out, at, T.data, T.start, _NO_HIT)
    else:
        term = np.int64(row.term) if hit else T.sizes.shape[0]
        at = put_number(out, _put(out, at, T.data, T.start, T.terms + term), row.idf)
        if at >= 0:
            at = put_number(out, _put(out, at, T.data, T.start, _SIM), row.sim)
        if at >= 0:
            at = put_number(out, _put(out, at, T.data, T.start, _DELTA), row.delta)
        if at >= 0:
            at = put_number(out, _put(out, at, T.data, T.start, _LER), row.ler)
        if at >= 0:
            at = _put(out, at, T.data, T.start, _COST)
    if at >= 0:
        at = put_number(out, at, row.len_cost)
    if at >= 0:
        at = put_number(out, _put(out, at, T.data, T.start, _BASE), row.base)
    if at >= 0:
        at = put_number(out, _put(out, at, T.data, T.start, _CHI), row.chi_soft)
    if at >= 0:
        at = put_number(out, _put(out, at, T.data, T.start, _REWARD), row.reward)
    return at


@compiled()
def _set_all(
    rows: Any, counts: Any, heads: Any, head_start: Any, T: Any, out: Any, ends: Any
) -> Any:
    """Write the lines of every episode; False where a number is too large."""
    at = np.int64(0)
    for n in range(counts.shape[0]):
        for t in range(counts[n]):
            row = rows[n, t]
            char = np.int64(row.char)
            window = T.windows + np.int64(row.history) * T.caps + row.cap
            at = put_whole(out, _put(out, at, T.data, T.start, _STEP), np.int64(t + 1))
            at = _put(out, at, T.data, T.start, window)
            at = _put(out, at, T.data, T.start, T.chars + char)
            at = _put_numbers(out, at, row, T)
            if at < 0:
                return False
            if row.term >= 0:
                at = _put(out, at, T.data, T.start, T.places + row.term)
                at = _put(out, put_whole(out, at, np.int64(t)), T.data, T.start, _TO)
                at = put_whole(out, at, t + T.sizes[row.term] - 1)
            else:
                at = _put(out, at, T.data, T.start, T.places + T.sizes.shape[0])
            at = put_whole(out, _put(out, at, heads, head_start, n), np.int64(row.n_legal))
            if row.written != row.char:
                at = _put(out, at, T.data, T.start, _W)
                at = _put(out, at, T.data, T.start, T.chars + row.written)
            at = _put(out, at, T.data, T.start, _ILLEGAL if row.illegal else T.notes + char)
            at = _put(out, at, T.data, T.start, _CLOSE)
        ends[n] = at
    return True
