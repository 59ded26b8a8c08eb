"""The actor sees what the student wrote; the critics see the teacher's future as well.

Actor, autoregressive: Lh ~ pi_h(.|s), x = build_obs(h, Lh), Lp ~ pi_p(.|s, Lh), a ~ pi_char(.|x).
Critics, twin: Q(s, Lh, Lp, a) = Q_0(s, a) + Q_h(s, Lh) + Q_p(s, Lp).

`Sequence` is what an actor's signature accepts; `Foresight` is a type of its own that only
`Critics` takes, so the future can't reach an actor by accident.
Shapes: B answers, T steps, C windows, S sketch, Q question characters, F future characters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from flexattn.agents.legal import LegalSets, legal_linear, legal_log_softmax
from flexattn.agents.prior import CountPrior
from flexattn.agents.twins import TwinLinear
from flexattn.attention.encoder import Encoder, EncoderConfig
from flexattn.config import AgentSection, AttentionSection, EnvSection
from flexattn.env.world import World


@dataclass(frozen=True)
class Sequence:
    """What the actor may see at every step of a batch of answers.

    Attributes:
      token: character written before step t, PAD at the start, [B, T] int64.
      sketch: decayed sketch of everything written, [B, T, S] float.
      question: encoded question, [B, Q] int64, PAD right.
      step: index of the step within the answer, [B, T] int64, from 0.
    """

    token: Tensor
    sketch: Tensor
    question: Tensor
    step: Tensor


@dataclass(frozen=True)
class Foresight:
    """What only critics and rewards may see.

    Attributes:
      future: target character and what follows it, [B, T, 1 + F] int64.
      covered: steps that stay inside the segment credited last, [B, T] float.
      offer: gain that the teacher's own character would earn under each cap after a perfect
        history, minus the cap's cost, [B, T, |P|], reward units.
    """

    future: Tensor
    covered: Tensor
    offer: Tensor


@dataclass(frozen=True)
class Sizes:
    """Table sizes that come from the domain rather than from the configuration."""

    characters: int
    known_characters: int
    max_steps: int

    @classmethod
    def of(cls, world: World) -> Sizes:
        """Sizes that a world asks for; a step more than the longest answer with its end."""
        longest = world.longest_answer + world.settings.slack
        return cls(world.size, world.vocabulary.alphabet, longest + 2)


class Actor(nn.Module):
    """Three autoregressive heads over one local-window encoder."""

    def __init__(
        self, sizes: Sizes, env: EnvSection, agent: AgentSection, attention: AttentionSection
    ) -> None:
        """Build from the domain's sizes and three sections of the configuration."""
        super().__init__()
        dim, hidden = agent.char_dim, agent.hidden
        self.windows = tuple(env.history_chars)
        self.max_steps = sizes.max_steps
        self.char = nn.Embedding(sizes.characters, dim)
        self.step = nn.Embedding(sizes.max_steps, dim)
        self.question = QuestionEncoder(sizes.known_characters, env.question_chars, dim)
        self.encoder = Encoder(
            EncoderConfig(
                dim=dim,
                heads=attention.heads,
                kv_heads=attention.kv_heads,
                position=attention.position,
                gate=attention.gate,
                impl=attention.impl,
            )
        )
        self.context = nn.Linear(2 * dim + env.sketch_dim, hidden)
        self.attended = nn.Linear(dim, hidden, bias=False)
        self.body = nn.Sequential(
            nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.LayerNorm(hidden)
        )
        self.history_head = nn.Sequential(
            nn.Linear(3 * dim + env.sketch_dim, hidden // 2),
            nn.GELU(),
            nn.Linear(hidden // 2, len(env.history_chars)),
        )
        # where a term starts is a matter of question and place, so the cap sees both directly
        self.on_counts = agent.prior == "counts"
        foreseen = 2 * len(env.hit_cap_chars) + 1 if self.on_counts else 0
        self.cap_head = nn.Sequential(
            nn.Linear(hidden + 3 * dim + env.sketch_dim + foreseen, hidden),
            nn.GELU(),
            nn.Linear(hidden, hidden),
            nn.GELU(),
            nn.Linear(hidden, len(env.hit_cap_chars)),
        )
        self.char_head = nn.Linear(hidden, sizes.characters)
        self.prior: CountPrior | None = None  # counted, so not among the weights
        nn.init.normal_(self.char.weight, std=dim**-0.5)
        nn.init.normal_(self.step.weight, std=dim**-0.5)

    def embed(self, seen: Sequence) -> tuple[Tensor, Tensor]:
        """Tokens [B, T, dim] and the part of a state that no window changes, [B, T, 2 dim + S]."""
        question = self.question(seen.question).unsqueeze(1)  # [B, 1, dim]
        token = self.char(seen.token)  # [B, T, dim]
        step = self.step(seen.step.clamp(max=self.max_steps - 1))  # [B, T, dim]
        fixed = torch.cat([question.expand_as(step), step, seen.sketch], -1)
        return token + question, fixed

    def window_parameters(self) -> list[nn.Parameter]:
        """Parameters of the heads of Lh and Lp alone."""
        return [*self.history_head.parameters(), *self.cap_head.parameters()]

    def history_logits(self, token: Tensor, fixed: Tensor) -> Tensor:
        """Logits of pi_h(.|s), [B, T, |H|]."""
        return self.history_head(torch.cat([token, fixed], -1))

    def state(self, attended: Tensor, fixed: Tensor) -> Tensor:
        """X = build_obs(h, Lh) after the body, [..., B, T, hidden]."""
        return self.body(self.context(fixed) + self.attended(attended))

    def cap_logits(
        self, state: Tensor, token: Tensor, fixed: Tensor, expected: Tensor | None = None
    ) -> Tensor:
        """Logits of pi_p(.|s, Lh), [..., hidden] with [N, dim] and [N, .] -> [..., |P|].

        Args:
          state: x under one window or several.
          token: of the last character.
          fixed: what no window changes.
          expected: terms that the counts expect, [..., 2 |P| + 1]; None: no counts.
        """
        if (expected is not None) != self.on_counts:
            raise ValueError(
                f"cap_logits: expected is {'missing' if self.on_counts else 'given'}, but the "
                f"actor's agent.prior is {'counts' if self.on_counts else 'none'}; give actor and "
                f"batches one CountPrior.of(config, world)"
            )
        context = torch.cat([token, fixed], -1)
        parts = [state, context.expand(*state.shape[:-1], -1)]
        return self.cap_head(torch.cat(parts if expected is None else [*parts, expected], -1))

    def char_log_pi(self, state: Tensor, legal: LegalSets, prior: Tensor | None = None) -> Tensor:
        """log pi_char(a|x) of every legal pair, [G, N, hidden] -> [G, J].

        Args:
          state: x under G windows.
          legal: the pairs.
          prior: log p_counts of each, [J] or [G, J].
        """
        head = self.char_head
        logits = legal_linear(state, head.weight.unsqueeze(0), legal) + head.bias[legal.ids]
        return legal_log_softmax(logits if prior is None else logits + prior, legal)


class Features(NamedTuple):
    """What the critics make of a state.

    Attributes:
      char: for the character, [2, M, hidden].
      parts: for the windows, [2, M, .].
      offer: what the index offers under each cap, [M, |P|].
    """

    char: Tensor
    parts: Tensor
    offer: Tensor

    def at(self, states: Tensor) -> Features:
        """The features of some of the states, by index."""
        return Features(self.char[:, states], self.parts[:, states], self.offer[states])


class Critics(nn.Module):
    """Twin decomposable critics with the privileged channel; first axis: which twin."""

    def __init__(self, sizes: Sizes, env: EnvSection, agent: AgentSection) -> None:
        """Build from the domain's sizes and two sections of the configuration."""
        super().__init__()
        dim, hidden = agent.char_dim // 2, agent.hidden
        self.max_steps = sizes.max_steps
        self.char = nn.Embedding(sizes.characters, dim)
        self.step = nn.Embedding(sizes.max_steps, dim)
        self.question = QuestionEncoder(sizes.known_characters, env.question_chars, dim)
        width = (3 + 1 + env.future_chars) * dim + env.sketch_dim + 2
        self.first = TwinLinear(width, hidden)
        self.second = TwinLinear(hidden, hidden)
        self.value = TwinLinear(hidden, 1)
        self.action = nn.Parameter(torch.randn(2, sizes.characters, hidden) * 0.1 * hidden**-0.5)
        # gains and costs are a hundredth of what characters earn: a trunk of their own, which
        # learns what the index and the cost do not say, and so begins at nothing
        self.parts = TwinLinear(width, hidden // 2)
        self.parts_second = TwinLinear(hidden // 2, hidden // 2)
        self.history_part = TwinLinear(hidden // 2, len(env.history_chars), zero=True)
        self.cap_part = TwinLinear(hidden // 2, len(env.hit_cap_chars), zero=True)

    def features(self, seen: Sequence, foresight: Foresight, rows: Tensor) -> Features:
        """Features of (s, future) for both twins.

        Args:
          seen: what the actor sees, [B, T].
          foresight: what only critics see, [B, T].
          rows: states that are wanted, [B, T] bool, M of them.
        """
        token = self.char(seen.token[rows])
        step = self.step(seen.step[rows].clamp(max=self.max_steps - 1))
        question = self.question(seen.question)[rows.nonzero()[:, 0]]
        future = self.char(foresight.future[rows]).flatten(-2)
        covered = foresight.covered[rows].to(token.dtype).unsqueeze(-1)
        inside = (covered > 0).to(token.dtype)
        x = torch.cat([token, step, question, future, seen.sketch[rows], inside, covered / 8.0], -1)
        char = functional.gelu(self.second(functional.gelu(self.first(_twice(x)))))
        parts = functional.gelu(self.parts_second(functional.gelu(self.parts(_twice(x)))))
        return Features(char, parts, foresight.offer[rows])

    def window_values(self, h: Features, history_cost: Tensor) -> tuple[Tensor, Tensor]:
        """Q_h(s, .) and Q_p(s, .), [2, M, |H|] and [2, M, |P|], reward units.

        What the index offers and what attention costs, [|H|], is known; the rest is learned.
        """
        return self.history_part(h.parts) - history_cost, self.cap_part(h.parts) + h.offer

    def char_values(self, h: Tensor, legal: LegalSets) -> Tensor:
        """Q_0(s, a) of every legal pair, [2, M, hidden] -> [2, J], reward units."""
        return self.value(h).squeeze(-1)[:, legal.row] + legal_linear(h, self.action, legal)

    def char_value(self, h: Tensor, taken: Tensor) -> Tensor:
        """Q_0(s, a) of the taken character alone, [2, N]; pays for one row of the table."""
        return self.value(h).squeeze(-1) + (h * self.action[:, taken]).sum(-1)


class QuestionEncoder(nn.Module):
    """A question's characters, each at its place, to one vector."""

    def __init__(self, known_characters: int, places: int, dim: int, char_dim: int = 32) -> None:
        """Take the alphabet's size, the places of an encoded question, and the widths."""
        super().__init__()
        self.char = nn.Embedding(known_characters, char_dim, padding_idx=0)
        self.mix = nn.Sequential(
            nn.Linear(places * char_dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim)
        )

    def forward(self, question: Tensor) -> Tensor:
        """[B, Q] int64 -> [B, dim]."""
        return self.mix(self.char(question).flatten(-2))


def _twice(x: Tensor) -> Tensor:
    return x.expand(2, *x.shape)
