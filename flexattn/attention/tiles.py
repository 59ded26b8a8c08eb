"""What one thread does on a CPU: attention and its gradients, a tile of queries at a time.

Rule: a tile's scores are a table with a line for each distance n and a column for each query: entry (n, i) is that of
query i and the key n before it. Beside it lie two tables of the same shape that say which rows of memory the entry's
key and query are. Sums over keys run down a column, sums over queries down a diagonal.

One item is a stretch of positions of one key-value head. Its keys' gradients are added up in the order of query head,
tile, choice of window, and nobody else writes them.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numba import njit

from flexattn.attention import lanes, team
from flexattn.attention.lanes import (
    ADD,
    LANES,
    Soon,
    dots,
    height,
    place,
    publish,
    see,
    softmax,
    softmax_gradient,
    weigh,
)
from flexattn.attention.team import shared

__all__ = ["BACKWARD", "FORWARD", "Pass", "Rows", "Work"]

_TILE = 128  # queries of a tile
_SCORES = 4096  # entries of a table, to stay in the nearest cache

_SOURCES = b"".join(Path(str(module.__file__)).read_bytes() for module in (lanes, team))


def _compiled(**options: Any) -> Any:
    """Compile without the interpreter lock; kept on disk until this file, `lanes` or `team` changes.

    Numba itself looks at a function's own file alone.
    """
    options = {"nogil": True, "error_model": "numpy", **options}

    def decorate(function: Any) -> Any:
        try:
            dispatcher = njit(cache=True, **options)(function)
        except RuntimeError:  # no folder to keep it in: compiled in every process
            return njit(**options)(function)
        index = dispatcher._cache._cache_file
        digest = hashlib.sha256(_SOURCES).hexdigest()
        index._source_stamp = (index._source_stamp, digest)
        return dispatcher

    return decorate


class Rows(NamedTuple):
    """Rows of D numbers; row t begins at c * choice + b * batch + h * head + t * row of `memory`."""

    memory: np.ndarray
    choice: int
    batch: int
    head: int
    row: int


class Work(NamedTuple):
    """What is to be done, and how it is cut into items."""

    choices: int
    widest: int  # the choice whose queries see most
    kv_heads: int
    group: int  # query heads of a key-value head
    length: int
    bound: int  # keys that any query sees at most
    stretch: int  # positions of an item
    once: int  # how outputs and dq are stored: WRITE or STREAM
    keys_once: int  # and what a key's gradient begins with


class _Tile(NamedTuple):
    """Queries start .. start + rows - 1, in columns LANES .. of tables that have `step` columns.

    Columns before and after, at least LANES on each side, are queries that see nothing.
    """

    start: int
    rows: int
    step: int
    most: int  # keys that any of them sees
    last: int  # of all positions


@_compiled(forceinline=True)
def _base(x, c, b, h):  # type: ignore[no-untyped-def]
    """Where row 0 of a head begins."""
    return c * x.choice + b * x.batch + h * x.head


@_compiled(forceinline=True)
def _item(work, item):  # type: ignore[no-untyped-def]
    """Batch, key-value head and stretch of positions, [begin, end), of an item."""
    parts = (work.length + work.stretch - 1) // work.stretch
    pair, begin = item // parts, item % parts * work.stretch
    end = min(begin + work.stretch, work.length)
    return pair // work.kv_heads, pair % work.kv_heads, begin, end


@_compiled(forceinline=True)
def _next(work, item, h, start, stop, width):  # type: ignore[no-untyped-def]
    """Batch, key-value head, query head and start of the tile that comes after this one."""
    b, kv, begin, _ = _item(work, item)
    if start + width < stop:
        return b, kv, h, start + width
    if h + 1 < (kv + 1) * work.group:
        return b, kv, h + 1, begin
    b, kv, begin, _ = _item(work, item + 1)
    return b, kv, kv * work.group, begin


@_compiled(forceinline=True)
def _soon(x, c, b, h, start):  # type: ignore[no-untyped-def]
    """Rows of x from `start` on."""
    return Soon(x.memory, _base(x, c, b, h) + start * x.row, x.row)


@_compiled(forceinline=True)
def _columns(work):  # type: ignore[no-untyped-def]
    """Columns of a tile's tables: a multiple of LANES, and as many on each side."""
    queries = min(_TILE, _SCORES // work.bound, work.length + LANES - 1)
    return max(LANES, queries // LANES * LANES) + 2 * LANES


@_compiled(forceinline=True)
def _lines(work):  # type: ignore[no-untyped-def]
    """Lines of a tile's tables: `dots` writes two at a time."""
    return work.bound + work.bound % 2


@_compiled(forceinline=True)
def _tile(work, window, b, h, start, stop, step, reach):  # type: ignore[no-untyped-def]
    """The tile that begins at `start`; reach[c * step + i] = keys that the query of column i sees."""
    rows, most = min(step - 2 * LANES, stop - start), 0
    for c in range(work.choices):
        base = _base(window, c, b, h)
        for r in range(0, step - 2 * LANES, LANES):
            at = base + (start + r) * window.row
            line = c * step + LANES + r
            seen = see(window.memory, at, start + r, rows - r, work.bound, reach, line)
            most = max(most, seen)
    return _Tile(start, rows, step, most, work.length - 1)


@_compiled(forceinline=True)
def _place_keys(tile, reach, c, x, out):  # type: ignore[no-untyped-def]
    """Which rows of x an entry's key is. A query's own stands for what it does not see."""
    count = tile.most + tile.most % 2
    for i in range(LANES, LANES + tile.rows, LANES):
        t = tile.start + i - LANES
        place(reach, c * tile.step + i, t, tile.last, x.row, False, count, tile.step, out, i)


@_compiled(forceinline=True)
def _place_queries(tile, reach, c, x, out):  # type: ignore[no-untyped-def]
    """Which rows of x an entry's query is. A key's own stands for one that does not see it."""
    for i in range(0, tile.step, LANES):
        t = tile.start + i - LANES
        place(reach, c * tile.step + i, t, tile.last, x.row, True, tile.most, tile.step, out, i)


@_compiled(forceinline=True)
def _products(  # type: ignore[no-untyped-def]
    lanes, tile, a, base_a, rows_a, b, base_b, rows_b, out, soon
):  # fmt: skip
    """Of each query's row of a with its keys' rows of b."""
    for r in range(0, tile.rows, LANES):
        dots(
            lanes, a.memory, base_a, rows_a, b.memory, base_b, rows_b, LANES + r, tile.step,
            tile.most, out, soon, r,
        )  # fmt: skip


@_compiled(forceinline=True)
def _sum_keys(  # type: ignore[no-untyped-def]
    lanes, tile, p, b, base_b, rows_b, end, out, base, how, soon
):  # fmt: skip
    """Row t of out = sum over its keys of p * b's row, for the tile's queries before `end`."""
    rows = min(tile.rows, end - tile.start)
    for r in range(0, rows, height(lanes, p)):
        weigh(
            lanes, p, rows_b, LANES + r, tile.step, tile.most, b.memory, base_b,
            out.memory, base + (tile.start + r) * out.row, out.row, rows - r, how,
            soon, r,
        )  # fmt: skip


@_compiled(forceinline=True)
def _sum_queries(  # type: ignore[no-untyped-def]
    lanes, tile, p, a, base_a, rows_a, begin, end, out, base, how
):  # fmt: skip
    """Row s of out = sum over the queries that see key s of p * a's row, for begin <= s < end.

    `how` they are stored; keys of the tile before always have something to add to.
    """
    side, diagonal = height(lanes, p), tile.step + 1
    low = max(begin, tile.start - tile.most + 1) - tile.start
    high = min(tile.rows, end - tile.start)
    for s in range(low, 0, side):
        skip = max(0, 1 - s - side)  # distances at which these keys' queries are in the tile before
        weigh(
            lanes, p, rows_a, LANES + s + skip * diagonal, diagonal,
            min(tile.most, tile.rows - s) - skip, a.memory, base_a,
            out.memory, base + (tile.start + s) * out.row, out.row, min(0, high) - s, ADD,
            None, 0,
        )  # fmt: skip
    for s in range(max(low, 0), high, side):
        weigh(
            lanes, p, rows_a, LANES + s, diagonal, min(tile.most, tile.rows - s), a.memory, base_a,
            out.memory, base + (tile.start + s) * out.row, out.row, high - s, how,
            None, 0,
        )  # fmt: skip


@_compiled()
def forward(lanes, work, q, k, v, window, slopes, scale, out, first, last):  # type: ignore[no-untyped-def]
    """Items first .. last - 1 of the outputs.

    Args:
      lanes: D / 8 zeros, so that D is part of the type.
      work: Work.
      q, k, v, out: Rows.
      window: Rows of one number; LANES of them can be read wherever a query's is.
      slopes: ALiBi's, one a query head.
      scale: factor of q.k, of q's type.
    """
    step = _columns(work)
    size = _lines(work) * step
    score, p = np.empty(size, q.memory.dtype), np.empty(size, q.memory.dtype)
    rows_q, rows_k = np.empty(size, np.int32), np.empty(size, np.int32)
    rows_v, reach = np.empty(size, np.int32), np.zeros(work.choices * step, np.int32)
    for item in range(first, last):
        b, kv, begin, end = _item(work, item)
        base_k, base_v = _base(k, 0, b, kv), _base(v, 0, b, kv)
        for h in range(kv * work.group, (kv + 1) * work.group):
            base_q = _base(q, 0, b, h)
            for start in range(begin, end, step - 2 * LANES):
                tile = _tile(work, window, b, h, start, end, step, reach)
                nb, nkv, nh, then = _next(work, item, h, start, end, step - 2 * LANES)
                soon_k, soon_v = _soon(k, 0, nb, nkv, then), _soon(v, 0, nb, nkv, then)
                _place_queries(tile, reach, work.widest, q, rows_q)
                _place_keys(tile, reach, work.widest, k, rows_k)
                _products(
                    lanes, tile, q, base_q, rows_q, k, base_k, rows_k, score,
                    _soon(q, 0, nb, nh, then),
                )  # fmt: skip
                for c in range(work.choices):
                    for i in range(LANES, LANES + tile.rows, LANES):
                        softmax(
                            lanes, score, i, step, tile.most, reach, c * step + i, scale, slopes[h], p,
                            soon_k, i - LANES,
                        )  # fmt: skip
                    _place_keys(tile, reach, c, v, rows_v)
                    _sum_keys(
                        lanes, tile, p, v, base_v, rows_v, end, out, _base(out, c, b, h),
                        work.once, soon_v,
                    )  # fmt: skip
    publish()


@_compiled()
def backward(  # type: ignore[no-untyped-def]
    lanes, work, q, k, v, window, slopes, scale, do, dq, dk, dv, first, last
):  # fmt: skip
    """Items first .. last - 1 of the gradients dq, dk, dv of q, k, v from `do`; see `forward`."""
    step = _columns(work)
    size = _lines(work) * step
    kind = q.memory.dtype
    score, dp = np.empty(size, kind), np.empty(size, kind)
    p, ds = np.zeros(size, kind), np.zeros(size, kind)  # the margins stay 0
    rows_q, rows_k = np.empty(size, np.int32), np.empty(size, np.int32)
    rows_do, rows_v = np.empty(size, np.int32), np.empty(size, np.int32)
    reach = np.zeros(work.choices * step, np.int32)
    for item in range(first, last):
        b, kv, begin, end = _item(work, item)
        stop = min(end + work.bound - 1, work.length)  # queries past `end` still see keys before it
        base_k, base_v = _base(k, 0, b, kv), _base(v, 0, b, kv)
        base_dk, base_dv = _base(dk, 0, b, kv), _base(dv, 0, b, kv)
        for h in range(kv * work.group, (kv + 1) * work.group):
            base_q, base_dq = _base(q, 0, b, h), _base(dq, 0, b, h)
            begun = ADD if h > kv * work.group else work.keys_once
            for start in range(begin, stop, step - 2 * LANES):
                tile = _tile(work, window, b, h, start, stop, step, reach)
                nb, nkv, nh, then = _next(work, item, h, start, stop, step - 2 * LANES)
                soon_k, soon_v = _soon(k, 0, nb, nkv, then), _soon(v, 0, nb, nkv, then)
                _place_queries(tile, reach, work.widest, q, rows_q)
                _place_keys(tile, reach, work.widest, k, rows_k)
                _products(
                    lanes, tile, q, base_q, rows_q, k, base_k, rows_k, score,
                    _soon(q, 0, nb, nh, then),
                )  # fmt: skip
                for c in range(work.choices):
                    base_do = _base(do, c, b, h)
                    _place_queries(tile, reach, c, do, rows_do)
                    _place_keys(tile, reach, c, v, rows_v)
                    _products(
                        lanes, tile, do, base_do, rows_do, v, base_v, rows_v, dp,
                        _soon(do, c, nb, nh, then),
                    )  # fmt: skip
                    # LANES past the last query too: what another tile left there becomes 0
                    for i in range(LANES, min(tile.rows + 2 * LANES, step - LANES), LANES):
                        at = c * step + i
                        softmax(
                            lanes, score, i, step, tile.most, reach, at, scale, slopes[h], p,
                            soon_k, i - LANES,
                        )  # fmt: skip
                        softmax_gradient(p, dp, i, step, tile.most, reach, at, scale, ds, c > 0)
                    _sum_queries(
                        lanes, tile, p, do, base_do, rows_do, begin, end, dv, base_dv,
                        ADD if c > 0 else begun,
                    )  # fmt: skip
                _sum_queries(lanes, tile, ds, q, base_q, rows_q, begin, end, dk, base_dk, begun)
                _sum_keys(lanes, tile, ds, k, base_k, rows_k, end, dq, base_dq, work.once, soon_v)
    publish()


class Pass(NamedTuple):
    """A pass as compiled code."""

    some: Any  # (*arguments, first, last): items first .. last - 1, by the thread that calls
    together: Any  # (start, threads, share, items, arguments): all items, by torch's threads


_share_forward, _share_backward = shared(forward), shared(backward)


# not two closures of one function: what is kept on disk of those no other process finds again


@_compiled()
def _forward_together(start, threads, share, items, arguments):  # type: ignore[no-untyped-def]
    if _share_forward(start, threads, share, items, arguments):
        raise MemoryError


@_compiled()
def _backward_together(start, threads, share, items, arguments):  # type: ignore[no-untyped-def]
    if _share_backward(start, threads, share, items, arguments):
        raise MemoryError


FORWARD, BACKWARD = Pass(forward, _forward_together), Pass(backward, _backward_together)
