"""Legal rows on a GPU: dense logits in, A(s) as packed bits, one pass over a row for everything.

    log pi(a|s) = z_a - logsumexp over A(s)
    V(s)  = sum over a in A(s) of pi(a|s) [min_i Q_i(s, a) - alpha log pi(a|s)]
    dV/dz = pi(a|s) [min_i Q_i(s, a) - alpha log pi(a|s) - V(s)],  z the logits, Q held fixed

A matrix product over all of V costs less on tensor cores than rows gathered for A(s) alone; what
would cost is passing over the product again and again. So log pi is never stored: `row_values`
gives V, the entropy and one character's log pi, and its backward writes the gradient of the logits.
The formulas are those of `losses` and `soft`. Shapes: C windows, M states, V characters, padded.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["PADDED", "row_sample", "row_values"]

PADDED = 64  # rows of logits hold a multiple of so many


@triton.jit
def _legal(words, m, col, WORDS: tl.constexpr):  # type: ignore[no-untyped-def]
    """A(s) of state m at the characters `col`, [.] int1."""
    word = tl.load(words + m * WORDS + (col >> 6), mask=(col >> 6) < WORDS, other=0)
    return ((word >> (col & 63).to(tl.int64)) & 1) != 0


@triton.jit
def _least(q, base, m, M, col, on, WIDE: tl.constexpr):  # type: ignore[no-untyped-def]
    """min_i Q_i(s, a) = min_i base_i(s) + q_i(s, a), [.] float32."""
    one = tl.load(q + m * WIDE + col, mask=on, other=0.0).to(tl.float32) + tl.load(base + m)
    other = tl.load(q + (M + m) * WIDE + col, mask=on, other=0.0).to(tl.float32)
    return tl.minimum(one, other + tl.load(base + M + m))


@triton.jit
def _aimed(words, aim, m, WORDS: tl.constexpr):  # type: ignore[no-untyped-def]
    """The character aimed at in state m, and whether it is legal."""
    wanted = tl.load(aim + m)
    known = (wanted >= 0) & _legal(words, m, tl.maximum(wanted, 0), WORDS)
    return tl.maximum(wanted, 0), known


@triton.jit
def _values_kernel(  # type: ignore[no-untyped-def]
    logits, words, q, base, alpha, aim, value, nats, aimed, norm, right, M,
    C: tl.constexpr, C2: tl.constexpr, WIDE: tl.constexpr, WORDS: tl.constexpr,
    BLOCK: tl.constexpr, WITH_Q: tl.constexpr,
):  # fmt: skip
    """One state: V, entropy, log pi of the character aimed at, under all C windows side by side."""
    m = tl.program_id(0).to(tl.int64)
    col = tl.arange(0, BLOCK)
    on = (col < WIDE) & _legal(words, m, col, WORDS)
    c = tl.arange(0, C2)
    r = c * M + m
    some = c < C
    both = some[:, None] & on[None, :]
    z = tl.load(logits + r[:, None] * WIDE + col[None, :], mask=both, other=float("-inf"))
    z = z.to(tl.float32)
    top = tl.max(tl.where(on[None, :], z, -1e30), 1)
    shifted = tl.where(both, z - top[:, None], 0.0)
    e = tl.where(both, tl.exp(shifted), 0.0)
    mass = tl.sum(e, 1)
    mass = tl.where(some, mass, 1.0)
    above = tl.log(mass)
    spread = above - tl.sum(e * shifted, 1) / mass
    wanted, known = _aimed(words, aim, m, WORDS)
    found = tl.load(logits + r * WIDE + wanted, mask=some & known, other=0.0).to(tl.float32)
    found = tl.where(known, found - top, 0.0)
    tl.store(norm + r, top + above, mask=some)
    tl.store(nats + r, spread, mask=some)
    tl.store(aimed + r, tl.where(known, found - above, 0.0), mask=some)
    tl.store(right + r, (known & (found >= 0.0)).to(tl.int8), mask=some)
    if WITH_Q:
        least = _least(q, base, m, M, col, on, WIDE)
        mean = tl.sum(e * tl.where(on, least, 0.0)[None, :], 1) / mass
        tl.store(value + r, mean + tl.load(alpha) * spread, mask=some)


@triton.jit
def _gradient_kernel(  # type: ignore[no-untyped-def]
    logits, words, q, base, alpha, aim, value, norm, d_value, d_aimed, d_logits, M,
    C: tl.constexpr, C2: tl.constexpr, WIDE: tl.constexpr, WORDS: tl.constexpr,
    BLOCK: tl.constexpr, WITH_Q: tl.constexpr,
):  # fmt: skip
    """d logits = dV pi [least - alpha log pi - V] + d aimed [1[a aimed at] - pi]; 0 if illegal."""
    m = tl.program_id(0).to(tl.int64)
    col = tl.arange(0, BLOCK)
    inside = col < WIDE
    on = inside & _legal(words, m, col, WORDS)
    wanted, known = _aimed(words, aim, m, WORDS)
    hit = (known & (col == wanted)).to(tl.float32)
    least = col.to(tl.float32) * 0.0
    a = 0.0
    if WITH_Q:
        least = _least(q, base, m, M, col, on, WIDE)
        a = tl.load(alpha)
    for c in tl.static_range(C):
        r = c * M + m
        z = tl.load(logits + r * WIDE + col, mask=on, other=float("-inf")).to(tl.float32)
        log_pi = tl.where(on, z - tl.load(norm + r), 0.0)
        pi = tl.where(on, tl.exp(log_pi), 0.0)
        d = tl.load(d_aimed + r) * (hit - known.to(tl.float32) * pi)
        if WITH_Q:
            d += tl.load(d_value + r) * pi * (least - a * log_pi - tl.load(value + r))
        tl.store(d_logits + r * WIDE + col, d.to(d_logits.dtype.element_ty), mask=inside)


@triton.jit
def _sample_kernel(  # type: ignore[no-untyped-def]
    logits, words, uniform, out,
    WIDE: tl.constexpr, WORDS: tl.constexpr, BLOCK: tl.constexpr, FLAT: tl.constexpr,
):  # fmt: skip
    """One legal character by the inverse of the distribution function."""
    m = tl.program_id(0).to(tl.int64)
    col = tl.arange(0, BLOCK)
    on = (col < WIDE) & _legal(words, m, col, WORDS)
    if FLAT:
        p = on.to(tl.float32)
    else:
        z = tl.load(logits + m * WIDE + col, mask=on, other=float("-inf")).to(tl.float32)
        p = tl.where(on, tl.exp(z - tl.max(z, 0)), 0.0)
    upto = tl.cumsum(p, 0)
    chosen = on & (p > 0.0) & (upto > tl.load(uniform + m) * tl.sum(p, 0))
    first = tl.min(tl.where(chosen, col, BLOCK), 0)
    # where rounding left none
    likeliest = tl.min(tl.where(on & (p >= tl.max(p, 0)), col, BLOCK), 0)
    tl.store(out + m, tl.where(first < BLOCK, first, likeliest))


def row_sample(logits: Tensor | None, words: Tensor, uniform: Tensor, actions: int) -> Tensor:
    """One legal character a state, from pi, or evenly from A(s) without logits.

    Args:
      logits: [M, V] float, or None.
      words: A(s), [M, W] int64 packed.
      uniform: [M] float32 in [0, 1).
      actions: V, padded as the logits are.

    Returns: [M] int32.
    """
    out = torch.empty(len(words), dtype=torch.int32, device=words.device)
    _sample_kernel[(len(words),)](
        words if logits is None else logits, words, uniform, out, WIDE=actions,
        WORDS=words.shape[1], BLOCK=triton.next_power_of_2(actions), FLAT=logits is None,
        num_warps=4,
    )  # fmt: skip
    return out


def row_values(
    logits: Tensor, words: Tensor, aim: Tensor,
    q: Tensor | None = None, base: Tensor | None = None, alpha: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """V(s) and log pi of one character with gradients to the logits, and the entropy without.

    Args:
      logits: z, [C, M, V] float.
      words: A(s), [M, W] int64 packed, at least one bit a row.
      aim: a character of each state, [M] int32; one that is not legal gets 0 and no gradient.
      q: twin advantages, [2, M, V], or None; held fixed.
      base: what is added to them, [2, M] float32, reward units; held fixed.
      alpha: temperature, scalar tensor; held fixed.

    Returns: V [C, M] (zeros without q), entropy [C, M] nats, log pi(aim|s) [C, M], and whether the
      character aimed at is the likeliest, [C, M] int8.
    """
    out: tuple[Tensor, Tensor, Tensor, Tensor] = _Rows.apply(logits, words, aim, q, base, alpha)
    return out


class _Rows(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, words: Tensor, aim: Tensor, q: Tensor | None,
        base: Tensor | None, alpha: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
        choices, states, wide = logits.shape
        logits, words = logits.contiguous(), words.contiguous()
        value = logits.new_zeros((choices, states), dtype=torch.float32)
        nats, aimed, norm = (torch.empty_like(value) for _ in range(3))
        right = torch.empty_like(value, dtype=torch.int8)
        ctx.meta = {
            "C": choices, "C2": triton.next_power_of_2(choices), "WIDE": wide,
            "WORDS": words.shape[1],
            "BLOCK": triton.next_power_of_2(wide), "WITH_Q": q is not None, "num_warps": 4,
        }  # fmt: skip
        q = logits if q is None else q.contiguous()
        base = value if base is None else base.contiguous()
        alpha = value if alpha is None else alpha
        _values_kernel[(states,)](
            logits, words, q, base, alpha, aim, value, nats, aimed, norm, right, states,
            **ctx.meta,
        )  # fmt: skip
        ctx.save_for_backward(logits, words, q, base, alpha, aim, value, norm)
        ctx.mark_non_differentiable(nats, right)
        return value, nats, aimed, right

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, d_value: Tensor, _nats: Tensor, d_aimed: Tensor, _right: Tensor
    ) -> tuple[Tensor | None, ...]:
        logits, words, q, base, alpha, aim, value, norm = ctx.saved_tensors
        d_logits = torch.empty_like(logits)
        _gradient_kernel[(logits.shape[1],)](
            logits, words, q, base, alpha, aim, value, norm, d_value.contiguous(),
            d_aimed.contiguous(), d_logits, logits.shape[1], **ctx.meta,
        )  # fmt: skip
        return d_logits, None, None, None, None, None
