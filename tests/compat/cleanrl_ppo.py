"""PPO with a mask in one file, as CleanRL writes it: python tests/compat/cleanrl_ppo.py

Needs nothing but flexattn. Autoreset is NEXT_STEP: the step after an episode's end begins the next
one and takes no action, so it is left out of the loss.
"""

from __future__ import annotations

import gymnasium
import numpy as np
import torch
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from torch import Tensor, nn
from torch.distributions import Categorical

import flexattn  # noqa: F401  registers the environment

GAMMA, LAMBDA, CLIP, ENTROPY = 0.99, 0.95, 0.2, 0.01


class Agent(nn.Module):
    """Three heads over the written history and the question; one value."""

    def __init__(self, sizes: list[int], seen: int, hidden: int = 64) -> None:
        super().__init__()
        self.embed = nn.Embedding(sizes[2], 16)
        self.body = nn.Sequential(nn.Linear(16 * seen, hidden), nn.Tanh())
        self.heads = nn.ModuleList(nn.Linear(hidden, size) for size in sizes)
        self.value = nn.Linear(hidden, 1)

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[list[Categorical], Tensor]:
        state = self.body(self.embed(ids).flatten(1))
        logits = [head(state) for head in self.heads]
        logits[2] = logits[2].masked_fill(~mask, -1e9)
        return [Categorical(logits=each) for each in logits], self.value(state)[:, 0]


def seen_by(observation: dict[str, np.ndarray]) -> Tensor:
    parts = [observation["history"], observation["question"]]
    return torch.from_numpy(np.concatenate(parts, axis=1).astype(np.int64))


def advantages(reward: Tensor, value: Tensor, over: Tensor, last: Tensor) -> Tensor:
    """GAE; `over[t]` says that step t ended an episode."""
    found, ahead = torch.zeros_like(reward), torch.zeros(reward.shape[1])
    for t in reversed(range(len(reward))):
        following = last if t == len(reward) - 1 else value[t + 1]
        delta = reward[t] + GAMMA * following * ~over[t] - value[t]
        ahead = delta + GAMMA * LAMBDA * ahead * ~over[t]
        found[t] = ahead
    return found


def train(steps: int = 4096, num_envs: int = 16, length: int = 64, seed: int = 0) -> list[float]:
    """Take `steps` steps; returns of the episodes that ended, in order."""
    torch.manual_seed(seed)
    envs = RecordEpisodeStatistics(gymnasium.make_vec("flexattn/Lexical-v0", num_envs=num_envs))
    observation, info = envs.reset(seed=seed)
    ids, mask = seen_by(observation), torch.from_numpy(info["action_mask"])
    sizes = envs.single_action_space.nvec.tolist()  # type: ignore[attr-defined]
    agent = Agent(sizes, ids.shape[1])
    optimiser = torch.optim.Adam(agent.parameters(), lr=1e-3)
    over = torch.zeros(num_envs, dtype=torch.bool)
    returns: list[float] = []
    for _ in range(max(1, steps // (num_envs * length))):
        kept: list[tuple[Tensor, ...]] = []
        for _ in range(length):
            with torch.no_grad():
                heads, value = agent(ids, mask)
                action = torch.stack([head.sample() for head in heads], dim=1)
                chance = sum(head.log_prob(action[:, n]) for n, head in enumerate(heads))
            again = over  # these environments begin an episode now and take no action
            observation, reward, done, cut, info = envs.step(action.numpy())
            over = torch.from_numpy(done | cut)
            gained = torch.from_numpy(reward).float()
            kept.append((ids, mask, action, torch.as_tensor(chance), value, gained, over, ~again))
            ids, mask = seen_by(observation), torch.from_numpy(info["action_mask"])
            if "episode" in info:
                returns.extend(info["episode"]["r"][info["_episode"]].tolist())
        with torch.no_grad():
            last = agent(ids, mask)[1]
        columns = [torch.stack(column) for column in zip(*kept)]
        gain = advantages(columns[5], columns[4], columns[6], last)
        goal = (gain + columns[4]).flatten()
        flat = [column.flatten(0, 1) for column in columns]
        gain = (gain - gain.mean()) / (gain.std() + 1e-8)
        for order in torch.randperm(len(goal)).split(256):
            order = order[flat[7][order]]
            heads, value = agent(flat[0][order], flat[1][order])
            now = sum(head.log_prob(flat[2][order, n]) for n, head in enumerate(heads))
            ratio = (torch.as_tensor(now) - flat[3][order]).exp()
            better = gain.flatten()[order]
            loss = -torch.min(ratio * better, ratio.clamp(1 - CLIP, 1 + CLIP) * better).mean()
            loss = loss + 0.5 * (value - goal[order]).square().mean()
            loss = loss - ENTROPY * sum(head.entropy().mean() for head in heads)
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(agent.parameters(), 0.5)
            optimiser.step()
    return returns


if __name__ == "__main__":
    found = train(40_000)
    print(f"first 20: {np.mean(found[:20]):.2f}, last 20: {np.mean(found[-20:]):.2f}")
