"""The encoder and its parts, each against a naive version."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from flexattn.attention import Encoder, EncoderConfig
from flexattn.attention.feedforward import SwiGLU
from flexattn.attention.gate import HeadGate
from flexattn.attention.heads import Heads
from flexattn.attention.norm import RMSNorm
from flexattn.attention.positions import Rotary, alibi_slopes


def test_rope_turns_pairs_as_complex_numbers() -> None:
    q, k = (
        torch.randn(2, 3, 7, 8, dtype=torch.float64),
        torch.randn(2, 1, 7, 8, dtype=torch.float64),
    )
    turned, _ = Rotary(8)(q, k, start=5)
    pairs = torch.complex(*q.chunk(2, -1))
    angle = torch.arange(5, 12)[:, None] * 10_000.0 ** (-torch.arange(4, dtype=torch.float64) / 4)
    expected = pairs * torch.polar(torch.ones_like(angle), angle)
    torch.testing.assert_close(torch.complex(*turned.chunk(2, -1)), expected)


def test_rope_depends_on_distance_alone() -> None:
    q, k = (
        torch.randn(1, 1, 9, 16, dtype=torch.float64),
        torch.randn(1, 1, 9, 16, dtype=torch.float64),
    )
    near, far = (Rotary(16)(q, k, start) for start in (0, 40))
    products = [a @ b.transpose(-1, -2) for a, b in (near, far)]
    torch.testing.assert_close(*products)


def test_alibi_slopes_are_the_papers() -> None:
    torch.testing.assert_close(alibi_slopes(8), 2.0 ** -torch.arange(1.0, 9.0))
    assert alibi_slopes(6).tolist() == pytest.approx([2**-2, 2**-4, 2**-6, 2**-8, 2**-1, 2**-3])


def test_heads_split_and_join_like_separate_products() -> None:
    heads = Heads(24, 6, 2).double()
    x = torch.randn(2, 5, 24, dtype=torch.float64)
    q, k, v = heads.split(x)
    assert (q.shape, k.shape, v.shape) == ((2, 6, 5, 4), (2, 2, 5, 4), (2, 2, 5, 4))
    weight = heads.enter.weight
    torch.testing.assert_close(q[:, 3], x @ weight[12:16].T)
    torch.testing.assert_close(k[:, 1], x @ weight[28:32].T)
    torch.testing.assert_close(v[:, 0], x @ weight[32:36].T)


def test_gate_norm_and_swiglu_follow_their_formulas() -> None:
    x = torch.randn(2, 5, 8, dtype=torch.float64)
    gate, out = HeadGate(8, 2).double(), torch.randn(2, 5, 2, 4, dtype=torch.float64)
    logit = x @ gate.logit.weight.T + gate.logit.bias
    expected = torch.stack([out[:, :, h] / (1 + (-logit[:, :, h, None]).exp()) for h in (0, 1)], 2)
    torch.testing.assert_close(gate(x, out), expected)
    norm = RMSNorm(8, eps=1e-6).double()
    torch.testing.assert_close(norm(x), x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt())
    mlp = SwiGLU(8, 6).double()
    a, b = (x @ part.T for part in mlp.enter.weight.chunk(2))
    torch.testing.assert_close(mlp(x), (a / (1 + (-a).exp()) * b) @ mlp.leave.weight.T)


@pytest.mark.parametrize("position", ["rope", "alibi", "none"])
def test_one_layer_sees_its_window_and_no_further(position: str) -> None:
    torch.manual_seed(0)
    encoder = Encoder(EncoderConfig(32, 4, 2, position=position)).double()  # type: ignore[arg-type]
    x = torch.randn(1, 20, 32, dtype=torch.float64, requires_grad=True)
    (reached,) = torch.autograd.grad(encoder(x, 4)[0, 12].sum(), x)
    assert reached[0].abs().sum(-1).nonzero().flatten().tolist() == [9, 10, 11, 12]


def test_windows_compound_over_layers() -> None:
    encoder = Encoder(EncoderConfig(32, 4, layers=2)).double()
    x = torch.randn(1, 20, 32, dtype=torch.float64, requires_grad=True)
    (reached,) = torch.autograd.grad(encoder(x, 4)[0, 12].sum(), x)
    assert reached[0].abs().sum(-1).nonzero().flatten().tolist() == list(range(6, 13))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["fp32", "fp64"])
def test_all_windows_at_once_equal_one_at_a_time(dtype: torch.dtype) -> None:
    encoder, x = Encoder(EncoderConfig(32, 4)).to(dtype), torch.randn(3, 11, 32, dtype=dtype)
    for out, width in zip(encoder.forward_multi(x, (2, 6, 3)), (2, 6, 3)):
        torch.testing.assert_close(out, encoder(x, width))


def test_banded_and_reference_train_alike() -> None:
    torch.manual_seed(0)
    found = []
    for impl in ("banded", "reference"):
        torch.manual_seed(1)
        encoder = Encoder(EncoderConfig(32, 4, 2, position="alibi", impl=impl)).double()
        x = torch.linspace(-1, 1, 2 * 9 * 32, dtype=torch.float64).view(2, 9, 32)
        encoder(x, torch.full((2, 9), 3, dtype=torch.int8)).square().sum().backward()
        found.append([p.grad for p in encoder.parameters()])
    for a, b in zip(*found):
        torch.testing.assert_close(a, b)


def test_parts_that_do_not_fit_are_named() -> None:
    with pytest.raises(ValueError, match="heads is 5, expected a divisor of dim 32"):
        Encoder(EncoderConfig(32, 5))
    with pytest.raises(ValueError, match="kv_heads is 3, expected a divisor of heads 4"):
        Encoder(EncoderConfig(32, 4, 3))
    with pytest.raises(ValueError, match="layers is 0, expected at least 1"):
        Encoder(EncoderConfig(32, 4, layers=0))
    with pytest.raises(ValueError, match="position is 'sine', expected rope, alibi or none"):
        Encoder(EncoderConfig(32, 4, position="sine"))  # type: ignore[arg-type]


def test_importing_attention_needs_only_torch() -> None:
    code = (
        "import sys, flexattn.attention; "
        "print([x for x in ('numba', 'triton.language', 'flexattn.env') if x in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
