"""Masked discrete SAC with one head, for any networks that give logits and Q over legal actions.

The same formulas as the three-headed `Learner`, from the same places: `losses` (targets, critic
loss, temperature, entropy target kappa log|A(s)|), `legal` (only legal actions are paid for),
`soft` (V and its gradient) and `twins.follow` (the target network). Yardsticks that nobody here
wrote, such as CartPole, run on it.
Shapes: N transitions, S numbers a state, A actions, J legal pairs of the N states.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from flexattn.agents import losses
from flexattn.agents.legal import LegalSets
from flexattn.agents.masked import sample
from flexattn.agents.row_adam import RowAdam
from flexattn.agents.soft import soft_values
from flexattn.agents.twins import follow


class Network(Protocol):
    """A `torch.nn.Module`, as far as an optimiser sees it."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """Everything that is learned."""


class Actor(Network, Protocol):
    """What gives the logits of a policy."""

    def logits(self, state: Tensor, legal: LegalSets | None) -> Tensor:
        """Logits of the legal pairs, [N, S] -> [J]; [N, A] where `legal` is None."""


class Critics(Network, Protocol):
    """What gives twin values; `features` is shared by both ways of asking."""

    @property
    def tables(self) -> list[nn.Parameter]:
        """Parameters with sparse gradients: a step moves, and Adam ages, the rows taken alone."""

    def features(self, state: Tensor) -> Tensor:
        """Whatever the two methods below take, one row a state and twin."""

    def values(self, h: Tensor, legal: LegalSets | None) -> Tensor:
        """Q(s, .) of the legal pairs, [2, J]; [2, N, A] where `legal` is None; reward units."""

    def value(self, h: Tensor, taken: Tensor) -> Tensor:
        """Q(s, a) of the taken action alone, [2, N], reward units."""


@dataclass(frozen=True)
class Transitions:
    """A batch of steps.

    Attributes:
      state: [N, S] float.
      legal: A(s); None: every action is legal.
      taken: action taken, [N] int64.
      reward: [N] float, reward units.
      terminated: the step ended the episode for good, [N] bool.
      after: the next state, [N, S] float.
      legal_after: A(s') of the next state; None: every action is legal.
    """

    state: Tensor
    legal: LegalSets | None
    taken: Tensor
    reward: Tensor
    terminated: Tensor
    after: Tensor
    legal_after: LegalSets | None


@dataclass(frozen=True)
class Settings:
    """Rates of `DiscreteSac`.

    Attributes:
      gamma: discount a step, 0..1.
      target_ema: share of the online critics that enters the target a step, 0..1.
      actor_lr, critic_lr: Adam's rates.
      alpha_lr: rate of log alpha; 0 holds alpha fixed.
      alpha_first: first temperature, reward units per nat.
      alpha_adam: log alpha moves by Adam's step instead of by rate x (target - entropy).
      kappa: entropy target kappa log|A(s)|.
      huber: error beyond which the critics' loss is linear, reward units; inf: squared throughout.
    """

    gamma: float = 0.99
    target_ema: float = 0.005
    actor_lr: float = 3e-4
    critic_lr: float = 1e-3
    alpha_lr: float = 3e-4
    alpha_first: float = 1.0
    alpha_adam: bool = False
    kappa: float = 0.5
    huber: float = math.inf


@dataclass(frozen=True)
class Update:
    """What one update did; tensors without gradient.

    Attributes:
      critic_loss: J_Q, scalar.
      actor_loss: J_pi, scalar.
      entropy: mean H(pi(.|s)), nats, scalar.
      alpha: temperature after the update, scalar.
    """

    critic_loss: Tensor
    actor_loss: Tensor
    entropy: Tensor
    alpha: Tensor


class DiscreteSac:
    """Actor, twin critics, their target, one temperature, their optimisers."""

    def __init__(self, actor: Actor, critics: Critics, settings: Settings) -> None:
        """Take the networks; the target begins as a copy of the critics."""
        self.actor, self.critics, self.settings = actor, critics, settings
        self.target = copy.deepcopy(critics)
        for parameter in self.target.parameters():
            parameter.requires_grad_(False)
        self.log_alpha = torch.tensor(settings.alpha_first).log()
        tables = {id(table) for table in critics.tables}
        dense = [parameter for parameter in critics.parameters() if id(parameter) not in tables]
        self.optimiser = torch.optim.Adam(
            [
                {"params": list(actor.parameters()), "lr": settings.actor_lr},
                {"params": dense, "lr": settings.critic_lr},
            ],
            fused=True,
        )
        self.table_optimiser = RowAdam(critics.tables, settings.critic_lr)
        self.alpha_optimiser = torch.optim.Adam([self.log_alpha], settings.alpha_lr, fused=True)

    def update(self, batch: Transitions) -> Update:
        """One step on critics, actor and temperature; the target follows."""
        settings, alpha = self.settings, self.log_alpha.exp()
        with torch.no_grad():
            after = self.target.values(self.target.features(batch.after), batch.legal_after)
            logits = self.actor.logits(batch.after, batch.legal_after)
            v, _ = soft_values(logits, after, alpha, batch.legal_after)
            y = losses.td_target(batch.reward, batch.terminated, v, settings.gamma)
        # J_Q and J_pi are both taken where the critics stand, so their features are needed once
        h = self.critics.features(batch.state)
        everywhere = torch.ones_like(batch.terminated)
        taken = self.critics.value(h, batch.taken)
        j_q = losses.critic_loss(taken, y, everywhere, settings.huber)
        with torch.no_grad():
            q = self.critics.values(h, batch.legal)
        v, nats = soft_values(self.actor.logits(batch.state, batch.legal), q, alpha, batch.legal)
        j_pi = -v.mean()
        self.optimiser.zero_grad(set_to_none=True)
        self.table_optimiser.zero_grad()
        (j_q + j_pi).backward()
        self.optimiser.step()
        self.table_optimiser.step()
        if settings.alpha_lr:
            self._move_temperature(batch, nats, everywhere, logits.shape[-1])
        follow(self.target.parameters(), self.critics.parameters(), settings.target_ema)
        return Update(j_q.detach(), j_pi.detach(), nats.mean(), self.log_alpha.exp())

    def _move_temperature(
        self, batch: Transitions, nats: Tensor, everywhere: Tensor, actions: int
    ) -> None:
        counts = nats.new_tensor(actions) if batch.legal is None else batch.legal.counts
        target = losses.entropy_target(counts, self.settings.kappa)
        if self.settings.alpha_adam:
            self.log_alpha.grad = losses.mean_over(nats - target, everywhere)
            self.alpha_optimiser.step()
        else:
            self.log_alpha = losses.temperature_step(
                self.log_alpha, nats, target, everywhere, self.settings.alpha_lr
            )

    @torch.no_grad()
    def act(
        self, state: Tensor, legal: Tensor | None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Legal actions, [N]: sampled from pi with a generator, else the likeliest.

        Args:
          state: [N, S].
          legal: A(s), [N, A] bool; None: every action is legal.
          generator: source of the draws.
        """
        logits = self.actor.logits(state, None)
        if legal is not None:
            logits = logits.masked_fill(~legal, -torch.inf)
        if generator is None:
            return logits.argmax(-1)
        return sample(logits, generator)
