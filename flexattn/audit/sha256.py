"""SHA-256 of many messages, sixteen side by side, compiled; FIPS 180-4.

A vector holds one word of each of sixteen messages, as the compiler knows vectors: one register
where the machine's are that wide, several where they are not. No interpreter lock is held.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

LANES = 16
_WORD = ir.IntType(32)
_WORDS = ir.VectorType(_WORD, LANES)
_BYTES = ir.VectorType(ir.IntType(8), 64)


def _primes(count: int) -> list[int]:
    found: list[int] = []
    n = 2
    while len(found) < count:
        if all(n % p for p in found):
            found.append(n)
        n += 1
    return found


def _cube_root(n: int) -> int:
    """The whole part of the cube root."""
    low, high = 0, 1 << (n.bit_length() + 2) // 3
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if middle**3 <= n else (low, middle)
    return low


# the first 32 bits behind the point of the cube and square roots of the first primes
_K = [_cube_root(p << 96) & 0xFFFFFFFF for p in _primes(64)]
_START = np.array([math.isqrt(p << 64) & 0xFFFFFFFF for p in _primes(8)], np.uint32)


def _compiled(function: Any) -> Any:
    """Numba, without the interpreter lock; nothing here calls another file, so its cache holds."""
    try:
        return njit(cache=True, nogil=True)(function)
    except RuntimeError:  # no folder to cache in: compile in every process
        return njit(nogil=True)(function)


def _constant(values: list[int], kind: Any) -> Any:
    return ir.Constant(kind, values)


def _pointer(context: Any, builder: Any, kind: Any, array: Any, offset: Any, to: Any) -> Any:
    """Pointer to a value of type `to` at array[offset], whatever the array holds."""
    data = context.make_array(kind)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [offset]), to.as_pointer())


def _put_block(typing: Any, block: Any, lane: Any, data: Any, at: Any, rest: Any) -> Any:
    """Put a block of a message, padded, into block[lane]; inside compiled functions only.

    Args:
      block: [LANES, 16] uint32, words as the arithmetic takes them.
      lane: which row.
      data: [.] uint8, 64 of them from `at` on at least.
      at: where the block begins.
      rest: bytes of the message from there on, within -1..64; -1 where its end was marked before.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kinds, (to, lane, source, at, rest) = signature.args, arguments
        found = builder.load(_pointer(context, builder, kinds[2], source, at, _BYTES))
        found.align = 1
        nothing = _constant([0] * 64, _BYTES)
        left = builder.insert_element(
            nothing, builder.trunc(rest, _BYTES.element), ir.Constant(_WORD, 0)
        )
        left = builder.shuffle_vector(left, nothing, _constant([0] * 64, ir.VectorType(_WORD, 64)))
        order = _constant(list(range(64)), _BYTES)
        mark = builder.select(
            builder.icmp_signed("==", order, left), _constant([0x80] * 64, _BYTES), nothing
        )
        padded = builder.select(builder.icmp_signed("<", order, left), found, mark)
        turned = _constant([n ^ 3 for n in range(64)], ir.VectorType(_WORD, 64))
        words = builder.shuffle_vector(padded, padded, turned)
        row = builder.mul(lane, ir.Constant(lane.type, 16))
        stored = builder.store(words, _pointer(context, builder, kinds[0], to, row, _BYTES))
        stored.align = 4
        return context.get_dummy_value()

    whole = types.intp
    return types.void(block, whole, data, whole, whole), generate


