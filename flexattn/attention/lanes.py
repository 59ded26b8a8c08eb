"""Rows and tiles of scores as machine vectors, for Numba.

Rule: eight queries stand side by side. Scores lie key by key, nearest first: entry [n * step + r] is query r's with the
key n before it. A softmax then runs down eight columns at once, and a row of D numbers stays in registers while its
weights are gone through. Every sum has one fixed order, so results do not depend on the number of threads.

What a query does not see has weight 0 and is not read, its own row is: a NaN reaches those who see it and nobody else.

These operations are written in LLVM's language, since Numba's own loops over a row of 32 floats take four times as
long. A row's length travels as the length of the tuple `lanes`: D = 8 * len(lanes) is then part of the type, and a
compiled function is kept on disk for each D.
"""

from __future__ import annotations

import math
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

__all__ = ["LANES", "ahead", "dots", "gather", "softmax", "softmax_gradient", "weigh"]

LANES = 8  # queries side by side
_LINE = 64  # bytes that memory gives at a time
_INDEX = ir.IntType(64)
_REACH = ir.VectorType(ir.IntType(32), LANES)


class _Code:
    """LLVM's builder, and the few words that the operations below are made of."""

    def __init__(self, context: Any, builder: Any, signature: Any, args: Any, like: int) -> None:
        """Numbers are those of array argument `like`."""
        self.context, self.builder, self.signature, self.args = context, builder, signature, args
        kind = signature.args[like].dtype
        self.size = kind.bitwidth // 8
        self.scalar = context.get_data_type(kind)
        self.eight = ir.VectorType(self.scalar, LANES)

    def at(self, array: int, offset: Any) -> Any:
        """A pointer to element `offset` of array argument `array`."""
        kind = self.context.make_array(self.signature.args[array])
        return self.builder.gep(kind(self.context, self.builder, self.args[array]).data, [offset])

    def load(self, vector: ir.VectorType, pointer: Any) -> Any:
        loaded = self.builder.load(self.builder.bitcast(pointer, vector.as_pointer()))
        loaded.align = 4 if vector is _REACH else self.size
        return loaded

    def store(self, value: Any, pointer: Any) -> None:
        target = self.builder.bitcast(pointer, value.type.as_pointer())
        self.builder.store(value, target).align = self.size

    def constant(self, value: float, vector: ir.VectorType | None = None) -> Any:
        vector = vector or self.eight
        return ir.Constant(vector, [ir.Constant(vector.element, value)] * vector.count)

    def splat(self, scalar: Any, vector: ir.VectorType) -> Any:
        undefined = ir.Constant(vector, ir.Undefined)
        one = self.builder.insert_element(undefined, scalar, ir.IntType(32)(0))
        zeros = ir.Constant(ir.VectorType(ir.IntType(32), vector.count), None)
        return self.builder.shuffle_vector(one, undefined, zeros)

    def shuffle(self, x: Any, y: Any, order: list[int]) -> Any:
        wanted = ir.VectorType(ir.IntType(32), len(order))
        return self.builder.shuffle_vector(x, y, ir.Constant(wanted, order))

    def call(self, name: str, *values: Any) -> Any:
        """An LLVM function of vectors of one type."""
        kind = values[0].type
        full = f"llvm.{name}.v{kind.count}f{8 * self.size}"
        shape = ir.FunctionType(kind, [kind] * len(values))
        return self.builder.call(
            cgutils.get_or_insert_function(self.builder.module, shape, full), values
        )

    def add(self, x: Any, y: Any) -> Any:
        return self.builder.add(x, y)

    def least(self, x: Any, y: Any) -> Any:
        return self.builder.select(self.builder.icmp_signed("<", x, y), x, y)

    def most(self, x: Any, y: Any) -> Any:
        return self.builder.select(self.builder.icmp_signed(">", x, y), x, y)

    def carried(self, value: Any) -> Any:
        """A place for what a loop carries on; LLVM keeps it in registers."""
        place = cgutils.alloca_once(self.builder, value.type)
        self.builder.store(value, place)
        return place

    def seen(self, n: Any, reach: Any) -> Any:
        """Which of eight queries see their key n."""
        n = self.splat(self.builder.trunc(n, ir.IntType(32)), _REACH)
        return self.builder.icmp_signed("<", n, reach)

    @property
    def nothing(self) -> Any:
        return self.context.get_dummy_value()


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


