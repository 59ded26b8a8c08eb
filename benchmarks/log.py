"""What the audit log costs a training: characters a second with it and without it, in turns.

Both sides write the same answers; `with` also derives, writes and seals every step line, and its
clock stops when the last seal is on the disk. Then how fast a log is written, verified and derived
by itself.

    python -m flexattn.bench log --json log.json
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from benchmarks.log_speed import speed
from benchmarks.train import domain_of, rate
from flexattn.bench import Row
from flexattn.config import load_config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `flexattn.bench log`."""
    parser.add_argument("--config", default="configs/medical.yaml", help="configuration file")
    parser.add_argument("--rounds", type=int, default=10, help="turns of each side; default 10")
    parser.add_argument("--steps", type=int, default=12, help="gradient steps a round; default 12")
    parser.add_argument(
        "--lines", type=int, default=400_000, help="lines of the speed measurements; 0 skips them"
    )


def run(args: argparse.Namespace) -> Iterator[Row]:
    """Let both sides take turns."""
    domain = domain_of(load_config(args.config), args.steps)
    rate(domain, logged=True)
    for turn in range(1, args.rounds + 1):
        for name in ("with", "without"):
            value = rate(domain, logged=name == "with")
            yield Row("log", f"{name}/{turn}", "flexattn", value, "tokens/s")
    if args.lines:
        yield from speed(domain, args.lines)
