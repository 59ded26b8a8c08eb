"""An encoder whose every position looks back as far as its own window says.

Rule: a layer is x + attention(norm(x)), then x + feedforward(norm(x)). Windows compound: behind L layers a position
has seen L (window - 1) + 1 characters, so where a logged window must be the whole truth about what was looked at,
take one layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn

from flexattn.attention.feedforward import SwiGLU
from flexattn.attention.gate import HeadGate
from flexattn.attention.heads import Heads
from flexattn.attention.local import local_attention, local_attention_multi
from flexattn.attention.norm import RMSNorm
from flexattn.attention.positions import Rotary, alibi_slopes
from flexattn.attention.ring import Ring

__all__ = ["Encoder", "EncoderConfig"]


@dataclass(frozen=True)
class EncoderConfig:
    """What an encoder is made of.

    Attributes:
      dim: width of the stream, features; a multiple of heads.
      heads: query heads.
      kv_heads: key-value heads, a divisor of heads; None: as many as heads.
      layers: layers; one keeps the receptive field equal to the window.
      position: "rope", "alibi" or "none".
      gate: a sigmoid gate on each head after attention.
      mlp_ratio: hidden units of the feed-forward layer over dim; 0: no such layer.
      rope_base: RoPE's base.
      eps: RMSNorm's epsilon.
      impl: implementation of attention, see `local_attention`.
    """

    dim: int
    heads: int
    kv_heads: int | None = None
    layers: int = 1
    position: Literal["rope", "alibi", "none"] = "rope"
    gate: bool = True
    mlp_ratio: float = 2.0
    rope_base: float = 10_000.0
    eps: float = 1e-6
    impl: str = "auto"


class Layer(nn.Module):
    """Attention and feed-forward, each normalised before and added after."""

    slopes: Tensor | None

    def __init__(self, config: EncoderConfig) -> None:
        """One layer of `config`."""
        super().__init__()
        self.impl = config.impl
        self.norm = RMSNorm(config.dim, eps=config.eps)
        self.heads = Heads(config.dim, config.heads, config.kv_heads)
        self.rotary = (
            Rotary(self.heads.head_dim, config.rope_base) if config.position == "rope" else None
        )
        slopes = alibi_slopes(config.heads) if config.position == "alibi" else None
        self.register_buffer("slopes", slopes, persistent=False)
        self.gate = HeadGate(config.dim, config.heads) if config.gate else None
        hidden = round(config.mlp_ratio * config.dim)
        self.mlp_norm = RMSNorm(config.dim, eps=config.eps) if hidden else None
        self.mlp = SwiGLU(config.dim, hidden) if hidden else None

    def forward(self, x: Tensor, window: int | Tensor, max_window: int | None = None) -> Tensor:
        """x [B, T, dim], window int, [B, T] or [B, H, T] -> [B, T, dim]."""
        h, q, k, v = self._enter(x)
        out = local_attention(q, k, v, window, self.impl, max_window=max_window, slopes=self.slopes)
        return self._leave(x, h, out)

    def forward_multi(self, x: Tensor, windows: tuple[int, ...]) -> Tensor:
        """x [B, T, dim], C windows -> [C, B, T, dim]; projections, keys and values are shared."""
        h, q, k, v = self._enter(x)
        out = local_attention_multi(q, k, v, windows, self.impl, slopes=self.slopes)
        return self._leave(x, h, out)

    def step(self, ring: Ring, rows: Tensor, x: Tensor, position: Tensor, window: Tensor) -> Tensor:
        """One position of the texts `rows`, x [n, dim] -> [n, dim]; see `Ring.step`."""
        h = self.norm(x)
        q, k, v = (each[0] for each in self.heads.split(h[None]))  # [heads, n, D]
        if self.rotary is not None:
            q, k = self.rotary.at(position, q, k)
        q, k, v = (each.transpose(0, 1).contiguous() for each in (q, k, v))
        out = ring.step(rows, q, k, v, position, window, self.slopes)  # [n, H, D]
        return self._leave(x[None], h[None], out.transpose(0, 1)[None])[0]

    def forward_choices(
        self, x: Tensor, windows: Sequence[Tensor], bounds: Sequence[int], first: int
    ) -> Tensor:
        """x [B, T, dim], C window tensors [B, T] -> [C, B, T - first, dim]; keys and values are shared."""
        h, q, k, v = self._enter(x)
        out = [
            local_attention(q, k, v, window, self.impl, max_window=bound, slopes=self.slopes)
            for window, bound in zip(windows, bounds)
        ]
        return self._leave(x[:, first:], h[:, first:], torch.stack(out)[..., first:, :])

    def _enter(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        h = self.norm(x)
        q, k, v = self.heads.split(h)
        if self.rotary is not None:
            q, k = self.rotary(q, k)
        return h, q, k, v

    def _leave(self, x: Tensor, h: Tensor, out: Tensor) -> Tensor:
        out = out.transpose(-2, -3)  # [.., B, T, H, D]
        if self.gate is not None:
            out = self.gate(h, out)
        x = x + self.heads.join(out)
        if self.mlp is not None and self.mlp_norm is not None:
            x = x + self.mlp(self.mlp_norm(x))
        return x


class Encoder(nn.Module):
    """Layers of windowed attention with a last norm; the agent's, on CPU and GPU alike."""

    def __init__(self, config: EncoderConfig) -> None:
        """Build `config`.

        Raises: ValueError for layers < 1, a position that isn't known, or heads that don't fit dim.
        """
        super().__init__()
        if config.layers < 1:
            raise ValueError(f"Encoder: layers is {config.layers}, expected at least 1")
        if config.position not in ("rope", "alibi", "none"):
            raise ValueError(
                f"Encoder: position is {config.position!r}, expected rope, alibi or none"
            )
        self.config = config
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.norm = RMSNorm(config.dim, eps=config.eps)

    def forward(self, x: Tensor, window: int | Tensor, max_window: int | None = None) -> Tensor:
        """Encode every position under its own window.

        Args:
          x: [B, T, dim] float.
          window: keys that a position sees, its own included: an int, or int8 / int32 [B, T] or [B, H, T].
          max_window: an upper bound of a window tensor, see `local_attention`.

        Returns: [B, T, dim].
        """
        for layer in self.layers:
            x = layer(x, window, max_window)
        return self.norm(x)

    def rings(self, batch: int, slots: int) -> list[Ring]:
        """Empty rings of each layer for B texts and windows of at most `slots`."""
        heads, weight = cast("Layer", self.layers[0]).heads, self.norm.weight
        return [
            Ring(batch, heads.kv_heads, slots, heads.head_dim,
                 dtype=weight.dtype, device=weight.device)
            for _ in self.layers
        ]  # fmt: skip

    def step(
        self, rings: Sequence[Ring], rows: Tensor, x: Tensor, position: Tensor, window: Tensor
    ) -> Tensor:
        """Encode the next position of some texts; equals the last row of `forward`, without a gradient.

        Args:
          rings: what `rings` made, one a layer; written.
          rows: which texts, [n] int64, none twice.
          x: their next position, [n, dim].
          position: where it stands, [n] int64.
          window: positions that it sees, [n], at most position + 1.

        Returns: [n, dim].
        """
        for layer, ring in zip(self.layers, rings):
            x = cast("Layer", layer).step(ring, rows, x, position, window)
        return cast("Tensor", self.norm(x))

    def forward_multi(self, x: Tensor, windows: tuple[int, ...]) -> Tensor:
        """Encode every position under each of C windows, keys and values shared.

        With several layers the lower ones run once, under the widest window; only the last has C choices.

        Args:
          x: [B, T, dim] float.
          windows: C choices, keys.

        Returns: [C, B, T, dim]; with one layer, row c equals `forward(x, windows[c])`.
        """
        for layer in self.layers[:-1]:
            x = layer(x, max(windows))
        last = cast("Layer", self.layers[-1])
        return cast("Tensor", self.norm(last.forward_multi(x, windows)))

    def forward_choices(
        self, x: Tensor, windows: Sequence[Tensor], bounds: Sequence[int], first: int = 0
    ) -> Tensor:
        """The same where a choice is a tensor, as in rows that hold several answers one behind the other.

        A window cut to the place within its answer, min(w, step + 1), sees nothing of the answer before.

        Args:
          x: [B, T, dim] float.
          windows: C choices, int32 [B, T] each; with several layers the last is the widest.
          bounds: an upper bound of each.
          first: positions before it are looked at only, and give no output.

        Returns: [C, B, T - first, dim].
        """
        for layer in self.layers[:-1]:
            x = layer(x, windows[-1], bounds[-1])
        last = cast("Layer", self.layers[-1])
        return cast("Tensor", self.norm(last.forward_choices(x, windows, bounds, first)))
