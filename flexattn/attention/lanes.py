"""Rows and tiles of scores as machine vectors, for Numba.

Rule: sixteen queries stand side by side. Scores lie key by key, nearest first: entry n * step + r is query r's with the
key n before it, so a softmax runs down sixteen columns at once. Which rows of memory an entry belongs to is looked up
in tables of the same shape, which `place` fills: the loops over D compare nothing and know no edges.

What a query does not see has weight 0 and is not read, its own row is: a NaN reaches those who see it and nobody else.
Every sum has one fixed order, so results do not depend on the number of threads.

These operations are written in LLVM's language, since Numba's own loops over a row of 32 floats take four times as
long. A row's length travels as the length of the tuple `lanes`: D = 8 * len(lanes) is then part of the type, and a
compiled function is kept on disk for each D.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

__all__ = [
    "ADD", "LANES", "LINE", "STREAM", "WRITE", "Soon",
    "dots", "height", "place", "publish", "see", "softmax", "softmax_gradient", "weigh",
]  # fmt: skip

LANES = 16  # queries side by side
LINE = 64  # bytes that memory gives at a time
WRITE, ADD, STREAM = range(3)  # what becomes of a row
_PASSES = 2  # of a loop over keys, in which the next tile's rows are asked for
_WIDE = binding.get_host_cpu_features().get("avx512f")
_SUMS = 1024 if _WIDE else 256  # bytes of sums that stay in registers while rows go by
_TERMS = 8  # terms of a sum that are added up before they join the rest: fewer roundings

_INDEX = ir.IntType(64)
_NUMBER = ir.IntType(32)
_NUMBERS = ir.VectorType(_NUMBER, LANES)
_EACH = ir.Constant(_NUMBERS, list(range(LANES)))
_whole = types.intp


class Soon(NamedTuple):
    """Rows of `memory` that will be read soon: row r begins at first + r * row."""

    memory: np.ndarray
    first: int
    row: int


class _Code:
    """LLVM's builder, and the few words that the operations below are made of."""

    def __init__(self, context: Any, builder: Any, signature: Any, args: Any) -> None:
        """`args` become those given, arrays (that of a Soon too) as pointers to their first element."""
        self.builder, self.args, numbers = builder, [], []
        for kind, given in zip(signature.args, args):
            if isinstance(kind, types.NamedTuple):
                memory, *rest = cgutils.unpack_tuple(builder, given)
                given = (context.make_array(kind.types[0])(context, builder, memory).data, *rest)
            if isinstance(kind, types.Array):
                given = context.make_array(kind)(context, builder, given).data
                numbers += [kind.dtype] if isinstance(kind.dtype, types.Float) else []
            self.args.append(given)
        self.nothing = context.get_dummy_value()
        if numbers:
            self.scalar = context.get_data_type(numbers[0])
            self.size = numbers[0].bitwidth // 8
            self.column = ir.VectorType(self.scalar, LANES)

    def part(self, dim: int) -> ir.VectorType:
        """The vector that a row of D numbers is made of: of 16 float32 where 16 divides D, else of 8 numbers."""
        return ir.VectorType(self.scalar, 16 if self.size == 4 and dim % 16 == 0 else 8)

    def at(self, array: Any, *offsets: Any) -> Any:
        """A pointer to an element."""
        for offset in offsets:
            array = self.builder.gep(array, [_INDEX(offset) if type(offset) is int else offset])
        return array

    def load(self, vector: ir.VectorType, pointer: Any) -> Any:
        loaded = self.builder.load(self.builder.bitcast(pointer, vector.as_pointer()))
        loaded.align = 4 if vector == _NUMBERS else self.size
        return loaded

    def store(self, value: Any, pointer: Any) -> None:
        target = self.builder.bitcast(pointer, value.type.as_pointer())
        self.builder.store(value, target).align = 4 if value.type == _NUMBERS else self.size

    def stream(self, value: Any, pointer: Any) -> None:
        """Store past the caches: whole lines are not read before they are written. Wants them aligned."""
        target = self.builder.bitcast(pointer, value.type.as_pointer())
        stored = self.builder.store(value, target)
        stored.align = value.type.count * self.size
        once = self.builder.module.add_metadata([_NUMBER(1)])
        stored.set_metadata("nontemporal", once)

    def constant(self, value: float, vector: ir.VectorType | None = None) -> Any:
        vector = vector or self.column
        return ir.Constant(vector, [ir.Constant(vector.element, value)] * vector.count)

    def splat(self, scalar: Any, vector: ir.VectorType) -> Any:
        undefined = ir.Constant(vector, ir.Undefined)
        one = self.builder.insert_element(undefined, scalar, _NUMBER(0))
        zeros = ir.Constant(ir.VectorType(_NUMBER, vector.count), None)
        return self.builder.shuffle_vector(one, undefined, zeros)

    def numbers(self, index: Any) -> Any:
        """Sixteen times an index."""
        return self.splat(self.builder.trunc(index, _NUMBER), _NUMBERS)

    def shuffle(self, x: Any, y: Any, order: list[int]) -> Any:
        wanted = ir.VectorType(_NUMBER, len(order))
        return self.builder.shuffle_vector(x, y, ir.Constant(wanted, order))

    def call(self, name: str, result: Any, *values: Any) -> Any:
        """An LLVM intrinsic."""
        shape = ir.FunctionType(result, [value.type for value in values])
        function = cgutils.get_or_insert_function(self.builder.module, shape, f"llvm.{name}")
        return self.builder.call(function, values)

    def fma(self, x: Any, y: Any, z: Any) -> Any:
        """x y + z."""
        return self.call(f"fmuladd.v{x.type.count}f{8 * self.size}", x.type, x, y, z)

    def least(self, x: Any, y: Any) -> Any:
        return self.builder.select(self.builder.icmp_signed("<", x, y), x, y)

    def most(self, x: Any, y: Any) -> Any:
        return self.builder.select(self.builder.icmp_signed(">", x, y), x, y)

    def carried(self, value: Any) -> Any:
        """A place for what a loop carries on; LLVM keeps it in registers."""
        place = cgutils.alloca_once(self.builder, value.type)
        self.builder.store(value, place)
        return place

    def loop(self, count: Any) -> Any:
        """Runs what is built inside for `index` in 0 .. count - 1."""
        return cgutils.for_range(self.builder, count)

    def farthest_first(self, index: Any, count: Any) -> Any:
        """The distance for a loop's index: under ALiBi far keys weigh least, and least is summed first."""
        return self.builder.sub(self.builder.sub(count, _INDEX(1)), index)

    def entry(self, n: Any, step: Any, first: Any) -> Any:
        """Where line n of a table goes on in column `first`."""
        return self.builder.add(first, self.builder.mul(n, step))

    def ask(self, soon: Any, r: Any, loop: Any, dim: int) -> None:
        """Ask memory for a share of row r of `soon`, in a loop's first passes; where there is none, nothing happens.

        A few lines at a time between other work: of many at once most are dropped.
        """
        memory, first, stride = soon
        line = LINE // self.size
        lines = -(-dim // line)
        share = -(-lines // _PASSES)
        begin = self.least(self.builder.mul(loop.index, _INDEX(share)), _INDEX(lines - share))
        row = self.at(memory, self.entry(r, stride, first), self.builder.mul(begin, _INDEX(line)))
        reading, near, data = _NUMBER(0), _NUMBER(3), _NUMBER(1)
        for n in range(share):
            place = self.builder.bitcast(self.at(row, n * line), ir.IntType(8).as_pointer())
            self.call("prefetch.p0", ir.VoidType(), place, reading, near, data)

    def row(self, memory: Any, base: Any, table: Any, entry: Any) -> Any:
        """A pointer to the row that an entry of a table names."""
        offset = self.builder.sext(self.builder.load(self.at(table, entry)), _INDEX)
        return self.at(memory, self.builder.add(base, offset))


@intrinsic
def see(typing_context, window, at, t, left, bound, reach, i):  # type: ignore[no-untyped-def]
    """reach[i + r] = keys that query t + r sees, 1 .. min(t + r + 1, bound); its window is window[at + r].

    0 for r from `left` on. Returns the largest of the sixteen.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        code = _Code(context, builder, signature, args)
        window, at, t, left, bound, reach, i = code.args
        none, one = code.constant(0, _NUMBERS), code.constant(1, _NUMBERS)
        there = builder.icmp_signed("<", _EACH, code.numbers(left))
        place = builder.bitcast(code.at(window, at), _NUMBERS.as_pointer())
        wanted = code.call(f"masked.load.v{LANES}i32.p0", _NUMBERS, place, _NUMBER(4), there, none)
        past = builder.add(builder.add(code.numbers(t), _EACH), one)
        seen = code.least(wanted, code.least(past, code.numbers(bound)))
        seen = builder.select(there, code.most(seen, one), none)
        code.store(seen, code.at(reach, i))
        largest = code.call(f"vector.reduce.smax.v{LANES}i32", _NUMBER, seen)
        return builder.sext(largest, _INDEX)

    return _whole(window, _whole, _whole, _whole, _whole, reach, _whole), generate


@intrinsic
def place(typing_context, reach, i, t, last, stride, swapped, count, step, out, o):  # type: ignore[no-untyped-def]
    """out[o + n * step + r] = stride * the row that stands for query t + r and the key n before it, n < count.

    The key's where it is seen, n < reach[i + r], else the query's own; `swapped` the other way
    round. Cut to 0 .. last.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        code = _Code(context, builder, signature, args)
        reach, i, t, last, stride, swapped, count, step, out, o = code.args
        last, stride = code.numbers(last), code.numbers(stride)
        swapped = code.splat(swapped, ir.VectorType(swapped.type, LANES))
        seen_of = code.load(_NUMBERS, code.at(reach, i))
        here = builder.add(code.numbers(t), _EACH)

        def cut(row: Any) -> Any:
            return code.least(code.most(row, code.constant(0, _NUMBERS)), last)

        query = cut(here)
        with code.loop(count) as loop:
            n = code.numbers(loop.index)
            key = cut(builder.sub(here, n))
            seen = builder.xor(builder.icmp_signed("<", n, seen_of), swapped)
            row = builder.mul(builder.select(seen, key, query), stride)
            code.store(row, code.at(out, code.entry(loop.index, step, o)))
        return code.nothing

    given = (reach, _whole, _whole, _whole, _whole, types.boolean, _whole, _whole, out, _whole)
    return types.none(*given), generate


def _halves(code: _Code, x: Any, y: Any, block: int, chunk: int) -> Any:
    """Of each block of x and of y: its even chunks plus its odd ones, x before y."""
    even: list[int] = []
    odd: list[int] = []
    for start in range(0, x.type.count, block):
        for offset in (start, x.type.count + start):
            for first in range(offset, offset + block, 2 * chunk):
                even += range(first, first + chunk)
                odd += range(first + chunk, first + 2 * chunk)
    return code.builder.fadd(code.shuffle(x, y, even), code.shuffle(x, y, odd))


def _sums(code: _Code, rows: Callable[[int], list[Any]], first: int, count: int) -> list[Any]:
    """The sums of `count` vectors as one, by halves: within 16 bytes first, where that is cheap.

    `rows(r)` is several vectors, each kind summed by itself.
    """
    if count == 1:
        return rows(first)
    half = count // 2
    pairs = zip(_sums(code, rows, first, half), _sums(code, rows, first + half, half))
    lane = 16 // code.size
    if count <= lane:
        return [_halves(code, x, y, lane, lane // count) for x, y in pairs]
    return [_halves(code, x, y, x.type.count, lane) for x, y in pairs]


@intrinsic
def dots(  # type: ignore[no-untyped-def]
    typing_context, lanes, a, i, rows_a, b, j, rows_b, o, step, count, out, soon, s
):  # fmt: skip
    """out[e] = (a's row at i + rows_a[o + r]) . (b's row at j + rows_b[e]), e = o + n * step + r, n < count.

    Two n at a time, since loading a's row is half the work: an odd count writes one line more.
    Asks memory for rows s + r of `soon`.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        code = _Code(context, builder, signature, args)
        _, a, i, rows_a, b, j, rows_b, o, step, count, out, soon, s = code.args
        dim = 8 * len(lanes)
        vector = code.part(dim)
        starts = [code.row(a, i, rows_a, builder.add(o, _INDEX(r))) for r in range(LANES)]
        one = _INDEX(1)
        with code.loop(builder.lshr(builder.add(count, one), one)) as loop:
            first = code.entry(builder.shl(loop.index, one), step, o)
            lines = (first, builder.add(first, step))

            def products(r: int) -> list[Any]:
                keys = [code.row(b, j, rows_b, builder.add(line, _INDEX(r))) for line in lines]
                totals: list[Any] = []
                code.ask(soon, builder.add(s, _INDEX(r)), loop, dim)
                for d in range(0, dim, vector.count):
                    x = code.load(vector, code.at(starts[r], d))
                    ys = [code.load(vector, code.at(key, d)) for key in keys]
                    if d == 0:
                        totals = [builder.fmul(x, y) for y in ys]
                    else:
                        totals = [code.fma(x, y, total) for y, total in zip(ys, totals)]
                return totals

            groups = range(0, LANES, vector.count)
            sums = [_sums(code, products, group, vector.count) for group in groups]
            for line, *found in zip(lines, *sums):
                if len(found) == 2:
                    found = [code.shuffle(found[0], found[1], list(range(LANES)))]
                code.store(found[0], code.at(out, line))
        return code.nothing

    given = (lanes, a, _whole, rows_a, b, _whole, rows_b, _whole, _whole, _whole, out)
    return types.none(*given, soon, _whole), generate


def _rows_at_once(dim: int, size: int) -> int:
    rows = LANES
    while rows > 1 and rows * dim * size > _SUMS:
        rows //= 2
    return rows


@intrinsic
def height(typing_context, lanes, p):  # type: ignore[no-untyped-def]
    """Rows that `weigh` makes at once."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _INDEX(_rows_at_once(8 * len(lanes), p.dtype.bitwidth // 8))

    return _whole(lanes, p), generate


@intrinsic
def weigh(  # type: ignore[no-untyped-def]
    typing_context, lanes, p, rows, i, step, count, b, j, out, o, stride, left, how, soon, s
):  # fmt: skip
    """out's row at o + r * stride = sum over n < count of p[e] * (b's row at j + rows[e]), e = i + n * step + r.

    For r below `height` and `left`; `how` is WRITE, ADD to what stands there or STREAM, for whole
    lines of memory that nobody reads soon. Asks memory for rows s + r of `soon`, if it is not None.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        code = _Code(context, builder, signature, args)
        _, p, rows, i, step, count, b, j, out, o, stride, left, how, soon, s = code.args
        asked = signature.args[-2] != types.none
        dim = 8 * len(lanes)
        vector = code.part(dim)
        zero, parts = code.constant(0.0, vector), range(0, dim, vector.count)
        height = _rows_at_once(dim, code.size)
        sums = [[code.carried(zero) for _ in parts] for _ in range(height)]
        few = [[code.carried(zero) for _ in parts] for _ in range(height)]
        terms = _INDEX(_TERMS)
        chunks = builder.udiv(builder.add(count, _INDEX(_TERMS - 1)), terms)
        with code.loop(chunks) as chunk:
            begin = builder.mul(chunk.index, terms)
            with code.loop(code.least(terms, builder.sub(count, begin))) as loop:
                n = code.farthest_first(builder.add(begin, loop.index), count)
                line = code.entry(n, step, i)
                for r, totals in enumerate(few):
                    entry = builder.add(line, _INDEX(r))
                    factor = code.splat(builder.load(code.at(p, entry)), vector)
                    row = code.row(b, j, rows, entry)
                    if asked:
                        code.ask(soon, builder.add(s, _INDEX(r)), loop, dim)
                    for d, total in zip(parts, totals):
                        x = code.load(vector, code.at(row, d))
                        builder.store(code.fma(factor, x, builder.load(total)), total)
            for totals, terms_of in zip(sums, few):
                for total, term in zip(totals, terms_of):
                    builder.store(builder.fadd(builder.load(total), builder.load(term)), total)
                    builder.store(zero, term)

        def add(value: Any, pointer: Any) -> None:
            code.store(builder.fadd(code.load(vector, pointer), value), pointer)

        ways = {WRITE: code.store, ADD: add, STREAM: code.stream}
        for r, totals in enumerate(sums):
            with builder.if_then(builder.icmp_signed("<", _INDEX(r), left), likely=True):
                target = code.at(out, code.entry(_INDEX(r), stride, o))
                for wanted, store in ways.items():
                    with builder.if_then(builder.icmp_signed("==", how, _INDEX(wanted))):
                        for d, total in zip(parts, totals):
                            store(builder.load(total), code.at(target, d))
        return code.nothing

    given = (lanes, p, rows, _whole, _whole, _whole, b, _whole, out, _whole, _whole, _whole)
    return types.none(*given, _whole, soon, _whole), generate


def _exp(code: _Code, x: Any) -> Any:
    """exp of a vector of arguments <= 0.

    exp(x) = 2^n exp(f), n = round(x / ln 2), |f| <= ln(2) / 2, Taylor's polynomial of degree 7
    (float32) or 13 (float64): within 2 units in the last place. Where it would come near the least
    normal number it is 0: what lies below is slow to reckon with.
    """
    builder, single = code.builder, code.size == 4
    integer = ir.VectorType(ir.IntType(8 * code.size), LANES)
    least = code.constant(-80.0 if single else -700.0)
    nothing = builder.fcmp_ordered("<", x, least)  # not so for NaN, which passes through
    x = builder.select(nothing, least, x)
    n = builder.fmul(x, code.constant(1 / math.log(2)))
    n = code.call(f"rint.v{LANES}f{8 * code.size}", x.type, n)
    # ln 2 in two parts, the first exact times n
    high, low = (0.693359375, -2.12194440e-4)
    if not single:
        high, low = (6.93145751953125e-1, 1.42860682030941723212e-6)
    f = code.fma(n, code.constant(-high), x)
    f = code.fma(n, code.constant(-low), f)
    degree = 7 if single else 13
    value = code.constant(1 / math.factorial(degree))
    for power in range(degree - 1, -1, -1):
        value = code.fma(value, f, code.constant(1 / math.factorial(power)))
    bias, shift = (127, 23) if single else (1023, 52)
    exponent = builder.add(builder.fptosi(n, integer), code.constant(bias, integer))
    exponent = builder.shl(exponent, code.constant(shift, integer))
    value = builder.fmul(value, builder.bitcast(exponent, x.type))
    return builder.select(nothing, code.constant(0.0), value)


@intrinsic
def softmax(  # type: ignore[no-untyped-def]
    typing_context, lanes, score, i, step, count, reach, r, scale, slope, p, soon, s
):  # fmt: skip
    """p[i + n * step ..] = softmax over n < count of scale * score - slope * n, 0 from n = reach[r ..] on.

    Asks memory for rows s .. s + 15 of `soon`.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        code = _Code(context, builder, signature, args)
        _, score, i, step, count, reach, r, scale, slope, p, soon, s = code.args
        dim = 8 * len(lanes)
        scale, fall = code.splat(scale, code.column), code.splat(builder.fneg(slope), code.column)
        seen_of = code.load(_NUMBERS, code.at(reach, r))
        zero, never = code.constant(0.0), code.constant(-math.inf)
        top, total = code.carried(never), code.carried(zero)

        def seen(n: Any) -> Any:
            return builder.icmp_signed("<", code.numbers(n), seen_of)

        with code.loop(count) as loop:
            entry = code.entry(loop.index, step, i)
            x = builder.fmul(code.load(code.column, code.at(score, entry)), scale)
            far = code.splat(builder.sitofp(loop.index, code.scalar), code.column)
            x = builder.select(seen(loop.index), code.fma(fall, far, x), never)
            # a NaN is never the largest; the exponential brings it back
            higher = builder.fcmp_ordered(">", x, builder.load(top))
            builder.store(builder.select(higher, x, builder.load(top)), top)
            code.store(x, code.at(p, entry))
        with code.loop(count) as loop:
            line = code.at(p, code.entry(code.farthest_first(loop.index, count), step, i))
            with builder.if_then(builder.icmp_signed("<", loop.index, _INDEX(_PASSES))):
                for row in range(LANES):
                    code.ask(soon, builder.add(s, _INDEX(row)), loop, dim)
            x = _exp(code, builder.fsub(code.load(code.column, line), builder.load(top)))
            builder.store(builder.fadd(x, builder.load(total)), total)
            code.store(x, line)
        inverse = builder.fdiv(code.constant(1.0), builder.load(total))
        with code.loop(count) as loop:
            line = code.at(p, code.entry(loop.index, step, i))
            x = builder.fmul(code.load(code.column, line), inverse)
            code.store(builder.select(seen(loop.index), x, zero), line)
        return code.nothing

    given = (lanes, score, _whole, _whole, _whole, reach, _whole, score.dtype, score.dtype, p)
    return types.none(*given, soon, _whole), generate


@intrinsic
def softmax_gradient(typing_context, p, dp, i, step, count, reach, r, scale, ds, more):  # type: ignore[no-untyped-def]
    """ds[i + n * step ..] = scale * p * (dp - sum over n < count of p dp), 0 from n = reach[r ..] on.

    `more` adds to what stands there.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        code = _Code(context, builder, signature, args)
        p, dp, i, step, count, reach, r, scale, ds, more = code.args
        scale, zero = code.splat(scale, code.column), code.constant(0.0)
        seen_of = code.load(_NUMBERS, code.at(reach, r))
        delta = code.carried(zero)

        def seen(n: Any) -> Any:
            return builder.icmp_signed("<", code.numbers(n), seen_of)

        with code.loop(count) as loop:
            n = code.farthest_first(loop.index, count)
            entry = code.entry(n, step, i)
            x, y = (code.load(code.column, code.at(array, entry)) for array in (p, dp))
            y = builder.select(seen(n), y, zero)
            builder.store(code.fma(x, y, builder.load(delta)), delta)
        with code.loop(count) as loop:
            entry = code.entry(loop.index, step, i)
            x, y, old = (code.load(code.column, code.at(array, entry)) for array in (p, dp, ds))
            new = builder.fmul(builder.fmul(x, builder.fsub(y, builder.load(delta))), scale)
            new = builder.select(seen(loop.index), new, zero)
            old = builder.select(more, old, zero)
            code.store(builder.fadd(new, old), code.at(ds, entry))
        return code.nothing

    given = (p, dp, _whole, _whole, _whole, reach, _whole, p.dtype, ds, types.boolean)
    return types.none(*given), generate


@intrinsic
def publish(typing_context):  # type: ignore[no-untyped-def]
    """Rows that were streamed are there for other threads too."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.none(), generate
