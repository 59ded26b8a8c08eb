"""The operator: what it computes, what it refuses, what it says."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from flexattn.attention import banded, local, local_attention, local_attention_multi


def rows(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, dtype=dtype)


def naive(q: Tensor, k: Tensor, v: Tensor, window: Any, slopes: Tensor | None = None) -> Tensor:
    """One query at a time, in plain Python."""
    out = torch.zeros_like(q)
    batch, heads, length, dim = q.shape
    group = heads // k.shape[1]
    for b in range(batch):
        for h in range(heads):
            for i in range(length):
                reach = window if isinstance(window, int) else int(window[b, h, i])
                keys = range(max(0, i - reach + 1), i + 1)
                scores = [q[b, h, i] @ k[b, h // group, j] / dim**0.5 for j in keys]
                if slopes is not None:
                    scores = [s - slopes[h] * (i - j) for s, j in zip(scores, keys)]
                weights = torch.stack(scores).softmax(0)
                out[b, h, i] = sum(w * v[b, h // group, j] for w, j in zip(weights, keys))
    return out


@pytest.mark.parametrize("impl", ["reference", "banded"])
@pytest.mark.parametrize("with_slopes", [False, True], ids=["plain", "alibi"])
def test_a_query_sees_its_window_and_no_more(impl: str, with_slopes: bool) -> None:
    torch.manual_seed(0)
    q, k, v = (rows(2, h, 9, 8, dtype=torch.float64) for h in (4, 2, 2))
    window = torch.randint(1, 12, (2, 4, 9), dtype=torch.int32)
    slopes = torch.rand(4, dtype=torch.float64) if with_slopes else None
    out = local_attention(q, k, v, window, impl, slopes=slopes)
    torch.testing.assert_close(out, naive(q, k, v, window, slopes), atol=1e-12, rtol=1e-12)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from([0, 1, 2, 7, 33, 64, 65]),
    st.sampled_from([(4, 4), (4, 2), (3, 1)]),
    st.sampled_from([1, 2, 6, 8, 9, 40]),
    st.sampled_from(["int", "row", "head", "int8", "multi"]),
    st.booleans(),
    st.booleans(),
    st.integers(0, 3),
)
def test_banded_agrees_with_the_definition_and_so_do_its_gradients(
    length: int,
    heads: tuple[int, int],
    widest: int,
    kind: str,
    positions_outside: bool,
    with_slopes: bool,
    batch: int,
) -> None:
    generator = torch.Generator().manual_seed(length + widest + batch)

    def one(h: int) -> Tensor:
        x = torch.randn(batch, length, h, 16, generator=generator).transpose(1, 2)
        return x if positions_outside else x.contiguous()

    inputs = [one(h) for h in (heads[0], heads[1], heads[1])]
    slopes = torch.rand(heads[0], generator=generator) if with_slopes else None
    shape = (batch, heads[0], length) if kind == "head" else (batch, length)
    window = torch.randint(1, widest + 1, shape, generator=generator)
    window = window.to(torch.int8 if kind == "int8" else torch.int32)

    def run(impl: str, dtype: torch.dtype) -> list[Tensor]:
        x = [y.detach().to(dtype).requires_grad_() for y in inputs]
        scaled = None if slopes is None else slopes.to(dtype)
        if kind == "multi":
            out = local_attention_multi(*x, (widest, 1, 3), impl, slopes=scaled)
        else:
            chosen = widest if kind == "int" else window
            out = local_attention(*x, chosen, impl, slopes=scaled)
        do = torch.linspace(-1, 1, out.numel(), dtype=dtype).view(out.shape)
        return [out.detach(), *torch.autograd.grad(out, x, do)]

    truth = run("reference", torch.float64)
    for ours, own, exact in zip(
        run("banded", torch.float32), run("reference", torch.float32), truth
    ):
        if exact.numel():
            error = (ours.double() - exact).abs().max()
            # twice the reference's own error, or four roundings where that is zero by luck
            allowed = max(
                2 * (own.double() - exact).abs().max(), 2**-21 * max(1, exact.abs().max())
            )
            assert error <= allowed
    for ours, exact in zip(run("banded", torch.float64), truth):
        torch.testing.assert_close(ours, exact, atol=1e-12, rtol=1e-10)


def test_alibi_rounds_no_more_than_the_reference() -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(8, 4, 100, 32, generator=generator) for _ in range(3)]
    do = torch.randn(8, 4, 100, 32, generator=generator)
    slopes = torch.rand(4, generator=generator)

    def run(impl: str, dtype: torch.dtype) -> list[Tensor]:
        x = [y.to(dtype).requires_grad_() for y in inputs]
        out = local_attention(*x, 30, impl, slopes=slopes.to(dtype))
        return [out.detach(), *torch.autograd.grad(out, x, do.to(dtype))]

    truth = run("reference", torch.float64)
    found = (run(impl, torch.float32) for impl in ("banded", "reference"))
    for name, ours, own, exact in zip(("o", "dq", "dk", "dv"), *found, truth):
        # root mean squares: one largest error is luck
        assert (ours - exact).norm() <= (own - exact).norm(), name


def test_threads_change_no_bit() -> None:
    torch.manual_seed(0)
    q, k, v = (rows(2, h, 600, 16).requires_grad_() for h in (4, 2, 2))
    window = torch.randint(1, 50, (2, 600), dtype=torch.int32)
    found = []
    for threads in (1, 2, 3):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            out = local_attention(q, k, v, window, "banded")
            found.append([out, *torch.autograd.grad(out.sin().sum(), (q, k, v))])
        finally:
            torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other))


def results(
    heads: tuple[int, int], widest: int, outside: bool, dtype: torch.dtype = torch.float32
) -> list[Tensor]:
    """Output and gradients of 300 positions, the same inputs in every call."""
    generator = torch.Generator().manual_seed(0)

    def one(h: int) -> Tensor:
        x = torch.randn(3, 300, h, 32, generator=generator, dtype=dtype).transpose(1, 2)
        return (x if outside else x.contiguous()).requires_grad_()

    x = [one(h) for h in (heads[0], heads[1], heads[1])]
    window = torch.randint(1, widest + 1, (3, 300), generator=generator)
    out = local_attention(*x, window, "banded")
    return [out, *torch.autograd.grad(out.sin().sum(), x)]


@pytest.mark.parametrize("heads", [(4, 4), (4, 2)], ids=["multi-head", "grouped"])
@pytest.mark.parametrize("widest", [6, 40])
@pytest.mark.parametrize("outside", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_results_written_past_the_caches_are_the_same(
    heads: tuple[int, int],
    widest: int,
    outside: bool,
    dtype: torch.dtype,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kept = results(heads, widest, outside, dtype)
    monkeypatch.setattr(banded, "_LARGE", 0)
    past = results(heads, widest, outside, dtype)
    assert all(torch.equal(a, b) for a, b in zip(kept, past))


def test_torchs_own_threads_give_the_bits_of_plain_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    if not banded.openmp():
        pytest.skip("torch's OpenMP here is not GNU's")
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        own = results((4, 4), 6, False)
        monkeypatch.setattr(banded, "openmp", lambda: 0)
        plain = results((4, 4), 6, False)
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(own, plain))


AFTER_A_FORK = """
import os, sys, torch  # whose own operations on several threads a forked process can't use
from flexattn.attention import local_attention

