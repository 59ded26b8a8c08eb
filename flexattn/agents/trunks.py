"""The networks' forward passes over whole chunks in bfloat16, for a compiler to fuse.

The weights and the maps are those of `networks`; what differs is the order of sums. Where several
windows or both twins read the same input, its product is taken once. Heads whose small outputs
count in reward units stay float32: values, window parts, log probabilities.
Shapes: N environments, S1 states each, X characters before, C windows, V padded characters.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from flexattn.agents.networks import Actor, Critics
from flexattn.agents.twins import TwinLinear
from flexattn.env.vocabulary import UNK

__all__ = ["critic_trunk", "policy", "policy_step", "taken_value", "twin_advantages"]

HALF = torch.bfloat16
STRETCHES = 64


def policy(
    actor: Actor, token: Tensor, questions: Tensor, asked: Tensor, step: Tensor, sketch: Tensor,
    actions: int,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """All three heads at every state, under every window.

    Args:
      actor: the networks.
      token: character written last, [N, X + S1] int32.
      questions: every encoded question, [Q, .] int32.
      asked: row of `questions`, [N, X + S1] int32.
      step: index within the answer, [N, S1] int32.
      sketch: [N, S1, .].
      actions: V, padded.

    Returns: log pi_h [N, S1, C], log pi_p [C, N, S1, P] float32, logits of the characters
      [C, N * S1, V] bfloat16.
    """
    states = step.shape[1]
    first = token.shape[1] - states
    with torch.autocast(token.device.type, HALF):
        table = actor.question(questions).float()
        near, fixed = _inputs(actor, token, table, asked, step, sketch)
        within = functional.pad(step, (first, 0), value=0) + 1
        windows = [within.clamp(max=width) for width in actor.windows]
        attended = actor.encoder.forward_choices(near, windows, actor.windows, first)
        context = torch.cat([near[:, first:], fixed], -1)
        state = actor.state(attended, fixed)
        log_h = torch.log_softmax(actor.history_head(context).float(), -1)
        log_p = torch.log_softmax(_caps(actor, state, context).float(), -1)
        logits = _characters(actor.char_head, state, actions)
    return log_h, log_p, logits.flatten(1, 2)


def policy_step(
    actor: Actor, token: Tensor, table: Tensor, asked: Tensor, step: Tensor, sketch: Tensor,
    widths: Tensor, first_uniform: Tensor, second_uniform: Tensor, actions: int, size: int,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Draw Lh, look that far back, draw Lp, and give the logits of the character.

    Args:
      actor: the networks.
      token, asked: the last X + 1 characters and the question behind each, [X + 1, N] int32.
      table: what the actor makes of every question, [Q, .].
      step: [N] int32.
      sketch: [N, .].
      widths: H, [C] int32.
      first_uniform, second_uniform: [N] in [0, 1).
      actions: V, padded.
      size: V; a character past it is seen as unknown.

    Returns: indices into H and P, [N] int32, and logits [N, V] bfloat16.
    """
    last = token.shape[0] - 1
    token, asked = torch.where(token < size, token, UNK).T.contiguous(), asked.T.contiguous()
    with torch.autocast(token.device.type, HALF):
        near, fixed = _inputs(actor, token, table, asked, step[:, None], sketch[:, None])
        context = torch.cat([near[:, last:], fixed], -1)
        log_h = torch.log_softmax(actor.history_head(context[:, 0]).float(), -1)
        lh = _drawn(log_h, first_uniform)
        window = torch.minimum(widths[lh], step + 1)[:, None].expand(-1, last + 1).contiguous()
        attended = actor.encoder.forward_choices(near, [window], (max(actor.windows),), last)[0]
        state = actor.state(attended, fixed)
        log_p = torch.log_softmax(_caps(actor, state, context).float(), -1)[:, 0]
        logits = _characters(actor.char_head, state, actions)[:, 0]
    return lh.int(), _drawn(log_p, second_uniform).int(), logits


