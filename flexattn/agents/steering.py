"""Stage B: SAC over Lh and Lp alone; stage A's counts write the characters.

    Q(s, Lh, Lp) = Q_h(s, Lh) + Q_p(s, Lp)
    y_h(Lh) = own(Lh) - cost(Lh) + gamma V_h(s')
    y_p(Lp) = eta2 ler(Lp) - cost(Lp) + gamma V_p(s')

own(Lh) is the reward of the counts' character under Lh minus that of the best Lh, so 0 or less.
Both immediate terms are known for every choice, so every step teaches all of H and P. The actor
sees what the counts see (what they leave open, which term they expect), never the future; the
critics begin at what the index offers and what attention costs, and learn the rest.
Shapes: M states; a state's next one is a state of the same answer.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from flexattn.agents import losses
from flexattn.agents.counting import OPENNESS, CountingModel, Writing
from flexattn.agents.decision import Choose, Decision, nothing
from flexattn.agents.masked import entropy, sample
from flexattn.agents.twins import TwinLinear, follow
from flexattn.config import AgentSection
from flexattn.env.settings import Settings
from flexattn.env.spec import Observation
from flexattn.errors import MaskError

CHAR_DIM = 16
NEAR = 2  # characters that the head of Lh sees besides


@dataclass(frozen=True)
class States:
    """What actor and critics take of M states.

    Attributes:
      near: characters written last, [M, NEAR] int64.
      open: what the smallest Lh leaves open, [M, OPENNESS] one of them 1.
      expected: weights and lengths / L_max of the terms that the counts expect under each cap, and
        whether an earlier term covers them, [M, 2 |P| + 1].
      history: the Lh that `expected` was seen under, index into H, [M] int64.
      offer: what the teacher's own character would earn under each cap, reward units, [M, |P|];
        critics alone.
      own: reward of the counts' character under each Lh, minus the best of them, [M, |H|]; critics
        alone.
    """

    near: Tensor
    open: Tensor
    expected: Tensor
    history: Tensor
    offer: Tensor
    own: Tensor


@dataclass(frozen=True)
class SteeringBatch:
    """Steps to learn from.

    Attributes:
      here: the states.
      after: the states behind them.
      gain: eta2 times the credited gain under each cap, [M, |P|].
      terminated: the step ended the answer, [M] bool.
    """

    here: States
    after: States
    gain: Tensor
    terminated: Tensor


class SteeringActor(nn.Module):
    """pi_h(.|s) and pi_p(.|s, Lh) from what stage A's counts see."""

    def __init__(self, characters: int, settings: Settings, agent: AgentSection) -> None:
        """Build from the vocabulary's size, the choices, and the agent's width."""
        super().__init__()
        self.choices = len(settings.history_chars)
        caps, hidden = len(settings.hit_cap_chars), agent.hidden // 2
        self.char = nn.Embedding(characters, CHAR_DIM)
        seen = NEAR * CHAR_DIM + OPENNESS
        self.history_head = nn.Sequential(
            nn.Linear(seen, hidden), nn.GELU(), nn.Linear(hidden, self.choices)
        )
        self.cap_head = nn.Sequential(
            nn.Linear(seen + 2 * caps + 1 + self.choices, hidden),
            nn.GELU(),
            nn.Linear(hidden, hidden),
            nn.GELU(),
            nn.Linear(hidden, caps),
        )

    def log_history(self, near: Tensor, opened: Tensor) -> Tensor:
        """Log pi_h(.|s), [M, |H|]."""
        seen = torch.cat([self.char(near).flatten(-2), opened], -1)
        return torch.log_softmax(self.history_head(seen), -1)

    def log_cap(self, near: Tensor, opened: Tensor, expected: Tensor, history: Tensor) -> Tensor:
        """Log pi_p(.|s, Lh), [M, |P|]."""
        chosen = functional.one_hot(history, self.choices).to(expected.dtype)
        seen = torch.cat([self.char(near).flatten(-2), opened, expected, chosen], -1)
        return torch.log_softmax(self.cap_head(seen), -1)


