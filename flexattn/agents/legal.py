"""Pay for legal characters only: linear maps and softmax over the sets A(s), not over all of V.

A(s) holds some dozens of |V| characters. A `LegalSets` lists them row by row; `legal_linear` gives
h . W[a] for exactly these a, `legal_log_softmax` normalises over each row's own. On CPU both run in
Numba, forward and backward, each sum in one fixed order, so the same inputs give the same bits
whatever the number of threads. On a GPU the same formulas run as gathers (`reference_linear`).

Shapes: N states, J legal (state, action) pairs in all, G maps side by side (windows or twins).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from numba import njit, prange
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from flexattn.errors import MaskError

# a power of two times this has its exponent's own six bits on top; PLACE says which exponent
DE_BRUIJN = np.uint64(0x03F79D71B4CB0A89)
PLACE = np.empty(64, np.int64)
PLACE[[((1 << n) * int(DE_BRUIJN) % (1 << 64)) >> 58 for n in range(64)]] = np.arange(64)


@dataclass(frozen=True)
class LegalSets:
    """The legal actions of N states, one behind the other.

    Attributes:
      start: [N + 1] int64, first pair of each state.
      ids: [J] int64, action of each pair, increasing inside a state.
      row: [J] int64, state of each pair.
      order: [J] int64, pairs sorted by action, for the gradient of W and for the forward product.
      first: [V + 1] int64, first place of each action in `order`.
    """

    start: Tensor
    ids: Tensor
    row: Tensor
    order: Tensor
    first: Tensor

    @classmethod
    def of(cls, packed: npt.NDArray[np.uint64], actions: int, device: torch.device) -> LegalSets:
        """List the set bits of packed masks.

        Args:
          packed: [N, W] uint64, bit a of a row set where action a is legal.
          actions: |V|, at most 64 W.
          device: where the lists go.

        Raises: MaskError where a row has no legal action.
        """
        counts = np.bitwise_count(packed).sum(-1, dtype=np.int64)
        if len(counts) and counts.min() == 0:
            raise MaskError("a state has no legal action; the environment must always leave one")
        start = np.concatenate([np.zeros(1, np.int64), counts.cumsum()])
        ids = np.empty(start[-1], np.int64)
        row = np.empty(start[-1], np.int64)
        order = np.empty(start[-1], np.int64)
        first = np.zeros(actions + 1, np.int64)
        _list(np.ascontiguousarray(packed), start, ids, row, order, first)
        return cls(*(torch.from_numpy(a).to(device) for a in (start, ids, row, order, first)))

    @property
    def counts(self) -> Tensor:
        """|A(s)|, [N]."""
        return self.start[1:] - self.start[:-1]

    def find(self, action: Tensor) -> tuple[Tensor, Tensor]:
        """Pair of one action in each state, [N], and whether it is legal, [N] bool.

        Where it is not legal the pair is the state's first.
        """
        size = len(self.first)
        wanted = torch.arange(len(action), device=action.device) * size + action
        place = torch.searchsorted(self.row * size + self.ids, wanted)
        inside = place < self.start[1:]
        place = torch.where(inside, place, self.start[:-1])
        found = inside & (self.ids[place] == action)
        return torch.where(found, place, self.start[:-1]), found

    def largest(self, values: Tensor) -> Tensor:
        """Largest of each state's pairs, [J] -> [N]."""
        empty = torch.full(
            (len(self.start) - 1,), -torch.inf, dtype=values.dtype, device=values.device
        )
        return empty.scatter_reduce(0, self.row, values, "amax")

    def sample(self, log_pi: Tensor, generator: torch.Generator) -> Tensor:
        """One pair a state, drawn with probability exp(log_pi), [J] -> [N] int64."""
        mass = log_pi.double().exp().cumsum(0)
        below = torch.cat([mass.new_zeros(1), mass])[self.start]  # [N + 1]
        share = torch.rand(
            len(self.start) - 1, generator=generator, dtype=mass.dtype, device=mass.device
        )
        point = below[:-1] + share * (below[1:] - below[:-1])
        pair = torch.searchsorted(mass, point, right=True)
        return pair.clamp(self.start[:-1], self.start[1:] - 1)

    def sum(self, values: Tensor) -> Tensor:
        """Sum of each state's pairs, [..., J] -> [..., N]."""
        return _Sum.apply(values, self)