def critic_trunk(
    critics: Critics, token: Tensor, questions: Tensor, asked: Tensor, step: Tensor,
    sketch: Tensor, future: Tensor, covered: Tensor, offer: Tensor, history_cost: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """What both critics make of M states.

    Args:
      critics: the networks.
      token, asked, step, sketch: as in `policy`, [M] and [M, .].
      questions: every encoded question.
      future: target and what follows it, [M, 1 + F] int32.
      covered: steps inside the segment credited last, [M] float32.
      offer: what the index offers, [M, P] float32.
      history_cost: [C] float32.

    Returns: features for characters [2, M, hidden] bfloat16; Q_0 without its advantage [2, M];
      Q_h [2, M, C]; Q_p [2, M, P], float32.
    """
    with torch.autocast(token.device.type, HALF):
        question = critics.question(questions).float()[asked].to(HALF)
        ahead = critics.char(future).to(HALF).flatten(-2)
        near = critics.char(token).to(HALF)
        place = critics.step(step.clamp(max=critics.max_steps - 1)).to(HALF)
        inside = torch.stack([(covered > 0).float(), covered / 8.0], -1).to(HALF)
        x = torch.cat([near, place, question, ahead, sketch.to(HALF), inside], -1)
        # rows of 16 bytes, and one product for both twins and both trunks
        odd = -x.shape[-1] % 8
        maps = (critics.first, critics.parts)
        weight = torch.cat([half for each in maps for half in each.weight], 1).to(HALF)
        bias = torch.cat([half for each in maps for half in each.bias], 1).to(HALF)
        y = functional.pad(x, (0, odd)) @ functional.pad(weight, (0, 0, 0, odd)) + bias
        y = functional.gelu(y)
        hidden, narrow = critics.first.weight.shape[-1], critics.parts.weight.shape[-1]
        char = torch.stack(y[:, : 2 * hidden].split(hidden, 1))
        parts = torch.stack(y[:, 2 * hidden :].split(narrow, 1))
        char = functional.gelu(critics.second(char))
        parts = functional.gelu(critics.parts_second(parts))
    with torch.autocast(token.device.type, enabled=False):
        # one output: a sum over the row beats a product
        base = (char.float() * critics.value.weight.transpose(1, 2)).sum(-1)
        base = base + critics.value.bias[..., 0]
        learned = _stretched(parts.float(), (critics.history_part, critics.cap_part))
        q_h, q_p = learned.split((len(history_cost), offer.shape[-1]), -1)
        q_h, q_p = q_h - history_cost, q_p + offer
    return char.to(HALF), base, q_h, q_p


def _stretched(x: Tensor, maps: Sequence[TwinLinear]) -> Tensor:
    """Several small maps of [2, M, in] in one product, M cut into stretches.

    The gradient of so small a weight is one long sum over M; stretches are summed side by side.
    """
    weight = torch.cat([each.weight for each in maps], -1).unsqueeze(1)
    bias = torch.cat([each.bias for each in maps], -1)
    count = math.gcd(x.shape[1], STRETCHES)
    y = x.unflatten(1, (count, -1)) @ weight.expand(-1, count, -1, -1)
    return y.flatten(1, 2) + bias


def taken_value(critics: Critics, char: Tensor, base: Tensor, taken: Tensor) -> Tensor:
    """Q_0 of the taken character alone, [2, M, hidden], [2, M] and [M] -> [2, M] float32."""
    return base + (char.float() * critics.action[:, taken]).sum(-1)


def twin_advantages(critics: Critics, char: Tensor, actions: int) -> Tensor:
    """Q_0 less its base for every character, [2, M, hidden] -> [2, M, V] bfloat16."""
    table = functional.pad(critics.action.to(HALF), (0, 0, 0, actions - critics.action.shape[1]))
    return torch.bmm(char, table.transpose(1, 2))


def _inputs(
    actor: Actor, token: Tensor, table: Tensor, asked: Tensor, step: Tensor, sketch: Tensor
) -> tuple[Tensor, Tensor]:
    """Tokens [N, X + S1, dim] and what no window changes [N, S1, .], as `Actor.embed` does."""
    # float32 until it is gathered, since gradients are added up in the table's type
    question = table[asked].to(HALF)
    near = actor.char(token).to(HALF) + question
    place = actor.step(step.clamp(max=actor.max_steps - 1)).to(HALF)
    fixed = torch.cat([question[:, -step.shape[1] :], place, sketch.to(HALF)], -1)
    return near, fixed


def _caps(actor: Actor, state: Tensor, context: Tensor) -> Tensor:
    """`Actor.cap_logits`, the part that all windows share taken once."""
    head = actor.cap_head
    first = cast("nn.Linear", head[0])
    by_state = first.weight[:, : state.shape[-1]]
    by_context = first.weight[:, state.shape[-1] :]
    y = functional.linear(state, by_state) + functional.linear(context, by_context, first.bias)
    return head[1:](y)


def _characters(head: nn.Linear, state: Tensor, actions: int) -> Tensor:
    """Logits over V, padded so that rows are whole in memory."""
    more = actions - head.weight.shape[0]
    weight = functional.pad(head.weight, (0, 0, 0, more))
    return functional.linear(state, weight, functional.pad(head.bias, (0, more)))


def _drawn(log_pi: Tensor, uniform: Tensor) -> Tensor:
    """One choice a row by the inverse of the distribution function, [N] int64."""
    upto = log_pi.exp().cumsum(-1)
    return (upto <= uniform[:, None] * upto[:, -1:]).sum(-1).clamp(max=log_pi.shape[-1] - 1)