class SteeringCritics(nn.Module):
    """Twin Q_h(s, .) and Q_p(s, .); first axis: which twin."""

    history_cost: Tensor
    cap_cost: Tensor

    def __init__(
        self, settings: Settings, agent: AgentSection, costs: tuple[Tensor, Tensor]
    ) -> None:
        """Build from the choices, the width, and cost(Lh) [|H|] and cost(Lp) [|P|]."""
        super().__init__()
        h, p, hidden = len(settings.history_chars), len(settings.hit_cap_chars), agent.hidden // 2
        self.first = TwinLinear(OPENNESS + 2 * p + 1 + p + h, hidden)
        self.second = TwinLinear(hidden, hidden)
        self.history_part = TwinLinear(hidden, h, zero=True)
        self.cap_part = TwinLinear(hidden, p, zero=True)
        self.register_buffer("history_cost", costs[0])
        self.register_buffer("cap_cost", costs[1])

    def forward(self, s: States) -> tuple[Tensor, Tensor]:
        """Q_h [2, M, |H|] and Q_p [2, M, |P|], reward units."""
        x = torch.cat([s.open, s.expected, 10.0 * s.offer, s.own], -1)
        x = functional.gelu(self.first(x.expand(2, *x.shape)))
        x = functional.gelu(self.second(x))
        q_h = self.history_part(x) + s.own - self.history_cost
        return q_h, self.cap_part(x) + s.offer - self.cap_cost


class SteeringLearner:
    """Actor, critics and their targets, temperatures, optimisers."""

    def __init__(
        self, characters: int, settings: Settings, agent: AgentSection,
        costs: tuple[np.ndarray, np.ndarray], device: torch.device,
    ) -> None:  # fmt: skip
        """Build the networks; torch's global seed must be set by the caller just before."""
        made = tuple(torch.tensor(cost, dtype=torch.float32) for cost in costs)
        self.agent, self.device = agent, device
        self.actor = SteeringActor(characters, settings, agent).to(device)
        self.critics = SteeringCritics(settings, agent, (made[0], made[1])).to(device)
        self.target = copy.deepcopy(self.critics).requires_grad_(False)
        self.log_alpha = torch.full((2,), agent.alpha_first, device=device).log()
        self.actor_optimiser = torch.optim.Adam(self.actor.parameters(), agent.window_lr)
        self.critic_optimiser = torch.optim.Adam(self.critics.parameters(), agent.critic_lr)

    def update(
        self, batch: SteeringBatch, kappa: dict[str, float], *, act: bool
    ) -> dict[str, float]:
        """One step on the critics and, where `act`, on actor and temperatures."""
        stats = self._update_critics(batch)
        if act:
            stats |= self._update_actor(batch.here, kappa)
        follow(self.target.parameters(), self.critics.parameters(), self.agent.target_ema)
        return stats

    def _policies(self, s: States) -> tuple[Tensor, Tensor]:
        log_h = self.actor.log_history(s.near, s.open)
        return log_h, self.actor.log_cap(s.near, s.open, s.expected, s.history)

    def _update_critics(self, batch: SteeringBatch) -> dict[str, float]:
        alpha, gamma, end = self.log_alpha.exp(), self.agent.gamma, batch.terminated[:, None]
        with torch.no_grad():
            log_h, log_p = self._policies(batch.after)
            q_h, q_p = (q.amin(0) for q in self.target(batch.after))
            v_h = losses.soft_value(log_h, q_h, alpha[0])[:, None]
            v_p = losses.soft_value(log_p, q_p, alpha[1])[:, None]
            own = batch.here.own - self.critics.history_cost
            y_h = losses.td_target(own, end, v_h, gamma)
            y_p = losses.td_target(batch.gain - self.critics.cap_cost, end, v_p, gamma)
        q_h, q_p = self.critics(batch.here)
        loss = losses.critic_loss(q_h, y_h, torch.ones_like(y_h, dtype=torch.bool))
        loss = loss + losses.critic_loss(q_p, y_p, torch.ones_like(y_p, dtype=torch.bool))
        self._step(self.critic_optimiser, self.critics, loss)
        return {"critic_loss": loss.item(), "q_mean": (q_h.mean() + q_p.mean()).item()}

    def _update_actor(self, s: States, kappa: dict[str, float]) -> dict[str, float]:
        alpha = self.log_alpha.exp()
        log_h, log_p = self._policies(s)
        with torch.no_grad():
            q_h, q_p = (q.amin(0) for q in self.critics(s))
        value = losses.soft_value(log_h, q_h, alpha[0]) + losses.soft_value(log_p, q_p, alpha[1])
        loss = -value.mean()
        self._step(self.actor_optimiser, self.actor, loss)
        stats = {"actor_loss": loss.item()}
        with torch.no_grad():
            everywhere = torch.ones(len(s.near), dtype=torch.bool, device=self.device)
            for i, (head, log_pi) in enumerate((("history", log_h), ("cap", log_p))):
                size = torch.tensor(log_pi.shape[-1], device=self.device)
                found = entropy(log_pi)
                self.log_alpha[i] = losses.temperature_step(
                    self.log_alpha[i], found, losses.entropy_target(size, kappa[head]), everywhere,
                    self.agent.alpha_lr,
                ).clamp(min=-16.0, max=3.0)  # fmt: skip
                stats[f"entropy_{head}"] = found.mean().item()
        return stats

    def _step(self, optimiser: torch.optim.Optimizer, network: nn.Module, loss: Tensor) -> None:
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), self.agent.grad_clip)
        optimiser.step()