def legal_linear(h: Tensor, weight: Tensor, legal: LegalSets, bias: Tensor | None = None) -> Tensor:
    """h[g, s] . W[g, a] + b[g, a] for every legal pair (s, a).

    Args:
      h: [G, N, D] float.
      weight: [G, V, D], or [1, V, D] for one that all G share.
      legal: the pairs.
      bias: [G, V], or [1, V] beside a shared weight; None: none is added.

    Returns: [G, J].
    """
    if h.device.type != "cpu":
        return reference_linear(h, weight, legal, bias)
    return _Linear.apply(h, weight, weight.new_zeros(0, 0) if bias is None else bias, legal)


def reference_linear(
    h: Tensor, weight: Tensor, legal: LegalSets, bias: Tensor | None = None
) -> Tensor:
    """The same by gathers; any device and type."""
    products = (h[:, legal.row] * weight[:, legal.ids]).sum(-1)
    return products if bias is None else products + bias[:, legal.ids]


def taken_linear(
    h: Tensor, weight: Tensor, bias: Tensor, taken: Tensor, *, by_rows: bool = False
) -> Tensor:
    """h[g, s] . W[g, a] + b[g, a] for one action a state.

    Args:
      h: [G, N, D] float.
      weight: [G, V, D].
      bias: [G, V].
      taken: a of each state, [N] int64.
      by_rows: the gradient of W is sparse and holds the rows taken alone, for an optimiser that
        moves no other; CPU only.

    Returns: [G, N].
    """
    if h.device.type != "cpu":
        return (h * weight[:, taken]).sum(-1) + bias[:, taken]
    return _Taken.apply(h, weight, bias, taken, by_rows)


def legal_log_softmax(logits: Tensor, legal: LegalSets) -> Tensor:
    """log pi(a|s) over each state's own actions, [G, J] -> [G, J]; finite everywhere."""
    if logits.device.type != "cpu":
        return reference_log_softmax(logits, legal)
    return _LogSoftmax.apply(logits, legal)


def reference_log_softmax(logits: Tensor, legal: LegalSets) -> Tensor:
    """The same by scatter; any device and type."""
    row = legal.row.expand_as(logits)
    top = torch.full(
        (*logits.shape[:-1], len(legal.start) - 1),
        -torch.inf,
        dtype=logits.dtype,
        device=logits.device,
    )
    top = top.scatter_reduce(-1, row, logits.detach(), "amax")
    shifted = logits - top.gather(-1, row)
    return shifted - legal.sum(shifted.exp()).log().gather(-1, row)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h: Tensor, weight: Tensor, bias: Tensor, legal: LegalSets) -> Tensor:
        h, weight, bias = h.contiguous(), weight.contiguous(), bias.contiguous()
        out = h.new_empty(h.shape[0], len(legal.ids))
        pairs = legal.row.numpy(), legal.order.numpy(), legal.first.numpy()
        if bias.numel():
            _affine(h.numpy(), weight.numpy(), bias.numpy(), *pairs, out.numpy())
        else:
            _linear(h.numpy(), weight.numpy(), *pairs, out.numpy())
        ctx.save_for_backward(h, weight, bias)
        ctx.legal = legal
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        h, weight, bias = ctx.saved_tensors
        legal: LegalSets = ctx.legal
        grad = grad.contiguous()
        d_h, d_weight, d_bias = (torch.empty_like(value) for value in (h, weight, bias))
        _linear_grad_h(
            grad.numpy(), weight.numpy(), legal.start.numpy(), legal.ids.numpy(), d_h.numpy()
        )
        _linear_grad_weight(
            grad.numpy(), h.numpy(), legal.row.numpy(), legal.order.numpy(), legal.first.numpy(),
            d_weight.numpy(), d_bias.numpy(),
        )  # fmt: skip
        return d_h, d_weight, d_bias, None


class _Taken(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, h: Tensor, weight: Tensor, bias: Tensor, taken: Tensor, by_rows: bool
    ) -> Tensor:
        h = h.contiguous()
        ctx.save_for_backward(h, weight, bias, taken)
        ctx.by_rows = by_rows
        out = h.new_empty(h.shape[:2])
        _taken(h.numpy(), weight.numpy(), bias.numpy(), taken.numpy(), out.numpy())
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        h, weight, bias, taken = ctx.saved_tensors
        d_h, d_bias = torch.empty_like(h), torch.zeros_like(bias)
        maps, _, width = weight.shape
        rows, place = taken.unique(return_inverse=True) if ctx.by_rows else (None, taken)
        d_weight = torch.zeros_like(weight) if rows is None else h.new_zeros(maps, len(rows), width)
        _taken_grad(
            grad.contiguous().numpy(), h.numpy(), weight.numpy(), taken.numpy(), place.numpy(),
            d_h.numpy(), d_weight.numpy(), d_bias.numpy(),
        )  # fmt: skip
        if rows is not None:
            at = torch.stack([torch.arange(maps).repeat_interleave(len(rows)), rows.repeat(maps)])
            d_weight = torch.sparse_coo_tensor(
                at, d_weight.view(-1, width), weight.shape, is_coalesced=True,
                check_invariants=False,
            )  # fmt: skip
        return d_h, d_weight, d_bias, None, None


