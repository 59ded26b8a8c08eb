"""One step of decoding over a ring of keys, on GPU.

Rule: the softmax does not ask in which order keys lie, so the ring is read as it lies and a slot's position is worked
out from the query's. Slots are cut into a few stretches, each summed by one program; a second launch adds the stretches
up in a fixed order and moves the position on. The new key and value are written by the program that owns their slot.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from flexattn.attention.blocked_kernel import LOG2E

__all__ = ["decode"]

_ROWS = 32  # slots that a program reads at a time
_PROGRAMS = 264  # two for each multiprocessor of an H100


@triton.jit(do_not_specialize=["slots", "sink_rows", "locals_", "per_stretch"])
def decode_kernel(  # type: ignore[no-untyped-def]
    q, k, v, keys, values, position, part, scale, slots, sink_rows, locals_, per_stretch,
    HKV: tl.constexpr, G: tl.constexpr, GP: tl.constexpr, D: tl.constexpr, BD: tl.constexpr,
    BN: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One stretch of slots for the query heads of one kv head: unnormalised sums."""
    i_s = tl.program_id(0)
    i_p = tl.program_id(1).to(tl.int64)  # batch and kv head
    i_b = i_p // HKV
    o_g = tl.arange(0, GP)
    o_d = tl.arange(0, BD)
    m_d = o_d < D
    m_g = (o_g < G)[:, None] & m_d[None, :]
    p = tl.load(position + i_b)
    ring = slots - sink_rows
    after = p - sink_rows
    slot = tl.where(after < 0, p, sink_rows + after % ring)
    first = (p // 128 - locals_ + 1) * 128  # oldest local position
    b_q = tl.load(q + (i_p * G + o_g)[:, None] * D + o_d[None, :], mask=m_g, other=0.0)  # [GP, BD]
    new_k = tl.load(k + i_p * D + o_d, mask=m_d, other=0.0)
    new_v = tl.load(v + i_p * D + o_d, mask=m_d, other=0.0)
    at_new = (i_p * slots + slot) * D + o_d
    begin = i_s * per_stretch
    end = tl.minimum(begin + per_stretch, slots)
    mine = m_d & (slot >= begin) & (slot < end)
    tl.store(keys + at_new, new_k, mask=mine)
    tl.store(values + at_new, new_v, mask=mine)
    top = tl.full([GP], float("-inf"), tl.float32)
    total = tl.zeros([GP], tl.float32)
    acc = tl.zeros([GP, BD], tl.float32)
    for start in range(begin, end, BN):
        o_n = start + tl.arange(0, BN)
        turn = after - (o_n - sink_rows)  # how long ago, but for whole turns of the ring
        stored = tl.where(o_n < sink_rows, o_n, p - (turn % ring + ring) % ring)
        seen = (o_n < end) & (stored <= p)
        seen &= (o_n < sink_rows) | ((after >= 0) & (stored >= tl.maximum(first, sink_rows)))
        at = (i_p * slots + o_n)[:, None] * D + o_d[None, :]
        m_n = seen[:, None] & m_d[None, :]
        fresh = (o_n == slot)[:, None]
        b_k = tl.where(fresh, new_k[None, :], tl.load(keys + at, mask=m_n & ~fresh, other=0.0))
        b_v = tl.where(fresh, new_v[None, :], tl.load(values + at, mask=m_n & ~fresh, other=0.0))
        s = tl.dot(b_q, tl.trans(b_k), input_precision=PRECISION) * (scale * LOG2E)  # [GP, BN]
        s = tl.where(seen[None, :], s, float("-inf"))
        higher = tl.maximum(top, tl.max(s, 1))
        pivot = tl.where(higher == float("-inf"), 0.0, higher)
        b_p = tl.exp2(s - pivot[:, None])
        fade = tl.exp2(top - pivot)
        total = total * fade + tl.sum(b_p, 1)
        acc = tl.dot(b_p.to(b_v.dtype), b_v, acc * fade[:, None], input_precision=PRECISION)
        top = higher
    # part is [stretches, B * H, D + 2]
    row = (i_s * tl.num_programs(1) + i_p) * G + o_g
    tl.store(part + row[:, None] * (D + 2) + o_d[None, :], acc, mask=m_g)
    tl.store(part + row * (D + 2) + D, top, mask=o_g < G)
    tl.store(part + row * (D + 2) + D + 1, total, mask=o_g < G)


@triton.jit(do_not_specialize=["heads", "rows", "stretches"])
def merge_kernel(  # type: ignore[no-untyped-def]
    part, o, position, heads, rows, stretches,
    D: tl.constexpr, BD: tl.constexpr, BS: tl.constexpr,
):  # fmt: skip
    """Add up the stretches of one head; the first head of a text moves its position on."""
    row = tl.program_id(0)
    o_s = tl.arange(0, BS)
    o_d = tl.arange(0, BD)
    m_s = o_s < stretches
    at = (o_s * rows + row).to(tl.int64) * (D + 2)
    tops = tl.load(part + at + D, mask=m_s, other=float("-inf"))
    totals = tl.load(part + at + D + 1, mask=m_s, other=0.0)
    weight = tl.exp2(tops - tl.max(tops, 0))  # the query sees its own key, so one is finite
    m = m_s[:, None] & (o_d < D)[None, :]
    acc = tl.load(part + at[:, None] + o_d[None, :], mask=m, other=0.0)
    out = tl.sum(acc * weight[:, None], 0) / tl.sum(totals * weight, 0)
    tl.store(o + row.to(tl.int64) * D + o_d, out.to(o.dtype.element_ty), mask=o_d < D)
    if row % heads == 0:
        tl.store(position + row // heads, tl.load(position + row // heads) + 1)


def decode(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    keys: Tensor,
    values: Tensor,
    position: Tensor,
    sink_rows: int,
    locals_: int,
    scale: float,
) -> Tensor:
    """Write one key and value and attend from one query; two launches, nothing read back.

    Args:
      q: [B, H, D], contiguous.
      k, v: the new key and value, [B, Hkv, D], contiguous.
      keys, values: the ring, [B, Hkv, slots, D]; written.
      position: of the query in its text, [B] int32; moved on by one.
      sink_rows: slots that keep the text's start.
      locals_: local blocks of 128.
      scale: factor of q.k.

    Returns: [B, H, D].
    """
    batch, heads, dim = q.shape
    kv_heads, slots = keys.shape[1:3]
    group = heads // kv_heads
    out = torch.empty_like(q)
    if out.numel() == 0:
        return out
    wanted = triton.cdiv(_PROGRAMS, batch * kv_heads)
    stretches = max(1, min(wanted, triton.cdiv(slots, _ROWS)))
    per_stretch = triton.cdiv(triton.cdiv(slots, stretches), _ROWS) * _ROWS
    stretches = triton.cdiv(slots, per_stretch)
    part = q.new_empty((stretches, batch * heads, dim + 2), dtype=torch.float32)
    wide = triton.next_power_of_2(dim)
    decode_kernel[(stretches, batch * kv_heads)](
        q, k, v, keys, values, position, part, scale, slots, sink_rows, locals_, per_stretch,
        HKV=kv_heads, G=group, GP=max(16, triton.next_power_of_2(group)), D=dim, BD=wide,
        BN=_ROWS, PRECISION="ieee" if q.dtype == torch.float32 else "tf32",
        num_warps=4, num_stages=3,
    )  # fmt: skip
    merge_kernel[(batch * heads,)](
        part, out, position, heads, batch * heads, stretches,
        D=dim, BD=wide, BS=triton.next_power_of_2(stretches), num_warps=1,
    )  # fmt: skip
    return out
