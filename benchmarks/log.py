"""What the audit log costs a training: characters a second with it and without it, in turns.

Measured where lines are written, so in SAC alone: rollouts, each with the updates that the
configuration puts behind it. Cloning, which logs nothing, is left out, and the first step, before
which the teacher writes every train answer, is outside the clock. Both sides write the same
answers; `with` also prints, hashes, writes and seals every step line, and its clock stops when the
last seal is on the disk. Sides take turns, each beginning every second time; the ratio of a pair
and the median of all ratios are printed to stderr.

Then how fast a log is written, verified and derived by itself.

    python -m flexattn.bench log --json log.json
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Iterator

from benchmarks.log_speed import speed
from benchmarks.train import PHASES, rate
from flexattn.bench import Row
from flexattn.config import load_config
from flexattn.domain import Domain


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `flexattn.bench log`."""
    parser.add_argument("--config", default="configs/medical.yaml", help="configuration file")
    parser.add_argument("--rounds", type=int, default=10, help="pairs; default 10, 0 skips them")
    parser.add_argument("--steps", type=int, default=8, help="SAC steps on a clock; default 8")
    parser.add_argument(
        "--lines", type=int, default=400_000, help="lines of the speed measurements; 0 skips them"
    )


def run(args: argparse.Namespace) -> Iterator[Row]:
    """Let both sides take turns, then measure the log by itself."""
    config = load_config(args.config)
    budgets = dict.fromkeys(PHASES, 0) | {"sac_steps": 1 + args.steps}
    train = config.train.model_copy(update=budgets)
    domain = Domain.of_config(config.model_copy(update={"train": train}))
    if args.rounds:
        yield from _pairs(domain, args.rounds)
    if args.lines:
        yield from speed(domain, args.lines)


def _pairs(domain: Domain, rounds: int) -> Iterator[Row]:
    rate(domain, logged=True)  # compiles, and fills caches
    ratios = []
    for turn in range(1, rounds + 1):
        sides = ("with", "without") if turn % 2 else ("without", "with")
        value = {side: rate(domain, logged=side == "with", skip=1) for side in sides}
        for side in sides:
            yield Row("log", f"{side}/{turn}", "flexattn", value[side], "tokens/s")
        ratios.append(value["with"] / value["without"])
        median = statistics.median(ratios)
        print(f"pair {turn}: {ratios[-1]:.4f}, median {median:.4f}", file=sys.stderr, flush=True)