class _LogSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, legal: LegalSets) -> Tensor:
        out = torch.empty_like(logits, memory_format=torch.contiguous_format)
        _log_softmax(logits.contiguous().numpy(), legal.start.numpy(), out.numpy())
        ctx.save_for_backward(out)
        ctx.legal = legal
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (log_pi,) = ctx.saved_tensors
        d_logits = torch.empty_like(log_pi)
        _log_softmax_grad(
            grad.contiguous().numpy(), log_pi.numpy(), ctx.legal.start.numpy(), d_logits.numpy()
        )
        return d_logits, None


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, values: Tensor, legal: LegalSets) -> Tensor:
        ctx.legal = legal  # type: ignore[attr-defined]
        shape = (*values.shape[:-1], len(legal.start) - 1)
        if values.device.type != "cpu":
            return values.new_zeros(shape).scatter_add_(-1, legal.row.expand_as(values), values)
        flat = values.reshape(-1, values.shape[-1]).contiguous()
        out = flat.new_empty(flat.shape[0], shape[-1])
        _sums(flat.numpy(), legal.start.numpy(), out.numpy())
        return out.view(shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad.index_select(-1, ctx.legal.row), None


@njit(nogil=True, cache=True)
def _list(packed: Any, start: Any, ids: Any, row: Any, order: Any, first: Any) -> None:
    for n in range(packed.shape[0]):
        j = start[n]
        for w in range(packed.shape[1]):
            bits = packed[n, w]
            while bits:
                low = bits & (~bits + np.uint64(1))
                a = np.int64(64 * w) + PLACE[(low * DE_BRUIJN) >> np.uint64(58)]
                ids[j] = a
                row[j] = n
                first[a + 1] += 1
                bits ^= low
                j += 1
    for k in range(first.shape[0] - 1):
        first[k + 1] += first[k]
    place = first.copy()
    for j in range(ids.shape[0]):
        order[place[ids[j]]] = j
        place[ids[j]] += 1


@njit(nogil=True, cache=True, parallel=True, fastmath=True)
def _linear(h: Any, weight: Any, row: Any, order: Any, first: Any, out: Any) -> None:
    shared = weight.shape[0] == 1
    for a in prange(weight.shape[1]):  # by action: its row of W stays near, the states come by
        for g in range(h.shape[0]):
            b = weight[0 if shared else g, a]
            for k in range(first[a], first[a + 1]):
                c = h[g, row[order[k]]]
                total = h.dtype.type(0.0)
                for d in range(b.shape[0]):
                    total += c[d] * b[d]
                out[g, order[k]] = total


@njit(nogil=True, cache=True, parallel=True, fastmath=True)
def _affine(h: Any, weight: Any, bias: Any, row: Any, order: Any, first: Any, out: Any) -> None:
    shared, zero = weight.shape[0] == 1, h.dtype.type(0.0)
    for a in prange(weight.shape[1]):
        for g in range(h.shape[0]):
            twin = 0 if shared else g
            b, offset, k = weight[twin, a], bias[twin, a], first[a]
            while k + 4 <= first[a + 1]:  # four states at a time: each number of W is read once
                i, j, m, n = order[k], order[k + 1], order[k + 2], order[k + 3]
                p, q, r, s = h[g, row[i]], h[g, row[j]], h[g, row[m]], h[g, row[n]]
                t, u, v, w = zero, zero, zero, zero
                for d in range(b.shape[0]):
                    t += p[d] * b[d]
                    u += q[d] * b[d]
                    v += r[d] * b[d]
                    w += s[d] * b[d]
                out[g, i], out[g, j] = t + offset, u + offset
                out[g, m], out[g, n] = v + offset, w + offset
                k += 4
            while k < first[a + 1]:
                p, t = h[g, row[order[k]]], zero
                for d in range(b.shape[0]):
                    t += p[d] * b[d]
                out[g, order[k]] = t + offset
                k += 1


@njit(nogil=True, cache=True, parallel=True, fastmath=True)
def _linear_grad_h(grad: Any, weight: Any, start: Any, ids: Any, d_h: Any) -> None:
    shared = weight.shape[0] == 1
    for n in prange(d_h.shape[1]):
        for g in range(d_h.shape[0]):
            out, twin, j = d_h[g, n], 0 if shared else g, start[n]
            out[:] = 0.0
            while j + 4 <= start[n + 1]:  # four rows at a time: `out` is read and written once
                p, q = weight[twin, ids[j]], weight[twin, ids[j + 1]]
                r, s = weight[twin, ids[j + 2]], weight[twin, ids[j + 3]]
                t, u, v, w = grad[g, j], grad[g, j + 1], grad[g, j + 2], grad[g, j + 3]
                for d in range(out.shape[0]):
                    out[d] += t * p[d] + u * q[d] + v * r[d] + w * s[d]
                j += 4
            while j < start[n + 1]:
                p, t = weight[twin, ids[j]], grad[g, j]
                for d in range(out.shape[0]):
                    out[d] += t * p[d]
                j += 1


@njit(nogil=True, cache=True, parallel=True, fastmath=True)
def _linear_grad_weight(
    grad: Any, h: Any, row: Any, order: Any, first: Any, d_weight: Any, d_bias: Any
) -> None:
    shared, biased = d_weight.shape[0] == 1, d_bias.shape[0] > 0
    for a in prange(d_weight.shape[1]):
        for g in range(d_weight.shape[0]):
            out = d_weight[g, a]
            out[:] = 0.0
            total = h.dtype.type(0.0)
            for k in range(first[a], first[a + 1]):
                j = order[k]
                for source in range(h.shape[0]) if shared else range(g, g + 1):
                    b, factor = h[source, row[j]], grad[source, j]
                    total += factor
                    for d in range(out.shape[0]):
                        out[d] += factor * b[d]
            if biased:
                d_bias[g, a] = total


@njit(nogil=True, cache=True, fastmath=True)
def _taken(h: Any, weight: Any, bias: Any, taken: Any, out: Any) -> None:
    for g in range(h.shape[0]):
        for n in range(h.shape[1]):
            a, b = h[g, n], weight[g, taken[n]]
            total = h.dtype.type(0.0)
            for d in range(a.shape[0]):
                total += a[d] * b[d]
            out[g, n] = total + bias[g, taken[n]]


@njit(nogil=True, cache=True, fastmath=True)
def _taken_grad(
    grad: Any, h: Any, weight: Any, taken: Any, place: Any, d_h: Any, d_weight: Any, d_bias: Any
) -> None:
    for g in range(h.shape[0]):
        for n in range(h.shape[1]):
            a, b, factor = h[g, n], weight[g, taken[n]], grad[g, n]
            to_h, to_weight = d_h[g, n], d_weight[g, place[n]]
            d_bias[g, taken[n]] += factor
            for d in range(a.shape[0]):
                to_h[d] = factor * b[d]
                to_weight[d] += factor * a[d]


@njit(nogil=True, cache=True, parallel=True)
def _log_softmax(logits: Any, start: Any, out: Any) -> None:
    for n in prange(start.shape[0] - 1):
        for g in range(logits.shape[0]):
            top = logits[g, start[n]]
            for j in range(start[n], start[n + 1]):
                top = max(top, logits[g, j])
            mass = 0.0
            for j in range(start[n], start[n + 1]):
                mass += np.exp(logits[g, j] - top)
            norm = top + np.log(mass)
            for j in range(start[n], start[n + 1]):
                out[g, j] = logits[g, j] - norm


@njit(nogil=True, cache=True, parallel=True)
def _log_softmax_grad(grad: Any, log_pi: Any, start: Any, out: Any) -> None:
    for n in prange(start.shape[0] - 1):
        for g in range(grad.shape[0]):
            total = 0.0
            for j in range(start[n], start[n + 1]):
                total += grad[g, j]
            for j in range(start[n], start[n + 1]):
                out[g, j] = grad[g, j] - np.exp(log_pi[g, j]) * total


@njit(nogil=True, cache=True)
def _sums(values: Any, start: Any, out: Any) -> None:
    for g in range(values.shape[0]):
        for n in range(start.shape[0] - 1):
            total = 0.0
            for j in range(start[n], start[n + 1]):
                total += values[g, j]
            out[g, n] = total
