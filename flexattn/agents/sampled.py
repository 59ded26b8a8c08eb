"""Expectations over (Lh, Lp, a) by two draws, beside the exact sums; the same in expectation.

With f = f_h + f_p + f_a and f_x = min Q_x - alpha_x log pi_x of what was drawn,

    V(s)       = E f
    grad J_pi  = -E [ f grad log pi_h + f_p grad log pi_p + f_a grad log pi_char ],

since Q_p does not depend on a, nor Q_0 on Lp, once Lh is drawn. The other draw is the baseline,
which leaves the expectation as it is; E grad log pi = 0, so entropy needs no term of its own.
Costs two attentions where the exact expectation takes |H|, and far more draws to say the same.
Source: score function, Williams 1992; two draws, Kool et al. 2019 (leave-one-out baseline).
Shapes: K = 2 draws, M states, C = |H|, P = |P|, J legal pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from flexattn.agents.batches import Batch
from flexattn.agents.masked import entropy, masked_log_softmax, sample
from flexattn.agents.networks import Actor

DRAWS = 2


@dataclass(frozen=True)
class Draws:
    """Independent draws of the three decisions in each state.

    Attributes:
      history: index into H, [K, M] int64.
      cap: index into P, [K, M] int64.
      pair: legal pair of the character, [K, M] int64.
      log_h, log_p, log_a: log pi of what was drawn, [K, M], with gradient.
      nats: H(pi_h), H(pi_p|Lh), H(pi_char|Lh) of the drawn Lh, three times [K, M], no gradient.
      label: log pi_char of the teacher's character under the drawn Lh, [K, M], with gradient.
      log_all: log pi_char of every legal pair under the drawn Lh, [K, J], with gradient.
    """

    history: Tensor
    cap: Tensor
    pair: Tensor
    log_h: Tensor
    log_p: Tensor
    log_a: Tensor
    nats: tuple[Tensor, Tensor, Tensor]
    label: Tensor
    log_all: Tensor


def draw(actor: Actor, batch: Batch, generator: torch.Generator) -> Draws:
    """Draw Lh, then Lp and a character under it, in every state of a batch."""
    token, fixed = actor.embed(batch.seen)
    rows, legal = batch.rows, batch.legal
    near, context = token[rows], fixed[rows]
    log_h = masked_log_softmax(actor.history_logits(near, context), None)  # [M, C]
    windows = torch.tensor(actor.windows, dtype=torch.int32, device=token.device)
    kept: list[tuple[Tensor, ...]] = []
    for _ in range(DRAWS):
        history = sample(log_h.detach(), generator)
        window = torch.ones(rows.shape, dtype=torch.int32, device=token.device)
        window[rows] = windows[history]
        state = actor.state(actor.encoder(token, window)[rows], context)
        known = expected = None
        if batch.prior is not None:
            known = batch.prior.log_p.gather(0, history[legal.row].unsqueeze(0))
            expected = batch.prior.expected[history, torch.arange(len(history))]
        log_p = masked_log_softmax(actor.cap_logits(state, near, context, expected), None)  # [M, P]
        log_a = actor.char_log_pi(state.unsqueeze(0), legal, known)[0]  # [J]
        cap, pair = sample(log_p.detach(), generator), legal.sample(log_a.detach(), generator)
        held = log_a.detach()
        kept.append((
            history, cap, pair,
            log_h.gather(-1, history[:, None])[:, 0], log_p.gather(-1, cap[:, None])[:, 0],
            log_a[pair], log_a[batch.teacher], log_a,
            entropy(log_h.detach()), entropy(log_p.detach()), -legal.sum(held.exp() * held),
        ))  # fmt: skip
    history, cap, pair, drawn_h, drawn_p, drawn_a, label, log_all, h, p, a = (
        torch.stack(column) for column in zip(*kept)
    )
    return Draws(history, cap, pair, drawn_h, drawn_p, drawn_a, (h, p, a), label, log_all)


def sampled_values(
    draws: Draws, qh: Tensor, qp: Tensor, q0: Tensor, alpha: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The terms f_h, f_p and f_a of every draw, three times [K, M], reward units, no gradient.

    Args:
      draws: what was drawn.
      qh: smaller twin of Q_h(s, .), [M, C].
      qp: smaller twin of Q_p(s, .), [M, P].
      q0: smaller twin of Q_0(s, a), [J].
      alpha: the three temperatures, [3].
    """
    f_h = qh.gather(-1, draws.history.T).T - alpha[0] * draws.log_h.detach()
    f_p = qp.gather(-1, draws.cap.T).T - alpha[1] * draws.log_p.detach()
    f_a = q0[draws.pair] - alpha[2] * draws.log_a.detach()
    return f_h, f_p, f_a


def sampled_objective(draws: Draws, values: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """What has the gradient of V in expectation, [M]; its value means nothing."""
    whole = values[0] + values[1] + values[2]
    terms = (
        draws.log_h * _over_the_other(whole)
        + draws.log_p * _over_the_other(values[1])
        + draws.log_a * _over_the_other(values[2])
    )
    return terms.mean(0)


def _over_the_other(f: Tensor) -> Tensor:
    """Each draw's value minus that of the other, [K, M]."""
    return f - f.flip(0)