def _compress(typing: Any, state: Any, block: Any, on: Any) -> Any:
    """Take in one block of every message; inside compiled functions only.

    Args:
      state: [8, LANES] uint32, changed where `on` is all ones, not where it is 0.
      block: [LANES, 16] uint32, from `put_block`.
      on: [LANES] uint32.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        def place(n: int, row: int) -> Any:
            offset = ir.Constant(ir.IntType(64), LANES * row)
            return _pointer(context, builder, signature.args[n], arguments[n], offset, _WORDS)

        def load(n: int, row: int) -> Any:
            found = builder.load(place(n, row))
            found.align = 4
            return found

        def same(value: int) -> Any:
            return _constant([value] * LANES, _WORDS)

        def total(*terms: Any) -> Any:
            out = terms[0]
            for term in terms[1:]:
                out = builder.add(out, term)
            return out

        def turn(x: Any, n: int) -> Any:
            return builder.or_(builder.lshr(x, same(n)), builder.shl(x, same(32 - n)))

        def mixed(*terms: Any) -> Any:
            return builder.xor(builder.xor(terms[0], terms[1]), terms[2])

        w = _transposed(builder, [load(1, lane) for lane in range(LANES)])
        before = [load(0, k) for k in range(8)]
        a, b, c, d, e, f, g, h = before
        for j in range(64):
            if j >= 16:
                x, y = w[(j - 15) % 16], w[(j - 2) % 16]
                p = mixed(turn(x, 7), turn(x, 18), builder.lshr(x, same(3)))
                q = mixed(turn(y, 17), turn(y, 19), builder.lshr(y, same(10)))
                w[j % 16] = total(w[j % 16], p, w[(j - 7) % 16], q)
            choose = builder.xor(builder.and_(e, builder.xor(f, g)), g)
            most = builder.or_(builder.and_(a, b), builder.and_(c, builder.or_(a, b)))
            one = total(h, w[j % 16], same(_K[j]), choose)
            one = total(one, mixed(turn(e, 6), turn(e, 11), turn(e, 25)))
            two = total(most, mixed(turn(a, 2), turn(a, 13), turn(a, 22)))
            a, b, c, d, e, f, g, h = total(one, two), a, b, c, total(d, one), e, f, g
        mask = load(2, 0)
        for k, (old, new) in enumerate(zip(before, (a, b, c, d, e, f, g, h))):
            stored = builder.store(total(old, builder.and_(new, mask)), place(0, k))
            stored.align = 4
        return context.get_dummy_value()

    return types.void(state, block, on), generate


def _transposed(builder: Any, rows: list[Any]) -> list[Any]:
    """Sixteen vectors of sixteen words as their columns: halves, quarters .. change places."""
    order = ir.VectorType(_WORD, LANES)
    for s in (8, 4, 2, 1):
        for i in (i for i in range(LANES) if not i & s):
            first, second = rows[i], rows[i + s]
            low = [j if not j & s else LANES + j - s for j in range(LANES)]
            high = [j + s if not j & s else LANES + j for j in range(LANES)]
            rows[i] = builder.shuffle_vector(first, second, _constant(low, order))
            rows[i + s] = builder.shuffle_vector(first, second, _constant(high, order))
    return rows


put_block: Any = intrinsic(_put_block)
compress: Any = intrinsic(_compress)


@_compiled
def hash_all(data: Any, ends: Any, out: Any) -> None:
    """The SHA-256 of each message.

    Args:
      data: [.] uint8, messages behind one another.
      ends: [messages] int32, place behind each; the first one begins at 0.
      out: [messages, 32] uint8, filled.
    """
    count = ends.shape[0]
    block, state = np.empty((LANES, 16), np.uint32), np.empty((8, LANES), np.uint32)
    on, tail = np.empty(LANES, np.uint32), np.zeros(64, np.uint8)
    start, size = np.zeros(LANES, np.int64), np.zeros(LANES, np.int64)
    blocks = np.zeros(LANES, np.int64)
    for group in range(0, count, LANES):
        lanes = min(LANES, count - group)
        most = np.int64(0)
        for i in range(LANES):
            blocks[i] = 0
            if i < lanes:
                start[i] = ends[group + i - 1] if group + i else 0
                size[i] = ends[group + i] - start[i]
                blocks[i] = (size[i] + 8) // 64 + 1
                most = max(most, blocks[i])
        for k in range(8):
            for i in range(LANES):
                state[k, i] = _START[k]
        for b in range(most):
            for i in range(LANES):
                on[i] = np.uint32(0xFFFFFFFF if b < blocks[i] else 0)
                if b >= blocks[i]:
                    continue
                at, rest = start[i] + 64 * b, max(np.int64(-1), min(64, size[i] - 64 * b))
                if at + 64 <= data.shape[0]:
                    put_block(block, i, data, at, rest)
                else:
                    for j in range(rest):
                        tail[j] = data[at + j]
                    put_block(block, i, tail, 0, rest)
                if b == blocks[i] - 1:
                    block[i, 14] = np.uint32(size[i] >> 29)
                    block[i, 15] = np.uint32(size[i] << 3)
            compress(state, block, on)
        for i in range(lanes):
            for k in range(8):
                for j in range(4):
                    out[group + i, 4 * k + j] = (state[k, i] >> np.uint32(24 - 8 * j)) & 255
