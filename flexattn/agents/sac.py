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
from flexattn.agents.batches import Batch
from flexattn.agents.cloning import CloneBatch
from flexattn.agents.legal import legal_log_softmax
from flexattn.agents.masked import entropy, masked_log_softmax
from flexattn.agents.networks import Actor, Critics, Features, Sizes
from flexattn.agents.ranks import ALONE, Ranks
from flexattn.agents.sampled import Draws, draw, sampled_objective, sampled_values
from flexattn.agents.schedule import zipf_probabilities
from flexattn.agents.twins import follow
from flexattn.config import Config

HEADS = ("history", "cap", "char")


@dataclass(frozen=True)
class Rates:
    """What the schedules say for one step.

    Attributes:
      kappa: entropy target of each head, kappa log|A(s)|.
      bc_weight: of cloning beside SAC.
      rho: share of the domain's own windows in the curriculum, 0..1.
    """

    kappa: dict[str, float]
    bc_weight: float
    rho: float = 1.0


class Learner:
    """Actor, twin critics and their targets, temperatures, optimisers."""

    def __init__(
        self, config: Config, sizes: Sizes, device: torch.device, ranks: Ranks = ALONE
    ) -> None:
        """Build the networks; torch's global seed must be set by the caller just before."""
        self.config, self.sizes, self.device, self.ranks = config, sizes, device, ranks
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
        """-log pi(teacher's character|s), the mean over accepted positions.

        Where the teacher's probabilities are known, cross entropy with them instead.
        """
        token, fixed = self.actor.embed(batch.seen)
        attended = self.actor.encoder(token, batch.window)
        state = self.actor.state(attended[batch.rows], fixed[batch.rows])
        log_pi = self.actor.char_log_pi(state.unsqueeze(0), batch.legal, batch.prior)[0]
        chosen = log_pi[batch.teacher]
        told = chosen if batch.share is None else batch.legal.sum(batch.share * log_pi)
        loss = -self.ranks.part_of_mean(told, batch.accepted)
        with torch.no_grad():
            right = (chosen >= batch.legal.largest(log_pi)) & batch.accepted
        return loss, {
            "clone_loss": loss.item() * self.ranks.size,
            "accuracy": right.float().mean().item(),
            "rejected": float((~batch.accepted).sum().item()),
        }

    def imitate(self, batch: Batch, demonstrations: CloneBatch) -> dict[str, float]:
        """One step of DAgger alone: cloning, and the teacher's character behind the student's text.

        Nothing is learned from rewards, and the heads of Lh and Lp stay as they are.
        Source: Ross et al. 2011, arXiv:1011.0686.
        """
        cloning, stats = self._cloning(demonstrations)
        _, _, log_a = self.policies(batch)
        corrected = self._corrected(batch, log_a)
        self._set_rates(self.config.agent.actor_lr, 0.0)
        self._step(self.actor_optimiser, self.actor, 0.5 * (cloning + corrected))
        return stats | {"dagger_loss": corrected.item() * self.ranks.size}

    def _corrected(self, batch: Batch, log_a: Tensor) -> Tensor:
        """-log pi(teacher's character) behind the student's own history, the mean over Lh."""
        return -self.ranks.part_of_mean(log_a[:, batch.teacher].mean(0), batch.accepted)

    # ---- SAC -----------------------------------------------------------------------------

    def update(
        self,
        batch: Batch,
        rates: Rates,
        demonstrations: CloneBatch | None,
        generator: torch.Generator | None = None,
    ) -> dict[str, float]:
        """One SAC step on the critics and, with demonstrations, on actor and temperatures.

        Args:
          batch: answers of both buffers.
          rates: what the schedules say.
          demonstrations: teacher answers; None: the actor stays as it is.
          generator: source of draws, for `expectation: sampled` and the stability term.
        """
        alpha = self.log_alpha.exp()
        if self.config.agent.expectation == "sampled":
            own = self._own(generator)
            stats = self._update_sampled(batch, rates, demonstrations, alpha, own)
        else:
            stats = self._update_exact(batch, rates, demonstrations, alpha, generator)
        ema = self.config.agent.target_ema
        follow(self.target.parameters(), self.critics.parameters(), ema)
        return stats | {"n_legal": batch.legal.counts.double().mean().item()}

    def _own(self, generator: torch.Generator | None) -> torch.Generator:
        """A stream of this rank's own; the shared one moves by one number on every rank."""
        if generator is None:
            raise ValueError("update: a switch of the agent draws, expected a generator; pass one")
        seed = torch.randint(2**62, (1,), generator=generator, device=generator.device)
        return torch.Generator(self.device).manual_seed(int(seed) + self.ranks.rank)

    def _update_exact(
        self, batch: Batch, rates: Rates, demonstrations: CloneBatch | None, alpha: Tensor,
        generator: torch.Generator | None,
    ) -> dict[str, float]:  # fmt: skip
        with torch.set_grad_enabled(demonstrations is not None):
            log_h, log_p, log_a = self.policies(batch)
        held = log_h.detach(), log_p.detach(), log_a.detach()
        stats = self._update_critics(batch, self._next_values(batch, *held, alpha))
        if demonstrations is not None:
            cloning, cloned = self._cloning(demonstrations)
            stats |= cloned
            stats |= self._update_actor(
                batch, log_h, log_p, log_a, alpha, rates, cloning, generator
            )
        return stats

    def policies(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """log pi_h [M, C], log pi_p [C, M, P], log pi_char [C, J], all states and windows."""
        actor = self.actor
        token, fixed = actor.embed(batch.seen)
        attended = actor.encoder.forward_multi(token, actor.windows)[:, batch.rows]
        fixed = fixed[batch.rows]
        token = token[batch.rows]
        log_h = masked_log_softmax(actor.history_logits(token, fixed), None)
        state = actor.state(attended, fixed)
        known, expected = (None, None) if batch.prior is None else batch.prior
        log_p = masked_log_softmax(actor.cap_logits(state, token, fixed, expected), None)
        return log_h, log_p, actor.char_log_pi(state, batch.legal, known)

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
        self, batch: Batch, after: tuple[Tensor, Tensor, Tensor]
    ) -> dict[str, float]:
        """One step towards the targets; `after` holds V of each part after each step, [N] each."""
        gamma, end = self.config.agent.gamma, batch.terminated
        v_h, v_p, v_a = after
        everything = self.critics.features(batch.seen, batch.foresight, batch.rows)
        h = everything.at(batch.here)
        q0 = self.critics.char_value(h.char, batch.taken)
        qh, qp = self.critics.window_values(h, batch.history_cost)  # [2, N, C], [2, N, P]
        everywhere, mean = torch.ones_like(end), self.ranks.part_of_mean
        y_a = losses.td_target(batch.char_reward, end, v_a, gamma)
        if self.config.agent.critic_target == "parts":
            y_h = losses.td_target(-batch.history_cost, end[:, None], v_h[:, None], gamma)
            y_p = losses.td_target(batch.cap_reward, end[:, None], v_p[:, None], gamma)
            loss = (
                losses.critic_loss(q0, y_a, everywhere, mean=mean)
                + losses.critic_loss(qh, y_h, everywhere[:, None].expand_as(y_h), mean=mean)
                + losses.critic_loss(qp, y_p, everywhere[:, None].expand_as(y_p), mean=mean)
            )
        else:
            q = q0 + _pick(qh, batch.history_choice) + _pick(qp, batch.cap_choice)
            reward_h = -batch.history_cost[batch.history_choice]
            reward_p = batch.cap_reward.gather(-1, batch.cap_choice[:, None]).squeeze(-1)
            y = y_a + losses.td_target(reward_h + reward_p, end, v_h + v_p, gamma)
            loss = losses.critic_loss(q, y, everywhere, mean=mean)
        stats = {
            "critic_loss": loss.item() * self.ranks.size,
            "q_mean": q0.mean().item(),
            "q_scale": q0.detach().abs().mean().item(),
            "q_target": y_a.mean().item(),
        }
        if self.config.agent.cql_weight:
            known = self.critics.char_values(everything.char, batch.legal)
            share = legal_log_softmax(known, batch.legal)[:, batch.teacher]
            pessimism = mean(losses.conservative(share), batch.accepted)
            stats["cql"] = pessimism.item() * self.ranks.size
            loss = loss + self.config.agent.cql_weight * pessimism
        self._step(self.critic_optimiser, self.critics, loss)
        return stats

    def _update_actor(
        self, batch: Batch, log_h: Tensor, log_p: Tensor, log_a: Tensor, alpha: Tensor,
        rates: Rates, cloning: Tensor, generator: torch.Generator | None,
    ) -> dict[str, float]:  # fmt: skip
        taken = self._taken(batch)
        with torch.no_grad():
            h = self.critics.features(batch.seen, batch.foresight, batch.rows)
        v_h, v_p, v_a = self._values(self.critics, h, batch, log_h, log_p, log_a, alpha)
        pi_h = log_h.exp()
        j_pi = -self.ranks.part_of_mean(v_h + (pi_h * (v_p + v_a)).sum(-1), taken)
        # DAgger beside SAC: the teacher says what it would have written there
        loss = j_pi + rates.bc_weight * 0.5 * (cloning + self._corrected(batch, log_a))
        stats = {"actor_loss": j_pi.item() * self.ranks.size}
        if self.config.agent.stability_weight:
            one, two = self._drawn_windows(batch, len(log_a), rates.rho, generator)
            place = torch.arange(log_a.shape[1], device=log_a.device)
            unsteady = self._unsteady(batch, log_a[one, place], log_a[two, place], taken)
            stats["stability"] = unsteady.item() * self.ranks.size
            loss = loss + self.config.agent.stability_weight * unsteady
        self._set_rates(self.config.agent.actor_lr, self.config.agent.window_lr)
        self._step(self.actor_optimiser, self.actor, loss)
        with torch.no_grad():
            char = -batch.legal.sum(log_a.exp() * log_a).T  # [M, C]
            entropies = (entropy(log_h), (pi_h * entropy(log_p).T).sum(-1), (pi_h * char).sum(-1))
        return stats | self._temperatures(batch, entropies, taken, rates)

    def _taken(self, batch: Batch) -> Tensor:
        """States from which a step was taken, not the last ones, [M] bool."""
        taken = torch.zeros(len(batch.legal.counts), dtype=torch.bool, device=self.device)
        taken[batch.here] = True
        return taken

    @torch.no_grad()
    def _temperatures(
        self, batch: Batch, entropies: tuple[Tensor, Tensor, Tensor], taken: Tensor, rates: Rates
    ) -> dict[str, float]:
        """Each head's temperature towards its entropy target; returns what they are."""
        stats: dict[str, float] = {}
        counts, env = batch.legal.counts, self.config.env
        sizes = (
            counts.new_tensor(len(env.history_chars)),
            counts.new_tensor(len(env.hit_cap_chars)),
            counts,
        )
        for i, (head, found, size) in enumerate(zip(HEADS, entropies, sizes)):
            target = losses.entropy_target(size, rates.kappa[head])
            self.log_alpha[i] = losses.temperature_step(
                self.log_alpha[i], found, target, taken, self.config.agent.alpha_lr, self.ranks.mean
            ).clamp(min=-16.0, max=3.0)
            stats[f"entropy_{head}"] = self.ranks.mean(found, taken).item()
            stats[f"alpha_{head}"] = self.log_alpha[i].exp().item()
        return stats

    def _drawn_windows(
        self, batch: Batch, count: int, rho: float, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """Two of `count` choices of Lh for each state by the curriculum, at its pairs, [J] each."""
        chance = (1.0 - rho) * torch.from_numpy(zipf_probabilities(count)) + rho / count
        states = len(batch.legal.counts)
        draws = torch.multinomial(
            chance.to(self.device), 2 * states, replacement=True, generator=self._own(generator)
        )
        one, two = draws.view(2, states)[:, batch.legal.row]
        return one, two

    def _unsteady(self, batch: Batch, one: Tensor, two: Tensor, taken: Tensor) -> Tensor:
        """How far pi_char moves between two draws of (Lh, Lp), the mean over steps taken.

        Lp reaches no network's input, so only Lh of each draw can move the distribution.
        """
        moved = losses.stability(one.exp(), two.exp())
        return self.ranks.part_of_mean(batch.legal.sum(moved), taken)

    # ---- SAC with two draws in place of the sums --------------------------------------------

    def _update_sampled(
        self, batch: Batch, rates: Rates, demonstrations: CloneBatch | None, alpha: Tensor,
        generator: torch.Generator,
    ) -> dict[str, float]:  # fmt: skip
        with torch.set_grad_enabled(demonstrations is not None):
            draws = draw(self.actor, batch, generator)
        stats = self._update_critics(batch, self._sampled_next(batch, draws, alpha))
        if demonstrations is None:
            return stats
        taken = self._taken(batch)
        values = self._sampled_values(self.critics, batch, draws, alpha)
        found = self.ranks.mean((values[0] + values[1] + values[2]).mean(0), taken)
        cloning, cloned = self._cloning(demonstrations)
        corrected = -self.ranks.part_of_mean(draws.label.mean(0), batch.accepted)
        loss = -self.ranks.part_of_mean(sampled_objective(draws, values), taken)
        loss = loss + rates.bc_weight * 0.5 * (cloning + corrected)
        if self.config.agent.stability_weight:
            one, two = draws.log_all
            unsteady = self._unsteady(batch, one, two, taken)
            cloned["stability"] = unsteady.item() * self.ranks.size
            loss = loss + self.config.agent.stability_weight * unsteady
        self._set_rates(self.config.agent.actor_lr, self.config.agent.window_lr)
        self._step(self.actor_optimiser, self.actor, loss)
        h, p, a = (nats.mean(0) for nats in draws.nats)
        stats |= cloned | {"actor_loss": -found.item()}
        return stats | self._temperatures(batch, (h, p, a), taken, rates)

    def _sampled_next(
        self, batch: Batch, draws: Draws, alpha: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """V of each part at the state after each step, by the mean over draws, [N] each."""
        values = self._sampled_values(self.target, batch, draws, alpha)
        v_h, v_p, v_a = (value.mean(0)[batch.here + 1] for value in values)
        return v_h, v_p, v_a

    @staticmethod
    @torch.no_grad()
    def _sampled_values(
        critics: Critics, batch: Batch, draws: Draws, alpha: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The drawn terms under one pair of twins, three times [K, M]."""
        h = critics.features(batch.seen, batch.foresight, batch.rows)
        qh, qp = (part.amin(0) for part in critics.window_values(h, batch.history_cost))
        q0 = critics.char_values(h.char, batch.legal).amin(0)
        return sampled_values(draws, qh, qp, q0, alpha)

    def _step(self, optimiser: torch.optim.Optimizer, network: nn.Module, loss: Tensor) -> None:
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.ranks.sum_gradients(network.parameters())
        nn.utils.clip_grad_norm_(network.parameters(), self.config.agent.grad_clip)
        optimiser.step()

    def _set_rates(self, actor: float, windows: float) -> None:
        """The window heads have no teacher and learn at a rate of their own."""
        for group, rate in zip(self.actor_optimiser.param_groups, (actor, windows)):
            group["lr"] = rate


def _pick(parts: Tensor, choice: Tensor) -> Tensor:
    """parts[:, n, choice[n]], [2, N]."""
    return parts.gather(-1, choice.expand(2, -1).unsqueeze(-1)).squeeze(-1)
