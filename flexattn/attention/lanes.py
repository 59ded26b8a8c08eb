"""Rows of D floats as single machine vectors, for Numba.

Rule: a row is loaded, multiplied and stored whole, in one fixed order, so results do not depend on the number of
threads. Numba's own loops over a row of 32 floats spend more time on checks than on arithmetic (16 ms against 4 ms
for one thread on B256 T128 H4 D32), so these five operations are written in LLVM's language.

A row length travels as the length of the tuple `lanes`: D = 8 * len(lanes) is then part of the type, and a compiled
function is kept on disk for each D.
"""

from __future__ import annotations

import math
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

__all__ = ["LANES", "copy_block", "dot", "exp_block", "row_add", "row_set", "scale_block", "softmax_block"]

LANES = 8  # floats in one step of `lanes`, and in one block of `exp_block`


def _pointer(context: Any, builder: Any, array_type: Any, array: Any, offset: Any) -> Any:
    return builder.gep(context.make_array(array_type)(context, builder, array).data, [offset])


def _vector(context: Any, array_type: Any, length: int) -> tuple[ir.Type, ir.VectorType, int]:
    """LLVM's scalar type, vector type and a scalar's size in bytes."""
    scalar = context.get_data_type(array_type.dtype)
    return scalar, ir.VectorType(scalar, length), array_type.dtype.bitwidth // 8


def _load(builder: Any, vector: ir.VectorType, pointer: Any, align: int) -> Any:
    loaded = builder.load(builder.bitcast(pointer, vector.as_pointer()))
    loaded.align = align
    return loaded


def _store(builder: Any, value: Any, pointer: Any, align: int) -> None:
    builder.store(value, builder.bitcast(pointer, value.type.as_pointer())).align = align


def _splat(builder: Any, vector: ir.VectorType, scalar: Any) -> Any:
    index = ir.IntType(32)
    undefined = ir.Constant(vector, ir.Undefined)
    one = builder.insert_element(undefined, scalar, ir.Constant(index, 0))
    return builder.shuffle_vector(
        one, undefined, ir.Constant(ir.VectorType(index, vector.count), None)
    )


def _declare(builder: Any, name: str, returns: ir.Type, *takes: ir.Type) -> Any:
    return cgutils.get_or_insert_function(builder.module, ir.FunctionType(returns, takes), name)


@intrinsic
def dot(typing_context, lanes, a, i, b, j):  # type: ignore[no-untyped-def]
    """sum over d of a[i + d] * b[j + d], D = 8 * len(lanes) terms."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _, vector, size = _vector(context, signature.args[1], LANES * len(lanes))
        x = _load(
            builder, vector, _pointer(context, builder, signature.args[1], args[1], args[2]), size
        )
        y = _load(
            builder, vector, _pointer(context, builder, signature.args[3], args[3], args[4]), size
        )
        return _sum(builder, builder.fmul(x, y), size)

    return a.dtype(lanes, a, types.intp, b, types.intp), generate


@intrinsic
def row_set(typing_context, lanes, factor, a, i, out, j):  # type: ignore[no-untyped-def]
    """out[j : j + D] = factor * a[i : i + D]."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _, vector, size = _vector(context, signature.args[2], LANES * len(lanes))
        x = _load(
            builder, vector, _pointer(context, builder, signature.args[2], args[2], args[3]), size
        )
        target = _pointer(context, builder, signature.args[4], args[4], args[5])
        _store(builder, builder.fmul(_splat(builder, vector, args[1]), x), target, size)
        return context.get_dummy_value()

    return types.none(lanes, a.dtype, a, types.intp, out, types.intp), generate


