"""Where results lie in memory: rows of D next to each other, in the order that the queries have.

Rule: an encoder's projection gives [B, T, H, D] and shows it as [B, H, T, D]; a result laid out in the same order goes
into the next projection without a copy. The kernel that runs and the one that only traces must agree on this.
"""

from __future__ import annotations

from torch import Tensor

__all__ = ["empty_like_q", "empty_outputs", "rows_whole"]


def rows_whole(x: Tensor) -> Tensor:
    """The same tensor, copied only where the elements of a row are not neighbours."""
    return x if x.stride(-1) == 1 else x.contiguous()


def empty_like_q(x: Tensor) -> Tensor:
    """An empty [B, H, T, D], dense, positions outside heads where x has them so."""
    return empty_outputs(x, 1)[0]


def empty_outputs(x: Tensor, choices: int) -> Tensor:
    """An empty [C, B, H, T, D] for x [B, H, T, D], dense, laid out like x within a choice."""
    batch, heads, length, dim = x.shape
    if heads > 1 and x.stride(1) < x.stride(2):
        return x.new_empty((choices, batch, length, heads, dim)).transpose(2, 3)
    return x.new_empty((choices, batch, heads, length, dim))
