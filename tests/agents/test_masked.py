"""Distributions over legal actions: no illegal mass, no NaN, whatever the logits say."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from flexattn.agents.masked import entropy, masked_log_softmax, sample, unpack_legal
from flexattn.errors import MaskError


def test_an_illegal_action_has_probability_zero_and_a_finite_logarithm() -> None:
    logits = torch.tensor([[1.0, 2.0, 3.0], [1e4, -1e4, 0.0]])
    legal = torch.tensor([[True, False, True], [False, True, True]])
    log_pi = masked_log_softmax(logits, legal)
    assert torch.isfinite(log_pi).all()
    assert (log_pi.exp()[~legal] == 0).all()
    assert torch.allclose(log_pi.exp().sum(-1), torch.ones(2))


def test_one_legal_action_gives_entropy_zero_and_no_nan_in_any_gradient() -> None:
    logits = torch.randn(4, 7, requires_grad=True)
    legal = torch.zeros(4, 7, dtype=torch.bool)
    legal[:, 2] = True
    h = entropy(masked_log_softmax(logits, legal))
    assert torch.equal(h, torch.zeros(4))
    h.sum().backward()
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_entropy_of_a_uniform_policy_is_the_log_of_the_legal_count() -> None:
    legal = torch.tensor([[True, True, True, False], [True, True, False, False]])
    h = entropy(masked_log_softmax(torch.zeros(2, 4), legal))
    assert torch.allclose(h, torch.log(torch.tensor([3.0, 2.0])))


def test_sampling_never_leaves_the_legal_set_and_follows_pi() -> None:
    legal = torch.tensor([True, False, True, True]).expand(20_000, 4)
    log_pi = masked_log_softmax(torch.tensor([0.0, 9.0, 1.0, 2.0]).expand(20_000, 4), legal)
    drawn = sample(log_pi, torch.Generator().manual_seed(3))
    shares = torch.bincount(drawn, minlength=4) / 20_000
    assert shares[1] == 0
    assert torch.allclose(shares, log_pi[0].exp(), atol=0.012)


def test_packed_rows_unpack_least_significant_bit_first() -> None:
    packed = np.array([[0b1010, 0b1]], np.uint64)
    assert unpack_legal(packed, 70).nonzero()[:, 1].tolist() == [1, 3, 64]


def test_a_state_without_a_legal_action_is_refused() -> None:
    with pytest.raises(MaskError, match="no legal action"):
        unpack_legal(np.zeros((2, 1), np.uint64), 10)
