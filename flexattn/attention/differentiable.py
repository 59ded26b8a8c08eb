"""A pair of kernels as one operator that torch traces and differentiates.

Rule: forward takes (q, k, v, window, widths, slopes, scale) and gives [C, B, H, T, D]; backward takes the gradient of
that and the same seven, and gives those of q, k and v. Nothing but the inputs is kept in between.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.library import CustomOpDef

from flexattn.attention.layout import empty_like_q, empty_outputs, rows_whole

__all__ = ["differentiable"]


def differentiable(forward: CustomOpDef, backward: CustomOpDef) -> None:
    """Say what both look like when traced, and that one is the other's gradient."""

    def traced(q, k, v, window, widths, slopes, scale):  # type: ignore[no-untyped-def]
        return empty_outputs(rows_whole(q), len(widths))

    def traced_backward(do, q, k, v, window, widths, slopes, scale):  # type: ignore[no-untyped-def]
        return tuple(empty_like_q(rows_whole(x)) for x in (q, k, v))

    def keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        q, k, v, window, ctx.widths, slopes, ctx.scale = inputs
        ctx.save_for_backward(q, k, v, window, slopes)

    def gradients(ctx: Any, do: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, window, slopes = ctx.saved_tensors
        grads = backward(do, q, k, v, window, ctx.widths, slopes, ctx.scale)
        return *grads, None, None, None, None

    forward.register_fake(traced)
    backward.register_fake(traced_backward)
    forward.register_autograd(gradients, setup_context=keep)
