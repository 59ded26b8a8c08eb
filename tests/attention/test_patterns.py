"""Sinks, locals, packed episodes and the ring, on CPU."""

from __future__ import annotations

import pytest
import torch

from flexattn.attention import local_attention
from flexattn.attention.cache import SinkLocalCache
from flexattn.attention.patterns import SinkLocal, episode_window, sink_local_attention


def test_the_mask_is_the_first_and_the_last_blocks() -> None:
    seen = SinkLocal((1, 0), (2, 1)).visible(2, 520)
    assert seen[0, 515].nonzero().flatten().tolist() == [*range(128), *range(384, 516)]
    assert seen[1, 515].nonzero().flatten().tolist() == list(range(512, 516))
    assert seen[0, 3].nonzero().flatten().tolist() == [0, 1, 2, 3]


def test_an_episode_never_sees_the_one_before() -> None:
    starts = torch.zeros(1, 12, dtype=torch.bool)
    starts[0, [5, 9]] = True
    packed = episode_window(4, starts)
    assert packed.tolist() == [[1, 2, 3, 4, 4, 1, 2, 3, 4, 1, 2, 3]]
    q = torch.randn(1, 2, 12, 8)
    together = local_attention(q, q, q, packed)
    apart = [local_attention(*[q[:, :, a:b]] * 3, 4) for a, b in ((0, 5), (5, 9), (9, 12))]
    torch.testing.assert_close(together, torch.cat(apart, 2))
    drawn = torch.full((1, 12), 2, dtype=torch.int8)
    assert episode_window(drawn, starts)[0, 5].item() == 1


@pytest.mark.parametrize(
    ("sinks", "locals_", "filled"), [(1, 2, 0), (0, 1, 0), (2, 1, 0), (1, 1, 500)]
)
def test_the_ring_gives_what_the_whole_text_gives(sinks: int, locals_: int, filled: int) -> None:
    torch.manual_seed(0)
    length, pattern = 560, SinkLocal(sinks, locals_)
    q, k, v = (torch.randn(2, h, length, 8) for h in (4, 2, 2))
    truth = sink_local_attention(q, k, v, pattern)
    cache = SinkLocalCache(2, 2, 8, pattern)
    assert cache.keys.shape[2] == (sinks + locals_) * 128
    if filled:
        cache.fill(k[:, :, :filled], v[:, :, :filled])
    for t in range(filled, length):
        out = cache.step(q[:, :, t], k[:, :, t], v[:, :, t])
        torch.testing.assert_close(out, truth[:, :, t], atol=1e-5, rtol=1e-5)


def test_bad_patterns_and_caches_are_named() -> None:
    with pytest.raises(ValueError, match="locals has 0, expected at least 1"):
        SinkLocal(1, 0)
    with pytest.raises(TypeError, match=r"sinks has 1\.5, expected an int"):
        SinkLocal(1.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="sinks has 3 entries, expected 2, one a head of q"):
        SinkLocal((1, 1, 1)).per_head(2)
    with pytest.raises(ValueError, match="pattern differs between heads, expected one pattern"):
        SinkLocalCache(1, 2, 8, SinkLocal((1, 0), 1))
    cache, x = SinkLocalCache(1, 2, 8, SinkLocal()), torch.zeros(1, 2, 8)
    with pytest.raises(ValueError, match=r"q has shape \[1, 3, 8\], expected \[1, H, 8\]"):
        cache.step(torch.zeros(1, 3, 8), x, x)
    with pytest.raises(ValueError, match=r"k is torch\.float64 on cpu, expected torch\.float32"):
        cache.step(x, x.double(), x)
    q = torch.zeros(1, 2, 4, 8)
    with pytest.raises(ValueError, match="impl is 'banded', expected one of auto, reference"):
        sink_local_attention(q, q, q, SinkLocal(), "banded")