@intrinsic
def row_add(typing_context, lanes, factor, a, i, out, j):  # type: ignore[no-untyped-def]
    """out[j : j + D] += factor * a[i : i + D]."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _, vector, size = _vector(context, signature.args[2], LANES * len(lanes))
        x = _load(
            builder, vector, _pointer(context, builder, signature.args[2], args[2], args[3]), size
        )
        target = _pointer(context, builder, signature.args[4], args[4], args[5])
        name = f"llvm.fmuladd.v{vector.count}f{8 * size}"
        fused = _declare(builder, name, vector, vector, vector, vector)
        old = _load(builder, vector, target, size)
        new = builder.call(fused, [_splat(builder, vector, args[1]), x, old])
        _store(builder, new, target, size)
        return context.get_dummy_value()

    return types.none(lanes, a.dtype, a, types.intp, out, types.intp), generate


def _exp(builder: Any, x: Any, size: int) -> Any:
    """exp of a vector of arguments <= 0.

    exp(x) = 2^n exp(f), n = round(x / ln 2), |f| <= ln(2) / 2, Taylor's polynomial of degree 7
    (float32) or 13 (float64): within 2 units in the last place. Where it would come near the least
    normal number it is 0: what lies below is slow to reckon with (47 ns a row against 22).
    """
    vector, scalar, single = x.type, x.type.element, size == 4
    integer = ir.VectorType(ir.IntType(8 * size), LANES)
    suffix = f"v{LANES}f{8 * size}"
    fused = _declare(builder, f"llvm.fmuladd.{suffix}", vector, vector, vector, vector)
    rint = _declare(builder, f"llvm.rint.{suffix}", vector, vector)

    def constant(value: float) -> Any:
        return ir.Constant(vector, [ir.Constant(scalar, value)] * LANES)

    def whole(value: int) -> Any:
        return ir.Constant(integer, [ir.Constant(integer.element, value)] * LANES)

    least = constant(-80.0 if single else -700.0)
    nothing = builder.fcmp_ordered("<", x, least)  # not so for NaN, which passes through
    x = builder.select(nothing, least, x)
    n = builder.call(rint, [builder.fmul(x, constant(1 / math.log(2)))])
    # ln 2 in two parts, the first exact times n
    high, low = (0.693359375, -2.12194440e-4)
    if not single:
        high, low = (6.93145751953125e-1, 1.42860682030941723212e-6)
    f = builder.call(fused, [n, constant(-high), x])
    f = builder.call(fused, [n, constant(-low), f])
    degree = 7 if single else 13
    value = constant(1 / math.factorial(degree))
    for power in range(degree - 1, -1, -1):
        value = builder.call(fused, [value, f, constant(1 / math.factorial(power))])
    bias, shift = (127, 23) if single else (1023, 52)
    exponent = builder.shl(builder.add(builder.fptosi(n, integer), whole(bias)), whole(shift))
    value = builder.fmul(value, builder.bitcast(exponent, vector))
    return builder.select(nothing, constant(0.0), value)


def _first(builder: Any, x: Any, count: Any) -> Any:
    """x, -inf from entry `count` on."""
    wide = ir.VectorType(ir.IntType(64), LANES)
    lane = ir.Constant(wide, [ir.Constant(wide.element, n) for n in range(LANES)])
    least = ir.Constant(x.type, [ir.Constant(x.type.element, -math.inf)] * LANES)
    return builder.select(builder.icmp_signed("<", lane, _splat(builder, wide, count)), x, least)


def _max(builder: Any, x: Any, size: int) -> Any:
    name = f"llvm.vector.reduce.fmax.v{LANES}f{8 * size}"
    reduce = _declare(builder, name, x.type.element, x.type)
    return builder.call(reduce, [x], fastmath=("nnan",))


def _sum(builder: Any, x: Any, size: int) -> Any:
    name = f"llvm.vector.reduce.fadd.v{x.type.count}f{8 * size}"
    reduce = _declare(builder, name, x.type.element, x.type.element, x.type)
    zero = ir.Constant(x.type.element, -0.0)
    return builder.call(reduce, [zero, x], fastmath=("reassoc", "contract"))


@intrinsic
def softmax_block(typing_context, a, i, count, out):  # type: ignore[no-untyped-def]
    """out[i : i + count] = softmax(a[i : i + count]), count <= 8, without a step through memory."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _, vector, size = _vector(context, signature.args[0], LANES)
        x = _load(builder, vector, _pointer(context, builder, signature.args[0], *args[:2]), size)
        x = _first(builder, x, args[2])
        x = _exp(builder, builder.fsub(x, _splat(builder, vector, _max(builder, x, size))), size)
        x = builder.fdiv(x, _splat(builder, vector, _sum(builder, x, size)))
        target = _pointer(context, builder, signature.args[3], args[3], args[1])
        _store(builder, x, target, size)
        return context.get_dummy_value()

    return types.none(a, types.intp, types.intp, out), generate


@intrinsic
def exp_block(typing_context, a, i, pivot):  # type: ignore[no-untyped-def]
    """a[i : i + 8] = exp(a[i : i + 8] - pivot), for arguments <= 0; their sum is returned."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _, vector, size = _vector(context, signature.args[0], LANES)
        target = _pointer(context, builder, signature.args[0], args[0], args[1])
        x = builder.fsub(_load(builder, vector, target, size), _splat(builder, vector, args[2]))
        value = _exp(builder, x, size)
        _store(builder, value, target, size)
        return _sum(builder, value, size)

    return a.dtype(a, types.intp, a.dtype), generate


@intrinsic
def copy_block(typing_context, a, i, count, out, j):  # type: ignore[no-untyped-def]
    """out[j : j + 8] = a[i : i + 8], -inf from entry `count` on; the largest is returned.

    The largest may pass over a NaN; `exp_block` then brings it back.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _, vector, size = _vector(context, signature.args[0], LANES)
        x = _load(builder, vector, _pointer(context, builder, signature.args[0], *args[:2]), size)
        x = _first(builder, x, args[2])
        _store(builder, x, _pointer(context, builder, signature.args[3], *args[3:]), size)
        return _max(builder, x, size)

    return a.dtype(a, types.intp, types.intp, out, types.intp), generate


@intrinsic
def scale_block(typing_context, a, i, factor):  # type: ignore[no-untyped-def]
    """a[i : i + 8] *= factor."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _, vector, size = _vector(context, signature.args[0], LANES)
        target = _pointer(context, builder, signature.args[0], args[0], args[1])
        x = _load(builder, vector, target, size)
        _store(builder, builder.fmul(x, _splat(builder, vector, args[2])), target, size)
        return context.get_dummy_value()

    return types.none(a, types.intp, a.dtype), generate
