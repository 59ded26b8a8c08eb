"""A ring of keys and values gives what the whole text gives."""

from __future__ import annotations

import pytest
import torch

from flexattn.attention import Encoder, EncoderConfig


@pytest.mark.parametrize("position", ["rope", "alibi", "none"])
@pytest.mark.parametrize("layers", [1, 2])
@torch.no_grad()
def test_stepping_through_a_text_equals_encoding_it(position: str, layers: int) -> None:
    torch.manual_seed(layers)
    config = EncoderConfig(
        dim=24, heads=6, kv_heads=2, layers=layers, position=position, impl="reference"
    )
    encoder = Encoder(config).double()
    batch, length, widest = 3, 17, 5
    x = torch.randn(batch, length, 24, dtype=torch.float64)
    window = torch.randint(1, widest + 1, (batch, length), dtype=torch.int32)
    window = torch.minimum(window, torch.arange(1, length + 1, dtype=torch.int32))
    whole = encoder(x, window, widest)
    rings = encoder.rings(batch, widest)
    done = torch.zeros(batch, dtype=torch.int64)
    while bool((done < length).any()):
        # texts go on at different speeds
        rows = torch.nonzero((done < length) & (torch.rand(batch) < 0.7))[:, 0]
        if len(rows):
            at = done[rows]
            out = encoder.step(rings, rows, x[rows, at], at, window[rows, at])
            torch.testing.assert_close(out, whole[rows, at])
            done[rows] += 1


@torch.no_grad()
def test_texts_that_change_places_take_their_past_along() -> None:
    torch.manual_seed(0)
    encoder = Encoder(EncoderConfig(dim=16, heads=2)).double()
    x = torch.randn(2, 6, 16, dtype=torch.float64)
    rings, every = encoder.rings(2, 4), torch.arange(2)
    window = torch.full((2,), 4)
    for t in range(4):
        encoder.step(rings, every, x[:, t], torch.full((2,), t), torch.full((2,), t + 1))
    for ring in rings:
        ring.take(torch.tensor([1, 1]))
    out = encoder.step(rings, every, x[:, 4], torch.full((2,), 4), window)
    whole = encoder(torch.cat([x[[1, 1], :4], x[:, 4:]], 1), 4)
    torch.testing.assert_close(out, whole[:, 4])
