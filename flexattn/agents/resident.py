"""Masked discrete SAC on a stream of characters, all of it on one GPU, each update one CUDA graph.

The formulas are those of `sac` (targets in parts, J_pi as an exact expectation over Lh, Lp and the
legal characters, kappa log|A(s)|, cloning beside) from the same `losses`; the rows are `stream`'s.
Cloning is the teacher's part of the chunk, whose histories are noisy. Nothing is read back: rates
and schedules are tensors, and what happened is summed in `stats`.
Shapes: N environments, S steps, M = N (S + 1) states, C = |H|, P caps.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from flexattn.agents import losses
from flexattn.agents.networks import Actor, Critics, Sizes
from flexattn.agents.ranks import ALONE, Ranks
from flexattn.agents.rows import PADDED, row_values
from flexattn.agents.stream import Chunk, Offers
from flexattn.agents.trunks import HALF, critic_trunk, policy, taken_value, twin_advantages
from flexattn.agents.twins import follow
from flexattn.attention.positions import Rotary
from flexattn.config import Config
from flexattn.env.world import World
from flexattn.errors import ConfigError

__all__ = ["STATS", "Captured", "Dials", "ResidentLearner", "check"]

STATS = (
    "clone_loss", "accuracy", "critic_loss", "q_mean", "q_target", "actor_loss",
    "entropy_history", "entropy_cap", "entropy_char", "alpha_history", "alpha_cap", "alpha_char",
)  # fmt: skip
_HEADS = ("history", "cap", "char")


class Dials:
    """What schedules turn: one tensor on the device, set once a step without waiting."""

    NAMES = ("kappa_history", "kappa_cap", "kappa_char", "bc_weight", "beta", "actor", "window")

    def __init__(self, device: torch.device) -> None:
        """All zero."""
        self.values = torch.zeros(len(self.NAMES), device=device)

    def __getitem__(self, name: str) -> Tensor:
        """A view that follows what is set."""
        return self.values[self.NAMES.index(name)]

    def set(self, **values: float) -> None:
        """Set all of them."""
        self.values.copy_(torch.tensor([values[name] for name in self.NAMES]), non_blocking=True)


class Captured:
    """Work that reads and writes the same tensors each time: done, then recorded, then replayed."""

    def __init__(
        self, work: Callable[[], None], device: torch.device, ranks: Ranks = ALONE, warm: int = 2
    ) -> None:
        """Take the work, whom its sums go to, and how often it runs before it is recorded."""
        self.work, self.warm, self.cuda, self.ranks = work, warm, device.type == "cuda", ranks
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self) -> None:
        """Do it once."""
        if not self.cuda:
            self.work()
        elif self.graph is not None:
            self.graph.replay()
        elif self.warm > 0:
            self.warm -= 1
            aside = torch.cuda.Stream()
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):
                self.work()
            torch.cuda.current_stream().wait_stream(aside)
            torch.cuda.synchronize()
        else:
            graph = torch.cuda.CUDAGraph()
            # the watching thread of NCCL may ask for events meanwhile
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                self.work()
            self.ranks.recorded(graph)
            self.graph = graph
            graph.replay()


class ResidentLearner:
    """Actor, twin critics and their targets, temperatures, optimisers; rows come from a chunk."""

    def __init__(
        self,
        config: Config,
        world: World,
        device: torch.device,
        speed: Callable[[Any], Any],
        ranks: Ranks = ALONE,
    ) -> None:
        """Build the networks; torch's global seed must be set by the caller just before.

        Args:
          config: the sections `env`, `agent`, `attention`.
          world: the tables.
          device: where everything lives.
          speed: compiles a function, or leaves it as it is.
          ranks: the processes that learn together, each with environments of its own.
        """
        self.ranks = ranks
        agent = config.agent
        self.config, self.device = config, device
        sizes = Sizes.of(world)
        self.actor = Actor(sizes, config.env, agent, config.attention).to(device)
        self.critics = Critics(sizes, config.env, agent).to(device)
        self.target = copy.deepcopy(self.critics).requires_grad_(False)
        self.log_alpha = torch.full((3,), agent.alpha_first, device=device).log()
        self.dials = Dials(device)
        self.offers = Offers(world, device)
        self.actions = -(-world.size // PADDED) * PADDED
        windows = self.actor.window_parameters()
        known = {id(parameter) for parameter in windows}
        rest = [p for p in self.actor.parameters() if id(p) not in known]
        on_gpu = device.type == "cuda"
        self.actor_optimiser = torch.optim.Adam(
            [
                {"params": rest, "lr": self.dials["actor"]},
                {"params": windows, "lr": self.dials["window"]},
            ],
            fused=on_gpu, capturable=on_gpu,
        )  # fmt: skip
        self.critic_optimiser = torch.optim.Adam(
            self.critics.parameters(), torch.tensor(agent.critic_lr, device=device),
            fused=on_gpu, capturable=on_gpu,
        )  # fmt: skip
        self.stats = torch.zeros(len(STATS), device=device)
        self.updates = torch.zeros((), device=device)
        self.characters = torch.zeros((), dtype=torch.int64, device=device)
        self._policy, self._trunk, self._taken = (
            speed(work) for work in (policy, critic_trunk, taken_value)
        )
        longest = config.train.rollout_chars + max(config.env.history_chars)
        for part in self.actor.modules():
            if isinstance(part, Rotary):  # once and for all, since graphs keep its address
                part.tables(longest, torch.empty(0, dtype=HALF, device=device))

    # ---- the two kinds of update ---------------------------------------------------------

    def clone(self, chunk: Chunk, questions: Tensor) -> None:
        """One step of cloning on every row of the chunk, under all windows."""
        *_, logits = self._look(chunk, questions)
        _, _, aimed, right = row_values(logits, chunk.legal.flatten(0, 1), self._aim(chunk))
        accepted = chunk.accepted
        loss = -self.ranks.part_of_mean(self._steps(aimed).mean(0), accepted)
        self._descend(self.actor_optimiser, self.actor, loss)
        share = losses.mean_over(self._steps(right).float().mean(0), accepted)
        self._count(chunk, {"clone_loss": loss * self.ranks.size, "accuracy": share})

    def update(self, chunk: Chunk, questions: Tensor, demos: int, *, actor: bool) -> None:
        """One SAC step on the critics and, where `actor` says so, on actor and temperatures.

        Args:
          chunk: what was written.
          questions: every encoded question.
          demos: environments that the teacher wrote.
          actor: whether the actor moves.
        """
        alpha = self.log_alpha.exp()
        legal, aim = chunk.legal.flatten(0, 1), self._aim(chunk)
        future, offer = self.offers.at(chunk)
        first = chunk.token.shape[1] - chunk.step.shape[1]
        rows = (
            chunk.token[:, first:].flatten(), questions, chunk.asked[:, first:].flatten(),
            chunk.step.flatten(), chunk.sketch.flatten(0, 1), future.flatten(0, 1),
            chunk.covered.flatten().float(), offer.flatten(0, 1), self.offers.history_cost,
        )  # fmt: skip
        log_h, log_p, logits = self._look(chunk, questions)
        log_h, log_p = log_h.flatten(0, 1), log_p.flatten(1, 2)  # [M, C], [C, M, P]
        fixed = (log_h.detach(), log_p.detach(), logits.detach())
        stats = self._learn_values(chunk, rows, legal, aim, fixed, alpha)
        if actor:
            stats |= self._learn_choices(
                chunk, rows, legal, aim, (log_h, log_p, logits), alpha, demos
            )
        with torch.no_grad():
            follow(
                self.target.parameters(), self.critics.parameters(), self.config.agent.target_ema
            )
        self._count(chunk, stats)

    # ---- parts -----------------------------------------------------------------------------

    def _look(self, chunk: Chunk, questions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        out: tuple[Tensor, Tensor, Tensor] = self._policy(
            self.actor, chunk.token, questions, chunk.asked, chunk.step, chunk.sketch, self.actions
        )
        return out

    def _learn_values(
        self, chunk: Chunk, rows: tuple[Any, ...], legal: Tensor, aim: Tensor,
        policies: tuple[Tensor, Tensor, Tensor], alpha: Tensor,
    ) -> dict[str, Tensor]:  # fmt: skip
        """Critics towards y = r + gamma (1 - terminated) V(s'), part by part."""
        gamma, end, valid = self.config.agent.gamma, chunk.terminated, chunk.valid
        mean = self.ranks.part_of_mean
        log_h, log_p, logits = policies
        with torch.no_grad():
            h, base, q_h, q_p = self._trunk(self.target, *rows)
            v_a, *_ = row_values(
                logits, legal, aim, twin_advantages(self.target, h, self.actions), base, alpha[2]
            )
            v_h, v_p = self._window_values(log_h, log_p, q_h, q_p, alpha)
            pi_h = log_h.exp()
            mixed = torch.stack([v_h, (pi_h * v_p).sum(-1), (pi_h * v_a.T).sum(-1)])
            v_h, v_p, v_a = mixed.view(3, *chunk.step.shape)[:, :, 1:]
            y_a = losses.td_target(chunk.char_reward, end, v_a, gamma)
            cost = self.offers.history_cost
            y_h = losses.td_target(-cost, end[..., None], v_h[..., None], gamma)
            gain = self.config.reward.eta2 * chunk.gain_by_cap - self.offers.cap_cost
            y_p = losses.td_target(gain, end[..., None], v_p[..., None], gamma)
        h, base, q_h, q_p = self._trunk(self.critics, *rows)
        # the last state's is not looked at
        taken = torch.cat([chunk.taken, chunk.taken[:, -1:]], 1).flatten()
        q_a = self._taken(self.critics, h, base, taken)
        q_a, q_h, q_p = (
            q.view(2, *chunk.step.shape, *q.shape[2:])[:, :, :-1] for q in (q_a, q_h, q_p)
        )
        loss = (
            losses.critic_loss(q_a, y_a, valid, mean=mean)
            + losses.critic_loss(q_h, y_h, valid[..., None].expand_as(y_h), mean=mean)
            + losses.critic_loss(q_p, y_p, valid[..., None].expand_as(y_p), mean=mean)
        )
        self._descend(self.critic_optimiser, self.critics, loss)
        both = valid.expand_as(q_a)
        return {
            "critic_loss": loss * self.ranks.size, "q_mean": losses.mean_over(q_a, both),
            "q_target": losses.mean_over(y_a, valid),
        }  # fmt: skip

    @staticmethod
    def _window_values(
        log_h: Tensor, log_p: Tensor, q_h: Tensor, q_p: Tensor, alpha: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Soft values over Lh [M] and over Lp under every Lh [M, C]."""
        v_h = losses.soft_value(log_h, q_h.amin(0), alpha[0])
        return v_h, losses.soft_value(log_p, q_p.amin(0), alpha[1]).T

    def _learn_choices(
        self, chunk: Chunk, rows: tuple[Any, ...], legal: Tensor, aim: Tensor,
        policies: tuple[Tensor, Tensor, Tensor], alpha: Tensor, demos: int,
    ) -> dict[str, Tensor]:  # fmt: skip
        """J_pi, cloning beside, and the temperatures."""
        log_h, log_p, logits = policies
        with torch.no_grad():
            h, base, q_h, q_p = self._trunk(self.critics, *rows)
            advantages = twin_advantages(self.critics, h, self.actions)
        v_a, nats, aimed, right = row_values(logits, legal, aim, advantages, base, alpha[2])
        v_h, v_p = self._window_values(log_h, log_p, q_h, q_p, alpha)
        pi_h = log_h.exp()
        value = v_h + (pi_h * (v_p + v_a.T)).sum(-1)
        valid, accepted = chunk.valid, chunk.accepted
        j_pi = -self.ranks.part_of_mean(self._steps(value), valid)
        told = self._steps(aimed).mean(0)  # log pi of the teacher's character, [N, S]
        corrected = -self.ranks.part_of_mean(told, accepted)
        cloning = -self.ranks.part_of_mean(told[:demos], accepted[:demos])
        loss = j_pi + self.dials["bc_weight"] * 0.5 * (cloning + corrected)
        self._descend(self.actor_optimiser, self.actor, loss)
        share = losses.mean_over(self._steps(right).float().mean(0)[:demos], accepted[:demos])
        many = self.ranks.size
        stats = {"actor_loss": j_pi * many, "clone_loss": cloning * many, "accuracy": share}
        with torch.no_grad():
            pi_h = pi_h.detach()
            found = (
                -(pi_h * log_h).sum(-1),
                -(pi_h * (log_p.exp() * log_p).sum(-1).T).sum(-1),
                (pi_h * nats.T).sum(-1),
            )
            counts = chunk.n_legal[:, :-1].float()
            sizes = (counts * 0 + log_h.shape[-1], counts * 0 + log_p.shape[-1], counts)
            for i, (head, nats_of, size) in enumerate(zip(_HEADS, found, sizes)):
                here = self._steps(nats_of)
                aimed_at = self.dials[f"kappa_{head}"] * torch.log(size)
                self.log_alpha[i] = losses.temperature_step(
                    self.log_alpha[i],
                    here,
                    aimed_at,
                    valid,
                    self.config.agent.alpha_lr,
                    self.ranks.mean,
                ).clamp(min=-16.0, max=3.0)
                stats[f"entropy_{head}"] = losses.mean_over(here, valid)
                stats[f"alpha_{head}"] = self.log_alpha[i].exp()
        return stats

    def _aim(self, chunk: Chunk) -> Tensor:
        """The teacher's character at every state, none at the last, [M]."""
        return torch.cat([chunk.teacher, torch.full_like(chunk.teacher[:, :1], -1)], 1).flatten()

    def _steps(self, values: Tensor) -> Tensor:
        """Values of M states, those of the steps alone, [..., M] -> [..., N, S]."""
        n = self.config.train.rollout_answers
        return values.view(*values.shape[:-1], n, -1)[..., :-1]

    def _descend(self, optimiser: torch.optim.Optimizer, network: nn.Module, loss: Tensor) -> None:
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.ranks.sum_gradients(network.parameters())
        nn.utils.clip_grad_norm_(network.parameters(), self.config.agent.grad_clip)
        optimiser.step()

    @torch.no_grad()
    def _count(self, chunk: Chunk, stats: dict[str, Tensor]) -> None:
        nothing = torch.zeros((), device=self.device)
        self.stats += torch.stack([stats.get(name, nothing).detach() for name in STATS])
        self.updates += 1.0
        self.characters += self.ranks.sum(chunk.valid.sum())

    def take_stats(self) -> dict[str, float]:
        """Means since they were taken last; waits for the device."""
        values = (self.stats / self.updates.clamp(min=1.0)).tolist()
        self.stats.zero_()
        self.updates.zero_()
        return {name: value for name, value in zip(STATS, values) if value}


def check(config: Config) -> None:
    """Refuse what only the CPU's learner does.

    Raises: ConfigError, one line with the key.
    """
    agent = config.agent
    for key, found, expected in (
        ("agent.critic_target", agent.critic_target, "parts"),
        ("agent.expectation", agent.expectation, "exact"),
        ("agent.cql_weight", agent.cql_weight, 0.0),
        ("agent.stability_weight", agent.stability_weight, 0.0),
        ("agent.prior", agent.prior, "none"),
        ("agent.clone_target", agent.clone_target, "character"),
        ("agent.forbidden_teacher", agent.forbidden_teacher, "relabel"),
        ("agent.rollout_noise", agent.rollout_noise, 0.0),
        ("train.dagger_steps", config.train.dagger_steps, 0),
        ("reward.bonus", config.reward.bonus, "gated"),
        ("lexicon.watch", config.lexicon.watch, False),
    ):
        if found != expected:
            raise ConfigError(
                f"{key} is {found} with train.device cuda, expected {expected}; "
                f"set train.device=cpu for it"
            )