@dataclass
class Seen:
    """What a steered step saw, n states; arrays of `States` without the critics' part."""

    near: np.ndarray
    open: np.ndarray
    expected: np.ndarray
    history: np.ndarray


class Steered:
    """Stage B as a policy: the actor's Lh and Lp, the counts' characters.

    With a `generator` Lh and Lp are sampled, as training needs it; without one they are the
    likeliest. `choose` picks the character from pi(.|s), the likeliest where it is None.

    Attributes:
      seen: what the last step saw.
      by_window: character that the counts would write under each Lh, [n, |H|] int32; where the
        generator is None, only the taken Lh is asked and this has no columns.
    """

    def __init__(
        self,
        model: CountingModel,
        actor: SteeringActor,
        *,
        generator: torch.Generator | None = None,
        choose: Choose | None = None,
    ) -> None:
        """Wrap counts and an actor; neither is changed."""
        self.model, self.actor = model, actor
        self.generator, self.choose = generator, choose
        self.device = actor.char.weight.device
        self._topics = model.asked()

    @torch.no_grad()
    def __call__(self, seen: Observation, legal: np.ndarray, active: np.ndarray) -> Decision:
        """Decide for the active environments; the others get zeros."""
        envs, model = np.flatnonzero(active), self.model
        topics = self._topics(seen.question)
        opened = np.eye(OPENNESS, dtype=np.float32)[
            model.openness(envs, seen.history, topics, seen.step)
        ]
        near = seen.history[envs, -NEAR:].astype(np.int64)
        log_h = self.actor.log_history(self._tensor(near), self._tensor(opened))
        history = self._pick(log_h)

        def write(window: np.ndarray, dense: bool) -> Writing:
            return model.write(envs, seen.history, topics, seen.step, window, legal, dense)

        made = write(model.windows[history], self.choose is not None)
        self.by_window = np.zeros((len(envs), 0), np.int32)
        if self.generator is not None:
            everywhere = [write(np.full(len(envs), w), False).char for w in model.windows]
            self.by_window = np.stack(everywhere, 1)
        expected = model.expected(made.size, made.worth, made.inside)
        self.seen = Seen(near, opened, expected, history)
        log_p = self.actor.log_cap(
            self._tensor(near), self._tensor(opened), self._tensor(expected), self._tensor(history)
        )
        decision = nothing(len(active))
        decision.history[envs] = history
        decision.cap[envs] = self._pick(log_p)
        decision.char[envs], decision.probability[envs] = made.char, made.probability
        if self.choose is not None:
            picked, kept = self.choose(made.pi / made.pi.sum(-1, keepdims=True))
            decision.char[envs], decision.kept[envs] = picked, kept
            decision.probability[envs] = made.pi[np.arange(len(envs)), picked]
        if not (decision.probability[envs] > 0.0).all():
            raise MaskError("the counts chose a character outside A(s)")
        return decision

    def take(self, rows: np.ndarray) -> None:
        """Answer `rows[i]` now stands in place i: nothing of an answer is remembered here."""

    def _tensor(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(values).to(self.device)

    def _pick(self, log_pi: Tensor) -> np.ndarray:
        found = log_pi.argmax(-1) if self.generator is None else sample(log_pi, self.generator)
        picked: np.ndarray = found.cpu().numpy()
        return picked
