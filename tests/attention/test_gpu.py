"""What only a GPU can show; skipped where there is none."""

from __future__ import annotations

import pytest
import torch

from flexattn.attention import Encoder, EncoderConfig, local_attention, local_attention_multi
from flexattn.attention.cache import SinkLocalCache
from flexattn.attention.patterns import SinkLocal, sink_local_attention

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
pytest.importorskip("triton", reason="needs Triton")


def rows(heads: int, length: int = 130, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.randn(2, heads, length, 32, device="cuda", dtype=dtype)


def window(length: int = 130) -> torch.Tensor:
    return torch.randint(1, 7, (2, length), device="cuda", dtype=torch.int32)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")  # torch's own
def test_a_compiled_call_equals_a_plain_one_and_breaks_no_graph() -> None:
    q, k, v, w = rows(4).requires_grad_(), rows(2), rows(2), window()

    def call(q: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return local_attention(q, k, v, w, "triton", max_window=6) * 2

    compiled = torch.compile(call, fullgraph=True)
    assert torch.equal(compiled(q, w), call(q, w))
    do = torch.randn_like(q)
    (a,) = torch.autograd.grad(compiled(q, w), q, do)
    (b,) = torch.autograd.grad(call(q, w), q, do)
    assert torch.equal(a, b)


def test_a_captured_graph_follows_windows_that_change() -> None:
    q, k, v, w = rows(4), rows(2), rows(2), window()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        local_attention(q, k, v, w, "triton", max_window=6)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = local_attention(q, k, v, w, "triton", max_window=6)
    for _ in range(2):
        w.copy_(window())
        graph.replay()
        assert torch.equal(out, local_attention(q, k, v, w, "triton"))


@pytest.mark.filterwarnings("ignore:The CUDA Graph is empty:UserWarning")  # since it was refused
def test_in_a_captured_graph_a_window_without_a_bound_is_refused() -> None:
    q, w = rows(2), window()
    graph = torch.cuda.CUDAGraph()
    with pytest.raises(ValueError, match="expected max_window= with it"), torch.cuda.graph(graph):
        local_attention(q, q, q, w, "triton")
    torch.cuda.synchronize()


def test_new_windows_lengths_and_batches_compile_nothing() -> None:
    from flexattn.attention import kernel

    def call(batch: int, length: int, widest: int) -> None:
        q = torch.randn(batch, 2, length, 32, device="cuda", dtype=torch.bfloat16).requires_grad_()
        w = torch.randint(1, widest + 1, (batch, length), device="cuda", dtype=torch.int32)
        w[0, 0] = widest
        local_attention(q, q, q, w, "triton").sum().backward()

    def kernels() -> int:
        jitted = (kernel.windowed_fwd_kernel, kernel.windowed_bwd_kernel)
        return sum(len(x[0]) for fn in jitted for x in fn.device_caches.values())

    call(3, 130, 6)
    before = kernels()
    for batch, length, widest in ((1, 130, 6), (3, 7, 5), (2, 1, 1), (4, 129, 8), (5, 200, 3)):
        call(batch, length, widest)
    assert kernels() == before


@pytest.mark.parametrize("choices", ["one", "four"])
def test_the_custom_ops_pass_opcheck(choices: str) -> None:
    from flexattn.attention import kernel

    q, k, v = (rows(h, 37).requires_grad_() for h in (4, 2, 2))
    widths, w = ([6], window(37)) if choices == "one" else ([2, 3, 4, 6], None)
    torch.library.opcheck(kernel._windowed, (q, k, v, w, widths, None, 0.2))


def test_the_blocked_op_passes_opcheck() -> None:
    from flexattn.attention import blocked

    q, k, v = (rows(h, 200).requires_grad_() for h in (4, 2, 2))
    torch.library.opcheck(blocked._blocked, (q, k, v, None, None, None, None, 100, 0.2, 0))
    ones = torch.ones(4, device="cuda", dtype=torch.int32)
    torch.library.opcheck(blocked._blocked, (q, k, v, None, ones, ones, None, 0, 0.2, 1))


def test_a_captured_decode_step_counts_on_when_replayed() -> None:
    length, pattern = 700, SinkLocal(1, 2)
    q, k, v = (rows(h, length, torch.float32) for h in (4, 2, 2))
    truth = sink_local_attention(q, k, v, pattern, "reference")
    cache = SinkLocalCache(2, 2, 32, pattern, device="cuda")
    cache.step(q[:, :, 0], k[:, :, 0], v[:, :, 0])
    inputs = [x[:, :, 1].clone() for x in (q, k, v)]
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = cache.step(*inputs)
    for t in range(1, length):
        for x, y in zip(inputs, (q, k, v)):
            x.copy_(y[:, :, t])
        graph.replay()
        torch.testing.assert_close(out, truth[:, :, t], atol=2e-5, rtol=2e-5)


def test_the_encoder_gives_on_gpu_what_it_gives_on_cpu() -> None:
    torch.manual_seed(0)
    encoder = Encoder(EncoderConfig(64, 4, 2))
    x, w = torch.randn(3, 50, 64), torch.randint(1, 7, (3, 50), dtype=torch.int32)
    here, several = encoder(x, w), encoder.forward_multi(x, (2, 3, 6))
    encoder.cuda()
    torch.testing.assert_close(encoder(x.cuda(), w.cuda()).cpu(), here, atol=1e-5, rtol=1e-5)
    there = encoder.forward_multi(x.cuda(), (2, 3, 6)).cpu()
    torch.testing.assert_close(there, several, atol=1e-5, rtol=1e-5)


def test_all_windows_in_one_pass_equal_one_call_each() -> None:
    q, k, v = (rows(h, 130, torch.float32) for h in (4, 2, 2))
    several = local_attention_multi(q, k, v, (6, 2, 4, 3), "triton")
    for out, width in zip(several, (6, 2, 4, 3)):
        one = local_attention(q, k, v, width, "triton")
        torch.testing.assert_close(out, one, atol=1e-6, rtol=1e-6)
