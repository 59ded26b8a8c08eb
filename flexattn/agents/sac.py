"""Masked discrete SAC over whole answers: exact expectations over Lh, Lp and the legal characters.

All positions of a batch of answers are encoded in one pass; one row is one state. With K and V
shared, the |H| windows cost |H| cheap attentions. Q is learned in its parts: the index gives the
lexical gain under every cap at once, so Q_p learns from all of P at every step, not from the one
that was taken (`critic_target: sum` learns from the taken one alone).

Shapes: M states of the batch (each answer's last one included), N steps taken, C = |H|.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from flexattn.agents import losses
from flexattn.agents.legal import LegalSets
from flexattn.agents.masked import entropy, masked_log_softmax
from flexattn.agents.networks import Actor, Critics, Features, Foresight, Sequence, Sizes
from flexattn.agents.twins import follow
from flexattn.config import Config

HEADS = ("history", "cap", "char")


@dataclass(frozen=True)
class CloneBatch:
    """Teacher answers with noise in their history.

    Attributes:
      seen: what the actor sees, [B, T].
      window: one Lh a position, [B, T] int32.
      rows: positions that exist, [B, T] bool.
      legal: A(s) of those positions.
      teacher: pair of the teacher's character in `legal`, [N] int64.
      accepted: it is legal there, [N] bool.
    """

    seen: Sequence
    window: Tensor
    rows: Tensor
    legal: LegalSets
    teacher: Tensor
    accepted: Tensor


@dataclass(frozen=True)
class Batch:
    """Answers as the learner takes them.

    Attributes:
      seen: what the actor sees, [B, T + 1].
      foresight: what critics see besides, [B, T + 1].
      rows: states that exist, [B, T + 1] bool, M of them.
      here: indices of the N steps among the M states; the next state is here + 1, [N].
      legal: A(s) of the M states.
      taken: character taken, [N] int64.
      history_choice: index into H, [N] int64.
      cap_choice: index into P, [N] int64.
      char_reward: base + eta1 chi_soft, [N].
      history_cost: cost of every Lh, [|H|].
      cap_reward: eta2 ler - cost for every Lp, [N, |P|].
      terminated: the step ended the answer, [N] bool.
      teacher: pair of the teacher's character in `legal`, [M] int64.
      accepted: a step was taken here and the teacher's character is legal, [M] bool.
    """

    seen: Sequence
    foresight: Foresight
    rows: Tensor
    here: Tensor
    legal: LegalSets
    taken: Tensor
    history_choice: Tensor
    cap_choice: Tensor
    char_reward: Tensor
    history_cost: Tensor
    cap_reward: Tensor
    terminated: Tensor
    teacher: Tensor
    accepted: Tensor


@dataclass(frozen=True)
class Rates:
    """What the schedules say for one step."""

    kappa: dict[str, float]
    bc_weight: float


class Learner:
    """Actor, twin critics and their targets, temperatures, optimisers."""

    def __init__(self, config: Config, sizes: Sizes, device: torch.device) -> None:
        """Build the networks; torch's global seed must be set by the caller just before."""
        self.config, self.sizes, self.device = config, sizes, device
        agent = config.agent
        self.actor = Actor(sizes, config.env, agent, config.attention).to(device)
        self.critics = Critics(sizes, config.env, agent).to(device)
        self.target = copy.deepcopy(self.critics).requires_grad_(False)
        self.log_alpha = torch.full((3,), agent.alpha_first, device=device).log()
        fused = True
        windows = self.actor.window_parameters()
        known = {id(parameter) for parameter in windows}
        rest = [p for p in self.actor.parameters() if id(p) not in known]
        self.actor_optimiser = torch.optim.Adam(
            [{"params": rest}, {"params": windows}], agent.clone_lr, fused=fused
        )
        self.critic_optimiser = torch.optim.Adam(
            self.critics.parameters(), agent.critic_lr, fused=fused
        )

    # ---- cloning -------------------------------------------------------------------------

    def clone(self, batch: CloneBatch, rate: float) -> dict[str, float]:
        """One step of cloning at learning rate `rate`; returns what happened."""
        self._set_rates(rate, rate)
        loss, stats = self._cloning(batch)
        self._step(self.actor_optimiser, self.actor, loss)
        return stats

    def _cloning(self, batch: CloneBatch) -> tuple[Tensor, dict[str, float]]:
        """-log pi(teacher's character|s), the mean over accepted positions."""
        token, fixed = self.actor.embed(batch.seen)
        attended = self.actor.encoder(token, batch.window)
        state = self.actor.state(attended[batch.rows], fixed[batch.rows])
        log_pi = self.actor.char_log_pi(state.unsqueeze(0), batch.legal)[0]
        chosen = log_pi[batch.teacher]
        loss = -losses.mean_over(chosen, batch.accepted)
        with torch.no_grad():
            right = (chosen >= batch.legal.largest(log_pi)) & batch.accepted
        return loss, {
            "clone_loss": loss.item(),
            "accuracy": right.float().mean().item(),
            "rejected": float((~batch.accepted).sum().item()),
        }

    def imitate(self, batch: Batch, demonstrations: CloneBatch) -> dict[str, float]:
        """One step of DAgger alone: cloning, and the teacher's character behind the student's text.

        Nothing is learned from rewards, and the heads of Lh and Lp stay as they are.
        Source: Ross et al. 2011, arXiv:1011.0686.
        """
        cloning, stats = self._cloning(demonstrations)
        _, _, log_a = self._policies(batch)
        corrected = self._corrected(batch, log_a)
        self._set_rates(self.config.agent.actor_lr, 0.0)
        self._step(self.actor_optimiser, self.actor, 0.5 * (cloning + corrected))
        return stats | {"dagger_loss": corrected.item()}

    @staticmethod
    def _corrected(batch: Batch, log_a: Tensor) -> Tensor:
        """-log pi(teacher's character) behind the student's own history, the mean over Lh."""
        return -losses.mean_over(log_a[:, batch.teacher].mean(0), batch.accepted)

    # ---- SAC -----------------------------------------------------------------------------

    def update(
        self, batch: Batch, rates: Rates, demonstrations: CloneBatch | None
    ) -> dict[str, float]:
        """One SAC step on the critics and, with demonstrations, on actor and temperatures."""
        alpha = self.log_alpha.exp()
        with torch.set_grad_enabled(demonstrations is not None):
            log_h, log_p, log_a = self._policies(batch)
        stats = self._update_critics(batch, log_h.detach(), log_p.detach(), log_a.detach(), alpha)
        if demonstrations is not None:
            cloning, cloned = self._cloning(demonstrations)
            stats |= cloned
            stats |= self._update_actor(batch, log_h, log_p, log_a, alpha, rates, cloning)
        ema = self.config.agent.target_ema
        follow(self.target.parameters(), self.critics.parameters(), ema)
        return stats

    def _policies(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """log pi_h [M, C], log pi_p [C, M, P], log pi_char [C, J], all states and windows."""
        actor = self.actor
        token, fixed = actor.embed(batch.seen)
        attended = actor.encoder.forward_multi(token, actor.windows)[:, batch.rows]
        fixed = fixed[batch.rows]
        token = token[batch.rows]
        log_h = masked_log_softmax(actor.history_logits(token, fixed), None)
        state = actor.state(attended, fixed)
        log_p = masked_log_softmax(actor.cap_logits(state, token, fixed), None)
        return log_h, log_p, actor.char_log_pi(state, batch.legal)

    @torch.no_grad()
    def _next_values(
        self, batch: Batch, log_h: Tensor, log_p: Tensor, log_a: Tensor, alpha: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """V of each part at the state after each step, three times [N]."""
        h = self.target.features(batch.seen, batch.foresight, batch.rows)
        v_h, v_p, v_a = self._values(self.target, h, batch, log_h, log_p, log_a, alpha)
        pi_h = log_h.exp()
        after = batch.here + 1
        return v_h[after], (pi_h * v_p).sum(-1)[after], (pi_h * v_a).sum(-1)[after]

    @staticmethod
    def _values(
        critics: Critics, h: Features, batch: Batch,
        log_h: Tensor, log_p: Tensor, log_a: Tensor, alpha: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        """Soft values of the parts: over Lh [M], over Lp and characters under every Lh [M, C]."""
        with torch.no_grad():
            q0 = critics.char_values(h.char, batch.legal).amin(0)  # [J]
            qh, qp = (part.amin(0) for part in critics.window_values(h, batch.history_cost))
        v_h = losses.soft_value(log_h, qh, alpha[0])
        v_p = losses.soft_value(log_p, qp, alpha[1]).T
        v_a = batch.legal.sum(losses.soft_terms(log_a, q0, alpha[2])).T
        return v_h, v_p, v_a

    def _update_critics(
        self, batch: Batch, log_h: Tensor, log_p: Tensor, log_a: Tensor, alpha: Tensor
    ) -> dict[str, float]:
        gamma, end = self.config.agent.gamma, batch.terminated
        v_h, v_p, v_a = self._next_values(batch, log_h, log_p, log_a, alpha)
        h = self.critics.features(batch.seen, batch.foresight, batch.rows).at(batch.here)
        q0 = self.critics.char_value(h.char, batch.taken)
        qh, qp = self.critics.window_values(h, batch.history_cost)  # [2, N, C], [2, N, P]
        everywhere = torch.ones_like(end)
        y_a = losses.td_target(batch.char_reward, end, v_a, gamma)
        if self.config.agent.critic_target == "parts":
            y_h = losses.td_target(-batch.history_cost, end[:, None], v_h[:, None], gamma)
            y_p = losses.td_target(batch.cap_reward, end[:, None], v_p[:, None], gamma)
            loss = (
                losses.critic_loss(q0, y_a, everywhere)
                + losses.critic_loss(qh, y_h, everywhere[:, None].expand_as(y_h))
                + losses.critic_loss(qp, y_p, everywhere[:, None].expand_as(y_p))
            )
        else:
            q = q0 + _pick(qh, batch.history_choice) + _pick(qp, batch.cap_choice)
            reward_h = -batch.history_cost[batch.history_choice]
            reward_p = batch.cap_reward.gather(-1, batch.cap_choice[:, None]).squeeze(-1)
            y = y_a + losses.td_target(reward_h + reward_p, end, v_h + v_p, gamma)
            loss = losses.critic_loss(q, y, everywhere)
        self._step(self.critic_optimiser, self.critics, loss)
        return {
            "critic_loss": loss.item(),
            "q_mean": q0.mean().item(),
            "q_target": y_a.mean().item(),
        }

    def _update_actor(
        self, batch: Batch, log_h: Tensor, log_p: Tensor, log_a: Tensor, alpha: Tensor,
        rates: Rates, cloning: Tensor,
    ) -> dict[str, float]:  # fmt: skip
        taken = torch.zeros(len(log_h), dtype=torch.bool, device=self.device)
        taken[batch.here] = True  # [M], not the last states
        with torch.no_grad():
            h = self.critics.features(batch.seen, batch.foresight, batch.rows)
        v_h, v_p, v_a = self._values(self.critics, h, batch, log_h, log_p, log_a, alpha)
        pi_h = log_h.exp()
        j_pi = -losses.mean_over(v_h + (pi_h * (v_p + v_a)).sum(-1), taken)
        # DAgger beside SAC: the teacher says what it would have written there
        loss = j_pi + rates.bc_weight * 0.5 * (cloning + self._corrected(batch, log_a))
        self._set_rates(self.config.agent.actor_lr, self.config.agent.window_lr)
        self._step(self.actor_optimiser, self.actor, loss)
        stats = {"actor_loss": j_pi.item()}
        with torch.no_grad():
            char = -batch.legal.sum(log_a.exp() * log_a).T  # [M, C]
            entropies = (entropy(log_h), (pi_h * entropy(log_p).T).sum(-1), (pi_h * char).sum(-1))
            counts = batch.legal.counts
            sizes = (counts.new_tensor(log_h.shape[-1]), counts.new_tensor(log_p.shape[-1]), counts)
            for i, (head, found, size) in enumerate(zip(HEADS, entropies, sizes)):
                target = losses.entropy_target(size, rates.kappa[head])
                self.log_alpha[i] = losses.temperature_step(
                    self.log_alpha[i], found, target, taken, self.config.agent.alpha_lr
                ).clamp(min=-16.0, max=3.0)
                stats[f"entropy_{head}"] = losses.mean_over(found, taken).item()
                stats[f"alpha_{head}"] = self.log_alpha[i].exp().item()
        return stats

    def _step(self, optimiser: torch.optim.Optimizer, network: nn.Module, loss: Tensor) -> None:
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), self.config.agent.grad_clip)
        optimiser.step()

    def _set_rates(self, actor: float, windows: float) -> None:
        """The window heads have no teacher and learn at a rate of their own."""
        for group, rate in zip(self.actor_optimiser.param_groups, (actor, windows)):
            group["lr"] = rate


def _pick(parts: Tensor, choice: Tensor) -> Tensor:
    """parts[:, n, choice[n]], [2, N]."""
    return parts.gather(-1, choice.expand(2, -1).unsqueeze(-1)).squeeze(-1)