torch.set_num_threads(2)
q = torch.randn(4, 4, 256, 32)
before = local_attention(q, q, q, 6, "banded")
child = os.fork()
if child == 0:
    after = local_attention(q, q, q, 6, "banded")
    os._exit(0 if (after.numpy() == before.numpy()).all() else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_process_goes_on() -> None:
    command = [sys.executable, "-W", "ignore", "-c", AFTER_A_FORK]  # newer Pythons warn of forks
    assert subprocess.run(command, timeout=200, check=False).returncode == 0


def test_new_memory_full_of_nan_never_shows() -> None:
    q = rows(2, 2, 37, 8).requires_grad_()
    torch.use_deterministic_algorithms(True)  # fills new memory with NaN
    try:
        out = local_attention(q, q, q, 5, "banded")
        (grad,) = torch.autograd.grad(out.sum(), q)
    finally:
        torch.use_deterministic_algorithms(False)
    assert out.isfinite().all()
    assert grad.isfinite().all()


def test_nan_in_a_key_reaches_those_who_see_it_and_nobody_else() -> None:
    q, k = rows(1, 1, 20, 8), rows(1, 1, 20, 8)
    k[0, 0, 10] = float("nan")
    out = local_attention(q, k, rows(1, 1, 20, 8), 3, "banded")
    assert out[0, 0].isnan().any(-1).nonzero().flatten().tolist() == [10, 11, 12]


def test_nan_in_a_query_reaches_the_keys_it_sees_and_no_others() -> None:
    q, k, v = rows(1, 2, 90, 8), rows(1, 1, 90, 8), rows(1, 1, 90, 8)
    q[0, 1, 33] = float("nan")
    x = [y.requires_grad_() for y in (q, k, v)]
    dq, dk, dv = torch.autograd.grad(local_attention(*x, 5, "banded").sum(), x)
    assert dq[0].isnan().any(-1).nonzero().tolist() == [[1, 33]]
    for grad in (dk, dv):
        assert grad[0, 0].isnan().any(-1).nonzero().flatten().tolist() == [29, 30, 31, 32, 33]


def test_scores_far_apart_give_no_nan() -> None:
    q = rows(1, 1, 50, 8) * 300
    out = local_attention_multi(q, q, rows(1, 1, 50, 8), (1, 2, 50), "banded")
    assert out.isfinite().all()


def test_each_of_several_windows_equals_a_call_of_its_own() -> None:
    q, k, v = (rows(2, h, 30, 16) for h in (4, 2, 2))
    several = local_attention_multi(q, k, v, (6, 2, 4))
    for out, width in zip(several, (6, 2, 4)):
        assert torch.equal(out, local_attention(q, k, v, width))


def test_a_bound_below_a_window_cuts_it() -> None:
    q = rows(1, 2, 20, 8)
    wide = torch.full((1, 20), 15, dtype=torch.int32)
    for impl in ("reference", "banded"):
        cut = local_attention(q, q, q, wide, impl, max_window=4)
        torch.testing.assert_close(cut, local_attention(q, q, q, 4, impl))


GPU_KINDS = ((torch.bfloat16, 32), (torch.float32, 128), (torch.float64, 32), (torch.float32, 136))

BAD: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "a key of another length": ({"k": rows(2, 4, 8, 8)}, ValueError, r"k has shape \[2, 4, 8, 8\], expected \[2, 4, 9, 8\] like q"),
    "a value unlike the key": ({"v": rows(2, 2, 9, 8)}, ValueError, r"v has shape \[2, 2, 9, 8\], expected \[2, 4, 9, 8\] like k"),
    "three dimensions": ({"q": rows(4, 9, 8)}, ValueError, r"q has shape \[4, 9, 8\], expected 4 dimensions"),
    "heads that don't divide": ({"k": rows(2, 3, 9, 8)}, ValueError, "k has 3 heads, expected a divisor of the 4 heads of q"),
    "a list": ({"v": [1.0]}, TypeError, "v is a list, expected a tensor"),
    "mixed types": ({"k": rows(2, 4, 9, 8, dtype=torch.float64)}, TypeError, r"k has torch.float64, expected torch.float32 like q"),
    "integers": ({"q": torch.ones(2, 4, 9, 8, dtype=torch.int32)}, TypeError, "q has torch.int32, expected a float type"),
    "another device": ({"k": rows(2, 4, 9, 8).to("meta")}, ValueError, "k is on meta, expected cpu like q"),
    "window 0": ({"window": 0}, ValueError, "window has 0, expected at least 1"),
    "a negative window": ({"window": -3}, ValueError, "window has -3, expected at least 1"),
    "a float window": ({"window": 2.5}, TypeError, "window has float 2.5, expected an int"),
    "a window of floats": ({"window": torch.ones(2, 9)}, TypeError, "window has torch.float32, expected int8 or int32"),
    "a window tensor with 0": ({"window": torch.zeros(2, 9, dtype=torch.int32)}, ValueError, "window has 0, expected at least 1"),
    "a window of another shape": ({"window": torch.ones(2, 8, dtype=torch.int32)}, ValueError, r"window has shape \[2, 8\], expected \[2, 9\] or \[2, 4, 9\]"),
    "an unknown implementation": ({"impl": "fast"}, ValueError, "impl is 'fast', expected one of auto, reference, banded, triton"),
    "slopes of another length": ({"slopes": torch.ones(3)}, ValueError, r"slopes has shape \[3\], expected \[4\]"),
    "a bound of 0": ({"window": torch.ones(2, 9, dtype=torch.int32), "max_window": 0}, ValueError, "max_window has 0"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "error", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_one_sentence_that_names_it(
    change: dict[str, Any], error: type[Exception], message: str
) -> None:
    given = {name: rows(2, 4, 9, 8) for name in ("q", "k", "v")} | {"window": 3, "impl": "banded"}
    with pytest.raises(error, match=message) as caught:
        local_attention(**(given | change))
    assert str(caught.value).startswith("local_attention: ")
    assert "\n" not in str(caught.value)


def test_a_named_implementation_never_falls_back() -> None:
    half, odd = rows(1, 1, 4, 8, dtype=torch.bfloat16), rows(1, 1, 4, 9)
    with pytest.raises(
        ValueError, match=r"expected torch\.float32 or torch\.float64 for impl='banded'"
    ):
        local_attention(half, half, half, 2, "banded")
    with pytest.raises(ValueError, match="head dim 9, expected a multiple of 8"):
        local_attention(odd, odd, odd, 2, "banded")
    with pytest.raises(ValueError, match=r"no choice|empty"):
        local_attention_multi(odd, odd, odd, ())
    endless = torch.zeros(1).expand(1, 1, 1 << 28, 8)
    with pytest.raises(ValueError, match=r"268435456 positions, expected fewer than 2\^31 / D"):
        local_attention(endless, endless, endless, 2, "banded")


def test_auto_says_once_what_it_took(caplog: pytest.LogCaptureFixture) -> None:
    local._said.clear()
    half = rows(1, 1, 4, 8, dtype=torch.bfloat16)
    with caplog.at_level(logging.INFO, logger="flexattn.attention.local"):
        for _ in range(2):
            local_attention(half, half, half, 2)
            local_attention(half.float(), half.float(), half.float(), 2)
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        "local_attention: impl='auto' took reference for cpu, torch.bfloat16, head dim 8",
        "local_attention: impl='auto' took banded for cpu, torch.float32, head dim 8",
    ]


@pytest.mark.skipif(find_spec("triton") is None, reason="needs Triton")
def test_auto_takes_the_kernels_on_a_gpu_where_they_can(caplog: pytest.LogCaptureFixture) -> None:
    local._said.clear()
    with caplog.at_level(logging.INFO, logger="flexattn.attention.local"):
        chosen = [local.fastest("cuda", dtype, dim) for dtype, dim in GPU_KINDS]
    assert chosen == ["triton", "triton", "reference", "reference"]
    assert "took triton for cuda, torch.bfloat16, head dim 32" in caplog.text


def test_the_custom_ops_pass_opcheck() -> None:
    from flexattn.attention.banded import banded

    q, k, v = (rows(2, h, 11, 8).requires_grad_() for h in (4, 2, 2))
    window = torch.randint(1, 5, (2, 11), dtype=torch.int32)
    torch.library.opcheck(banded, (q, k, v, window, [4], None, 0.3))
    torch.library.opcheck(banded, (q, k, v, None, [2, 5], torch.rand(4), 0.3))


def test_a_traced_call_breaks_no_graph() -> None:
    q, window = rows(2, 2, 11, 8).requires_grad_(), torch.randint(1, 5, (2, 11), dtype=torch.int32)

    def call(q: Tensor, window: Tensor) -> Tensor:
        return local_attention(q, q, q, window, "auto", max_window=4) * 2

    traced = torch.compile(call, fullgraph=True, backend="aot_eager")
    assert torch.equal(traced(q, window), call(q, window))
    (a,) = torch.autograd.grad(traced(q, window).sum(), q)
    (b,) = torch.autograd.grad(call(q, window).sum(), q)
    assert torch.equal(a, b)