def _sums(code: _Code, rows: list[Any]) -> Any:
    """The sums of eight vectors as one, by halves: within 16 bytes first, where that is cheap."""
    width, lane = rows[0].type.count, 16 // code.size
    block, chunk = lane, lane // 2
    while len(rows) > 1:
        rows = [_halves(code, x, y, block, chunk) for x, y in zip(rows[::2], rows[1::2])]
        if chunk > 1 and block == lane:
            chunk //= 2
        else:
            block, chunk = width, lane
    (total,) = rows
    if width > LANES:
        parts = [
            [n for start in range(first, width, 2 * lane) for n in range(start, start + lane)]
            for first in (0, lane)
        ]
        total = code.builder.fadd(*(code.shuffle(total, total, part) for part in parts))
    return total


@intrinsic
def dots(typing_context, lanes, a, i, sa, ia, b, j, sb, jb, jc, out, o):  # type: ignore[no-untyped-def]
    """out[o + r] = a's row r . b's row r for r in 0 .. 7.

    a's row r begins at min(i + r * sa, ia), b's at j + r * sb, cut to jb .. jc.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        code = _Code(context, builder, signature, args, 1)
        dim = LANES * len(lanes)
        width = 16 if code.size == 4 and dim % 16 == 0 else LANES
        vector = ir.VectorType(code.scalar, width)
        rows = []
        for r in range(LANES):
            at_a = code.least(code.add(args[2], builder.mul(args[3], _INDEX(r))), args[4])
            at_b = code.add(args[6], builder.mul(args[7], _INDEX(r)))
            at_b = code.least(code.most(at_b, args[8]), args[9])
            total = None
            for d in range(0, dim, width):
                x = code.load(vector, code.at(1, code.add(at_a, _INDEX(d))))
                y = code.load(vector, code.at(5, code.add(at_b, _INDEX(d))))
                total = builder.fmul(x, y) if total is None else code.call("fmuladd", x, y, total)
            rows.append(total)
        code.store(_sums(code, rows), code.at(10, args[11]))
        return code.nothing

    whole = types.intp
    given = (lanes, a, whole, whole, whole, b, whole, whole, whole, whole, out, whole)
    return types.none(*given), generate


def _weighted(code: _Code, vector: ir.VectorType, count: Any, term: Any) -> Any:
    """Sum over n < count of factor * row, `term(n)` giving a factor and where its row lies.

    Even and odd n are summed apart: half as many roundings in a row, and half the wait for each.
    """
    builder, zero = code.builder, code.constant(0.0, vector)
    sums = [code.carried(zero), code.carried(zero)]
    pairs = builder.lshr(code.add(count, _INDEX(1)), _INDEX(1))
    with cgutils.for_range(builder, pairs) as loop:
        for odd, total in enumerate(sums):
            n = code.add(builder.mul(loop.index, _INDEX(2)), _INDEX(odd))
            there = builder.icmp_signed("<", n, count)
            factor, pointer = term(builder.select(there, n, _INDEX(0)))
            factor = builder.select(there, factor, code.scalar(0.0))
            row = code.load(vector, pointer)
            new = code.call("fmuladd", code.splat(factor, vector), row, builder.load(total))
            builder.store(new, total)
    return builder.fadd(*(builder.load(total) for total in sums))


@intrinsic
def weigh(typing_context, lanes, p, i, step, count, reach, r, b, j, sb, out, o):  # type: ignore[no-untyped-def]
    """Row out[o] = sum over n < count of p[i + n * step] * (b's row at j - n * sb), n < reach[r]."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        code = _Code(context, builder, signature, args, 1)
        seen = builder.sext(builder.load(code.at(5, args[6])), _INDEX)

        def term(n: Any) -> tuple[Any, Any]:
            factor = builder.load(code.at(1, code.add(args[2], builder.mul(n, args[3]))))
            far = builder.sub(args[8], builder.mul(n, args[9]))
            see = builder.icmp_signed("<", n, seen)
            return factor, code.at(7, builder.select(see, far, args[8]))

        vector = ir.VectorType(code.scalar, LANES * len(lanes))
        code.store(_weighted(code, vector, args[4], term), code.at(10, args[11]))
        return code.nothing

    whole = types.intp
    given = (lanes, p, whole, whole, whole, reach, whole, b, whole, whole, out, whole)
    return types.none(*given), generate


@intrinsic
def gather(typing_context, lanes, p, i, step, skip, count, reach, r, b, j, sb, out, o, first):  # type: ignore[no-untyped-def]
    """Row out[o] += sum over skip <= n < count of p[i + n * (step + 1)] * (b's row at j + n * sb).

    Only n < reach[r + n] count; the `first` sum is set, not added.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        code = _Code(context, builder, signature, args, 1)
        step = code.add(args[3], _INDEX(1))  # down the diagonal: query r + n, its key n

        def term(n: Any) -> tuple[Any, Any]:
            n = code.add(n, args[4])
            seen = builder.sext(builder.load(code.at(6, code.add(args[7], n))), _INDEX)
            see = builder.icmp_signed("<", n, seen)
            factor = builder.load(code.at(1, code.add(args[2], builder.mul(n, step))))
            near = builder.select(see, code.add(args[9], builder.mul(n, args[10])), args[9])
            return builder.select(see, factor, code.scalar(0.0)), code.at(8, near)

        vector = ir.VectorType(code.scalar, LANES * len(lanes))
        total = _weighted(code, vector, builder.sub(args[5], args[4]), term)
        target = code.at(11, args[12])
        with builder.if_else(args[13]) as (fresh, more):
            with fresh:
                code.store(total, target)
            with more:
                code.store(builder.fadd(total, code.load(vector, target)), target)
        return code.nothing

    whole = types.intp
    given = (lanes, p, whole, whole, whole, whole, reach, whole, b, whole, whole, out, whole)
    return types.none(*given, types.boolean), generate


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
    n = code.call("rint", builder.fmul(x, code.constant(1 / math.log(2))))
    # ln 2 in two parts, the first exact times n
    high, low = (0.693359375, -2.12194440e-4)
    if not single:
        high, low = (6.93145751953125e-1, 1.42860682030941723212e-6)
    f = code.call("fmuladd", n, code.constant(-high), x)
    f = code.call("fmuladd", n, code.constant(-low), f)
    degree = 7 if single else 13
    value = code.constant(1 / math.factorial(degree))
    for power in range(degree - 1, -1, -1):
        value = code.call("fmuladd", value, f, code.constant(1 / math.factorial(power)))
    bias, shift = (127, 23) if single else (1023, 52)
    exponent = builder.add(builder.fptosi(n, integer), code.constant(bias, integer))
    exponent = builder.shl(exponent, code.constant(shift, integer))
    value = builder.fmul(value, builder.bitcast(exponent, x.type))
    return builder.select(nothing, code.constant(0.0), value)


@intrinsic
def softmax(typing_context, score, i, step, count, reach, r, scale, slope, p):  # type: ignore[no-untyped-def]
    """p[i + n * step ..] = softmax over n of scale * score - slope * n, eight queries at once.

    0 from n = reach[r ..] on.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        code = _Code(context, builder, signature, args, 0)
        reach_of = code.load(_REACH, code.at(4, args[5]))
        scale_of, slope_of = (code.splat(args[n], code.eight) for n in (6, 7))
        top = code.carried(code.constant(-math.inf))
        total = code.carried(code.constant(0.0))

        def entry(n: Any) -> Any:
            return code.add(args[1], builder.mul(n, args[2]))

        with cgutils.for_range(builder, args[3]) as loop:
            x = builder.fmul(code.load(code.eight, code.at(0, entry(loop.index))), scale_of)
            far = code.splat(builder.sitofp(loop.index, code.scalar), code.eight)
            x = code.call("fmuladd", builder.fneg(slope_of), far, x)
            seen = code.seen(loop.index, reach_of)
            x = builder.select(seen, x, code.constant(-math.inf))
            builder.store(code.call("maxnum", x, builder.load(top)), top)
            code.store(x, code.at(8, entry(loop.index)))
        # the largest may pass over a NaN; the exponential then brings it back
        with cgutils.for_range(builder, args[3]) as loop:
            place = code.at(8, entry(loop.index))
            x = _exp(code, builder.fsub(code.load(code.eight, place), builder.load(top)))
            builder.store(builder.fadd(x, builder.load(total)), total)
            code.store(x, place)
        inverse = builder.fdiv(code.constant(1.0), builder.load(total))
        with cgutils.for_range(builder, args[3]) as loop:
            place = code.at(8, entry(loop.index))
            x = builder.fmul(code.load(code.eight, place), inverse)
            seen = code.seen(loop.index, reach_of)
            code.store(builder.select(seen, x, code.constant(0.0)), place)
        return code.nothing

    whole = types.intp
    given = (score, whole, whole, whole, reach, whole, score.dtype, score.dtype, p)
    return types.none(*given), generate


@intrinsic
def softmax_gradient(typing_context, p, dp, i, step, count, reach, r, scale, ds, first):  # type: ignore[no-untyped-def]
    """ds[i + n * step ..] += scale * p * (dp - sum of p dp), eight queries at once.

    0 from n = reach[r ..] on; the `first` is set, not added.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        code = _Code(context, builder, signature, args, 0)
        reach_of = code.load(_REACH, code.at(5, args[6]))
        scale_of, zero = code.splat(args[7], code.eight), code.constant(0.0)
        delta = code.carried(zero)

        def entry(n: Any) -> Any:
            return code.add(args[2], builder.mul(n, args[3]))

        with cgutils.for_range(builder, args[4]) as loop:
            x, y = (code.load(code.eight, code.at(n, entry(loop.index))) for n in (0, 1))
            y = builder.select(code.seen(loop.index, reach_of), y, zero)
            builder.store(code.call("fmuladd", x, y, builder.load(delta)), delta)
        with cgutils.for_range(builder, args[4]) as loop:
            x, y, old = (code.load(code.eight, code.at(n, entry(loop.index))) for n in (0, 1, 8))
            new = builder.fmul(builder.fmul(x, builder.fsub(y, builder.load(delta))), scale_of)
            new = builder.select(code.seen(loop.index, reach_of), new, zero)
            old = builder.select(args[9], zero, old)
            code.store(builder.fadd(new, old), code.at(8, entry(loop.index)))
        return code.nothing

    whole = types.intp
    given = (p, dp, whole, whole, whole, reach, whole, p.dtype, ds, types.boolean)
    return types.none(*given), generate


@intrinsic
def ahead(typing_context, lanes, a, i, step):  # type: ignore[no-untyped-def]
    """Ask memory for eight rows that will be read soon; where there is none, nothing happens."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        code = _Code(context, builder, signature, args, 1)
        byte = ir.IntType(8).as_pointer()
        shape = ir.FunctionType(ir.VoidType(), [byte] + [ir.IntType(32)] * 3)
        fetch = cgutils.get_or_insert_function(builder.module, shape, "llvm.prefetch.p0")
        for r in range(LANES):
            at = code.add(args[2], builder.mul(args[3], _INDEX(r)))
            for d in range(0, LANES * len(lanes), _LINE // code.size):
                place = builder.bitcast(code.at(1, code.add(at, _INDEX(d))), byte)
                builder.call(fetch, [place, *(ir.IntType(32)(n) for n in (0, 3, 1))])
        return code.nothing

    return types.none(lanes, a, types.intp, types.intp), generate
