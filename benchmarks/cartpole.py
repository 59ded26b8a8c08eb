"""CartPole-v1 by the package's discrete SAC: a yardstick that nobody here wrote.

One environment, one update a step after 1,000 random steps; every 1,000 steps the greedy policy
plays 100 episodes. *Sustained* is the first of five evaluations in a row with a mean return of 475
or more. Prints one line an evaluation and a table; exit 1 where the yardstick is missed.

    python -m benchmarks.cartpole --seeds 1 2 3 4 5 --json cartpole.json
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import gymnasium
import numpy as np
import torch

from flexattn.agents.discrete import DiscreteSac, Settings, Transitions
from flexattn.agents.mlp import MlpActor, MlpCritics

STEPS, RANDOM_STEPS, BATCH, EVERY, EPISODES = 50_000, 1_000, 128, 1_000, 100
SOLVED, IN_A_ROW = 475.0, 5
MEDIAN_MOST, EACH_MOST = 30_000, 40_000
SETTINGS = Settings(
    gamma=0.99, target_ema=0.005, actor_lr=3e-4, critic_lr=1e-3, alpha_lr=3e-4, alpha_first=1.0,
    alpha_adam=True, kappa=0.5,
)  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """One seed.

    Attributes:
      seed: of networks, draws and environments.
      sustained: environment steps, None where it never held.
      returns: mean return of each evaluation, one every 1,000 steps.
      alpha: the last temperature.
      seconds: of the whole seed.
    """

    seed: int
    sustained: int | None
    returns: list[float]
    alpha: float
    seconds: float


def learn(seed: int, steps: int = STEPS) -> Outcome:
    """Train one seed and evaluate it on the way."""
    started = time.perf_counter()
    torch.manual_seed(seed)
    agent = DiscreteSac(MlpActor(4, (128, 128), 2), MlpCritics(4, (128, 128), 2), SETTINGS)
    generator, rng = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
    env = gymnasium.make("CartPole-v1")
    stage = gymnasium.make_vec("CartPole-v1", EPISODES, vectorization_mode="vector_entry_point")
    before, after = np.zeros((steps, 4), np.float32), np.zeros((steps, 4), np.float32)
    taken, reward = np.zeros(steps, np.int64), np.zeros(steps, np.float32)
    terminated = np.zeros(steps, bool)
    state, _ = env.reset(seed=seed)
    returns: list[float] = []
    for step in range(steps):
        if step < RANDOM_STEPS:
            action = int(rng.integers(2))
        else:
            action = int(agent.act(torch.from_numpy(state)[None], None, generator)[0])
        new, gain, ended, cut, _ = env.step(action)
        before[step], after[step], taken[step] = state, new, action
        reward[step], terminated[step] = float(gain), ended
        state = env.reset()[0] if ended or cut else new
        if step >= RANDOM_STEPS:
            rows = rng.integers(0, step + 1, BATCH)
            agent.update(
                Transitions(
                    torch.from_numpy(before[rows]), None, torch.from_numpy(taken[rows]),
                    torch.from_numpy(reward[rows]), torch.from_numpy(terminated[rows]),
                    torch.from_numpy(after[rows]), None,
                )
            )  # fmt: skip
        if (step + 1) % EVERY == 0:
            returns.append(evaluate(agent, stage, seed))
            print(f"seed {seed} step {step + 1:6d} return {returns[-1]:6.1f}", flush=True)
    alpha = float(agent.log_alpha.exp())
    return Outcome(seed, sustained(returns), returns, alpha, time.perf_counter() - started)


def evaluate(agent: DiscreteSac, stage: gymnasium.vector.VectorEnv, seed: int) -> float:
    """Mean return of the greedy policy, one episode an environment."""
    state, _ = stage.reset(seed=seed)
    total, open_ = np.zeros(EPISODES), np.ones(EPISODES, bool)
    while open_.any():
        action = agent.act(torch.from_numpy(np.asarray(state, np.float32)), None).numpy()
        state, gain, ended, cut, _ = stage.step(action)
        total += np.where(open_, gain, 0.0)
        open_ &= ~(ended | cut)
    return float(total.mean())


def sustained(returns: list[float]) -> int | None:
    """Steps until the first of five evaluations in a row that reach 475."""
    for first in range(len(returns) - IN_A_ROW + 1):
        if min(returns[first : first + IN_A_ROW]) >= SOLVED:
            return (first + 1) * EVERY
    return None


def main() -> int:
    """Run the seeds one after the other."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.cartpole", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5], help="seeds")
    parser.add_argument("--json", type=Path, metavar="OUT", help="also write the outcomes here")
    given = parser.parse_args()
    torch.set_num_threads(1)
    outcomes = [learn(seed) for seed in given.seeds]
    print("seed  sustained  best  last ten  alpha  seconds")
    for o in outcomes:
        print(
            f"{o.seed:4d}  {o.sustained or '-':>9}  {max(o.returns):.0f}  "
            f"{np.mean(o.returns[-10:]):8.1f}  {o.alpha:.4f}  {o.seconds:.0f}"
        )
    if given.json is not None:
        given.json.write_text(json.dumps([asdict(o) for o in outcomes], indent=1) + "\n")
    reached = [o.sustained or STEPS + 1 for o in outcomes]
    held = np.median(reached) <= MEDIAN_MOST and max(reached) <= EACH_MOST
    ended = all(o.returns[-1] >= 500.0 for o in outcomes)
    print(f"yardstick {'held' if held and ended else 'missed'}")
    return 0 if held and ended else 1


if __name__ == "__main__":
    sys.exit(main())
