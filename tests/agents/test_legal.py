"""Paying for legal characters only gives the numbers of the dense formulas, gradients included."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from flexattn.agents.legal import (
    LegalSets,
    legal_linear,
    legal_log_softmax,
    reference_linear,
    reference_log_softmax,
    taken_linear,
)
from flexattn.agents.masked import masked_log_softmax, unpack_legal
from flexattn.errors import MaskError

CPU = torch.device("cpu")


def _sets(n: int, actions: int, seed: int) -> tuple[LegalSets, torch.Tensor]:
    rng = np.random.default_rng(seed)
    mask = rng.random((n, actions)) < 0.2
    mask[np.arange(n), rng.integers(0, actions, n)] = True
    mask[0] = False
    mask[0, actions - 1] = True  # a state with one legal action, the last
    words = -(-actions // 64)
    octets = np.packbits(mask, axis=-1, bitorder="little")
    packed = np.zeros((n, words * 8), np.uint8)
    packed[:, : octets.shape[1]] = octets
    rows = packed.view(np.uint64)
    assert (unpack_legal(rows, actions).numpy() == mask).all()
    return LegalSets.of(rows, actions, CPU), torch.from_numpy(mask)


@pytest.mark.parametrize("actions", [5, 64, 65, 200])
def test_the_lists_hold_every_legal_pair_in_order(actions: int) -> None:
    legal, mask = _sets(7, actions, 0)
    rows, ids = mask.nonzero(as_tuple=True)
    assert torch.equal(legal.row, rows)
    assert torch.equal(legal.ids, ids)
    assert torch.equal(legal.counts, mask.sum(-1))
    assert torch.equal(legal.ids[legal.order], legal.ids.sort(stable=True).values)


@pytest.mark.parametrize("shared", [True, False], ids=["one map for all", "a map for each"])
def test_forward_and_every_gradient_equal_the_dense_formula(shared: bool) -> None:
    torch.manual_seed(1)
    legal, mask = _sets(9, 70, 1)
    h = torch.randn(3, 9, 16, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(1 if shared else 3, 70, 16, dtype=torch.float64, requires_grad=True)
    mix = torch.randn(3, len(legal.ids), dtype=torch.float64)
    found = legal_log_softmax(legal_linear(h, weight, legal), legal)
    found_grads = torch.autograd.grad((found * mix).sum(), (h, weight))
    dense = masked_log_softmax(h @ weight.transpose(-1, -2), mask)[:, mask]
    dense_grads = torch.autograd.grad((dense * mix).sum(), (h, weight))
    assert torch.allclose(found, dense, atol=1e-12)
    for ours, theirs in zip(found_grads, dense_grads):
        assert torch.allclose(ours, theirs, atol=1e-11)


@pytest.mark.parametrize("shared", [True, False], ids=["one map for all", "a map for each"])
def test_with_a_bias_forward_and_every_gradient_equal_the_gathers(shared: bool) -> None:
    torch.manual_seed(4)
    legal, _ = _sets(60, 33, 5)  # more states than four to an action
    maps = 1 if shared else 2
    h = torch.randn(2, 60, 16, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(maps, 33, 16, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(maps, 33, dtype=torch.float64, requires_grad=True)
    mix = torch.randn(2, len(legal.ids), dtype=torch.float64)
    sides = [f(h, weight, legal, bias) for f in (legal_linear, reference_linear)]
    grads = [torch.autograd.grad((out * mix).sum(), (h, weight, bias)) for out in sides]
    assert torch.allclose(*sides, atol=1e-12)
    for ours, theirs in zip(*grads):
        assert torch.allclose(ours, theirs, atol=1e-11)


def test_one_action_a_state_equals_the_gather() -> None:
    torch.manual_seed(5)
    actions = 40
    taken = torch.arange(25) % actions
    taken[3] = taken[4]  # an action taken twice
    h = torch.randn(2, 25, 8, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, actions, 8, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(2, actions, dtype=torch.float64, requires_grad=True)
    ours = taken_linear(h, weight, bias, taken)
    theirs = (h * weight[:, taken]).sum(-1) + bias[:, taken]
    grads = [torch.autograd.grad(out.square().sum(), (h, weight, bias)) for out in (ours, theirs)]
    assert torch.allclose(ours, theirs, atol=1e-12)
    for one, two in zip(*grads):
        assert torch.allclose(one, two, atol=1e-11)


def test_the_gathers_of_other_devices_give_the_same() -> None:
    torch.manual_seed(2)
    legal, _ = _sets(6, 33, 2)
    h, weight = torch.randn(2, 6, 8), torch.randn(1, 33, 8)
    logits = legal_linear(h, weight, legal)
    assert torch.allclose(logits, reference_linear(h, weight, legal), atol=1e-5)
    assert torch.allclose(
        legal_log_softmax(logits, legal), reference_log_softmax(logits, legal), atol=1e-6
    )


def test_threads_change_no_bit() -> None:
    import numba

    torch.manual_seed(3)
    legal, _ = _sets(50, 90, 3)
    h = torch.randn(2, 50, 32, requires_grad=True)
    weight = torch.randn(1, 90, 32, requires_grad=True)
    before = numba.get_num_threads()
    results = []
    for threads in (1, min(2, numba.config.NUMBA_NUM_THREADS)):
        numba.set_num_threads(threads)
        out = legal_log_softmax(legal_linear(h, weight, legal), legal)
        results.append((out, *torch.autograd.grad(out.pow(2).sum(), (h, weight))))
    numba.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*results))


def test_sums_and_lookups_go_by_state() -> None:
    legal, mask = _sets(8, 40, 4)
    assert torch.equal(legal.sum(torch.ones(2, len(legal.ids)))[1], mask.sum(-1).float())
    wanted = torch.arange(8) * 3
    place, found = legal.find(wanted)
    assert torch.equal(found, mask[torch.arange(8), wanted])
    assert torch.equal(legal.ids[place[found]], wanted[found])
    assert torch.equal(legal.row[place], torch.arange(8))


def test_a_state_without_a_legal_action_is_refused() -> None:
    with pytest.raises(MaskError, match="no legal action"):
        LegalSets.of(np.zeros((1, 2), np.uint64), 90, CPU)
