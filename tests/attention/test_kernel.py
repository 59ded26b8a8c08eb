"""The Triton kernels in Triton's interpreter; float16 and float32, bfloat16 needs a GPU."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="needs Triton")
pytestmark = [
    pytest.mark.skipif(torch.cuda.is_available(), reason="test_gpu.py runs them for real"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::DeprecationWarning"),
]

from flexattn.attention import local_attention, local_attention_multi  # noqa: E402
from flexattn.attention.cache import SinkLocalCache  # noqa: E402
from flexattn.attention.patterns import FULL, SinkLocal, sink_local_attention  # noqa: E402


def inputs(heads: tuple[int, int], length: int, dim: int, dtype: torch.dtype) -> list[Tensor]:
    shape = (2, length, dim)
    rows = [torch.randn(*shape[:2], h, dim).transpose(1, 2) for h in (heads[0], heads[1], heads[1])]
    return [x.contiguous().to(dtype) if dim == 32 else x.to(dtype) for x in rows]


def agree(given: list[Tensor], call: object) -> None:
    """Output and gradients within twice the same type's own error, or a rounding of the largest."""

    def run(impl: str, dtype: torch.dtype) -> list[Tensor]:
        x = [y.detach().to(dtype).requires_grad_() for y in given]
        out = call(x, impl)  # type: ignore[operator]
        do = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).view(out.shape)
        return [out.detach(), *torch.autograd.grad(out, x, do.to(given[0].dtype).to(dtype))]

    kind = given[0].dtype
    torch.use_deterministic_algorithms(True)  # fills new memory with NaN
    try:
        ours = run("triton", kind)
    finally:
        torch.use_deterministic_algorithms(False)
    rounding = torch.finfo(kind).eps
    for a, b, c in zip(ours, run("reference", kind), run("reference", torch.float64)):
        error, own = ((x.double() - c).abs().max().item() for x in (a, b))
        assert error <= max(2 * own, 2 * rounding * c.abs().max().item(), 2**-20)


@pytest.mark.parametrize("length", [1, 63, 65])
@pytest.mark.parametrize(
    ("heads", "dim", "dtype", "widest"),
    [((2, 2), 32, torch.float32, 6), ((2, 1), 24, torch.float16, 9)],
    ids=["key by key, rows in line", "tile, grouped, odd D"],
)
def test_windows_agree(
    length: int, heads: tuple[int, int], dim: int, dtype: torch.dtype, widest: int
) -> None:
    torch.manual_seed(length)
    window = torch.randint(1, widest + 1, (2, length), dtype=torch.int32)
    given = inputs(heads, length, dim, dtype)
    agree(given, lambda x, impl: local_attention(*x, window.to(x[0].device), impl))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=["fp16", "fp32"])
def test_several_windows_in_one_pass_agree(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    given = inputs((2, 1), 37, 16, dtype)
    agree(given, lambda x, impl: local_attention_multi(*x, (6, 1, 3), impl))


def test_a_window_wider_than_a_tile_agrees() -> None:
    torch.manual_seed(0)
    window = torch.randint(1, 151, (2, 140), dtype=torch.int32)
    given = inputs((1, 1), 140, 16, torch.float32)
    agree(given, lambda x, impl: local_attention(*x, window, impl))


def test_sinks_and_locals_of_each_head_agree() -> None:
    torch.manual_seed(0)
    pattern = SinkLocal((0, 1, 2, 1), (1, 2, 1, FULL))
    given = [x[:1] for x in inputs((4, 2), 300, 16, torch.float32)]
    agree(given, lambda x, impl: sink_local_attention(*x, pattern, impl))


def test_one_step_over_the_ring_equals_the_last_row() -> None:
    from flexattn.attention.decode import decode

    torch.manual_seed(0)
    length, pattern = 620, SinkLocal(1, 2)
    q, k, v = inputs((4, 2), length, 16, torch.float32)
    truth = sink_local_attention(q, k, v, pattern, "reference")[:, :, -1]
    cache = SinkLocalCache(2, 2, 16, pattern)
    cache.fill(k[:, :, :-1], v[:, :, :-1])
    last = [x[:, :, -1].contiguous() for x in (q, k, v)]
    rings = (cache.keys, cache.values, cache.position, cache.sink_rows, cache.locals)
    torch.testing.assert_close(decode(*last, *rings, 16**-0.5), truth, atol=1e-6, rtol=1e-5)
    assert cache.position.tolist() == [length, length]


def test_a_float64_or_a_small_head_is_refused() -> None:
    x = torch.zeros(1, 1, 4, 32, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"q has torch\.float64, expected float32, bfloat16 or"):
        local_attention(x, x, x, 2, "triton")
    x = torch.zeros(1, 1, 4, 8)
    with pytest.raises(ValueError, match="q has head dim 8, expected 16 to 128 for impl='triton'"):
        local_attention(x, x, x, 2, "triton")
