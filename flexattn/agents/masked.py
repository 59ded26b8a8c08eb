"""Distributions over the legal actions A(s) alone: an illegal action has probability exactly 0.

Every formula that needs pi or log pi takes them from here, so that actor loss, target and entropy
see the same set. Illegal logits get a finite fill, never -inf: 0 * -inf is NaN.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from flexattn.errors import MaskError

ILLEGAL = -1e9  # finite, so that 0 * log_pi stays 0


def unpack_legal(packed: np.ndarray, actions: int) -> Tensor:
    """A(s) as booleans from the environment's packed rows.

    Args:
      packed: [..., W] uint64, bit a of a row set where action a is legal, lowest bit first.
      actions: |V|, at most 64 W.

    Returns: [..., |V|] bool.
    Raises: MaskError where a row has no legal action.
    """
    octets = np.ascontiguousarray(packed).view(np.uint8)
    legal = np.unpackbits(octets, axis=-1, count=actions, bitorder="little").view(bool)
    if not legal.any(-1).all():
        raise MaskError("a state has no legal action; the environment must always leave one")
    return torch.from_numpy(legal)


def masked_log_softmax(logits: Tensor, legal: Tensor | None) -> Tensor:
    """log pi(a|s) = logits - logsumexp over A(s); `ILLEGAL` outside A(s).

    Args:
      logits: [..., A] float.
      legal: A(s), [..., A] bool with at least one True a row; None: everything is legal.

    Returns: [..., A] float, finite everywhere.
    """
    if legal is None:
        return torch.log_softmax(logits, -1)
    filled = logits.masked_fill(~legal, ILLEGAL)
    return torch.log_softmax(filled, -1).masked_fill(~legal, ILLEGAL)


def entropy(log_pi: Tensor) -> Tensor:
    """H(pi(.|s)) = - sum of pi log pi, [...], nats; 0 where one action is legal."""
    return -(log_pi.exp() * log_pi).sum(-1)


def sample(log_pi: Tensor, generator: torch.Generator) -> Tensor:
    """One action a row by the Gumbel trick, never an illegal one, [...] int64."""
    uniform = torch.rand(log_pi.shape, generator=generator, device=log_pi.device)
    gumbel = -torch.log(-torch.log(uniform.clamp_(1e-9, 1.0 - 1e-7)))
    return (log_pi + gumbel).argmax(-1)
