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
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numba
import torch
from torch import Tensor, nn

from flexattn.agents import losses
from flexattn.agents.legal import LegalSets
from flexattn.agents.masked import sample
from flexattn.agents.row_adam import RowAdam
from flexattn.agents.soft import soft_values
from flexattn.agents.twins import follow

One = TypeVar("One")
Two = TypeVar("Two")


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

    def __init__(
        self, actor: Actor, critics: Critics, settings: Settings, *, two_threads: bool = False
    ) -> None:
        """Take the networks; the target begins as a copy of the critics.

        Args:
          actor, critics: the networks.
          settings: rates.
          two_threads: the critics' half of an update and the actor's run at the same time, each in
            one thread, with the same results; torch and Numba must be set to one thread each.
        """
        self.actor, self.critics, self.settings = actor, critics, settings
        self.target = copy.deepcopy(critics)
        for parameter in self.target.parameters():
            parameter.requires_grad_(False)
        self.log_alpha = torch.tensor(settings.alpha_first).log()
        tables = {id(table) for table in critics.tables}
        dense = [parameter for parameter in critics.parameters() if id(parameter) not in tables]
        self.actor_optimiser = torch.optim.Adam(actor.parameters(), settings.actor_lr, fused=True)
        self.critic_optimiser = torch.optim.Adam(dense, settings.critic_lr, fused=True)
        self.table_optimiser = RowAdam(critics.tables, settings.critic_lr)
        self.alpha_optimiser = torch.optim.Adam([self.log_alpha], settings.alpha_lr, fused=True)
        self.beside: ThreadPoolExecutor | None = None
        if two_threads:
            self.beside = ThreadPoolExecutor(1, "actor", _use_one_thread)

    def update(self, batch: Transitions) -> Update:
        """One step on critics, actor and temperature; the target follows."""
        settings, alpha = self.settings, self.log_alpha.exp()
        # J_Q and J_pi are both taken where the networks stand, so what one half has evaluated
        # serves the other, and neither network moves before both have been read
        (q_after, h), (logits_after, logits) = self._both(
            lambda: self._evaluate_critics(batch), lambda: self._evaluate_actor(batch)
        )

        def learn_critics() -> Tensor:
            with torch.no_grad():
                v, _ = soft_values(logits_after, q_after, alpha, batch.legal_after)
                y = losses.td_target(batch.reward, batch.terminated, v, settings.gamma)
            taken = self.critics.value(h, batch.taken)
            j_q = losses.critic_loss(taken, y, torch.ones_like(batch.terminated), settings.huber)
            self.critic_optimiser.zero_grad(set_to_none=True)
            self.table_optimiser.zero_grad()
            j_q.backward()
            return j_q.detach()

        def learn_actor() -> tuple[Tensor, Tensor]:
            with torch.no_grad():
                q = self.critics.values(h, batch.legal)
            v, nats = soft_values(logits, q, alpha, batch.legal)
            j_pi = -v.mean()
            self.actor_optimiser.zero_grad(set_to_none=True)
            j_pi.backward()
            return j_pi.detach(), nats

        j_q, (j_pi, nats) = self._both(learn_critics, learn_actor)

        def move_critics() -> None:
            self.critic_optimiser.step()
            self.table_optimiser.step()
            follow(self.target.parameters(), self.critics.parameters(), settings.target_ema)

        def move_actor() -> None:
            self.actor_optimiser.step()
            if settings.alpha_lr:
                self._move_temperature(batch, nats, logits.shape[-1])

        self._both(move_critics, move_actor)
        return Update(j_q, j_pi, nats.mean(), self.log_alpha.exp())

    def _both(self, one: Callable[[], One], two: Callable[[], Two]) -> tuple[One, Two]:
        """What both give, at the same time where there are two threads."""
        if self.beside is None:
            return one(), two()
        other = self.beside.submit(two)
        try:
            found = one()
        finally:
            second = other.result()  # waited for after an error, too
        return found, second

    def _evaluate_critics(self, batch: Transitions) -> tuple[Tensor, Tensor]:
        """The target's values after the step, [2, J], and the critics' features before it."""
        with torch.no_grad():
            after = self.target.values(self.target.features(batch.after), batch.legal_after)
        return after, self.critics.features(batch.state)

    def _evaluate_actor(self, batch: Transitions) -> tuple[Tensor, Tensor]:
        """Logits after the step, without gradient, and before it."""
        with torch.no_grad():
            after = self.actor.logits(batch.after, batch.legal_after)
        return after, self.actor.logits(batch.state, batch.legal)

    def _move_temperature(self, batch: Transitions, nats: Tensor, actions: int) -> None:
        everywhere = torch.ones_like(batch.terminated)
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


def _use_one_thread() -> None:
    """A thread's own operations stay in it; torch and Numba each keep a count a thread."""
    torch.set_num_threads(1)
    numba.set_num_threads(1)
