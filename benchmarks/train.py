"""Characters trained a second by two configurations that take turns, the second one twice: A B B.

The second B is the control: what two equal sides differ by here. A round is a short training of its
own, with cloning, critics and SAC in the configuration's own proportions, its log on the disk;
building the world and the last evaluation are outside the clock.

    python -m flexattn.bench train --candidate configs/medical.yaml --json train.json

With `--updates N` it measures gradient updates a second beside other libraries instead, see
`benchmarks.updates`.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.profile import shares
from flexattn.audit.writer import RunLog
from flexattn.bench import Row
from flexattn.config import Config, load_config
from flexattn.display import Display
from flexattn.domain import Domain
from flexattn.job import create_folder
from flexattn.training import Training

# a fixed Lh and Lp, U = {2}, a hard bonus and no guide: the baseline that the acceptance speaks of
BASELINE = (
    "lexicon.lengths=[2]", "env.history_chars=[2]", "env.hit_cap_chars=[2]",
    "reward.bonus=hard", "env.guide=none",
)  # fmt: skip
PHASES = ("clone_steps", "dagger_steps", "warmup_steps", "sac_steps")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `flexattn.bench train`."""
    parser.add_argument("--candidate", default="configs/medical.yaml", help="configuration file")
    parser.add_argument("--baseline", help="configuration file; default: a fixed candidate")
    parser.add_argument("--rounds", type=int, default=10, help="turns of each side; default 10")
    parser.add_argument(
        "--profile", action="store_true", help="where the time goes, instead of two sides in turns"
    )
    parser.add_argument("--steps", type=int, default=12, help="gradient steps a round; default 12")
    parser.add_argument(
        "--updates", type=int, metavar="N", help="updates/s beside peers instead, N windows each"
    )
    parser.add_argument("--threads", type=int, default=2, help="of --updates, beside 1; default 2")
    parser.add_argument(
        "--kernels", type=int, default=0, metavar="N", help="on a GPU: also print the N longest"
    )


def run(args: argparse.Namespace) -> Iterator[Row]:
    """Let the sides take turns, or take one training apart."""
    if load_config(args.candidate).train.device == "cuda":
        from benchmarks import resident

        yield from resident.rows(load_config(args.candidate), args.steps, args.kernels)
        return
    if args.profile:
        yield from shares(load_config(args.candidate), args.steps)
        return
    if args.updates:
        from benchmarks import updates

        yield from updates.rows(args.updates, args.threads)
        return
    candidate = domain_of(load_config(args.candidate), args.steps)
    other = load_config(args.baseline) if args.baseline else load_config(args.candidate, BASELINE)
    baseline = domain_of(other, args.steps)
    sides = (("candidate", candidate), ("baseline", baseline), ("control", baseline))
    for _, domain in sides[:2]:
        rate(domain, logged=True)  # compiles, and fills caches
    for turn in range(1, args.rounds + 1):
        for name, domain in sides:
            yield Row("train", f"{name}/{turn}", "flexattn", rate(domain, logged=True), "tokens/s")


def domain_of(config: Config, steps: int) -> Domain:
    """The configuration's world, its budgets cut to about `steps` in the same proportions."""
    train = config.train
    total = sum(getattr(train, name) for name in PHASES)
    short = {
        name: max(1, round(steps * getattr(train, name) / total)) if getattr(train, name) else 0
        for name in PHASES
    }
    return Domain.of_config(config.model_copy(update={"train": train.model_copy(update=short)}))


def rate(domain: Domain, *, logged: bool, skip: int = 0) -> float:
    """Characters a second of one short training, with or without the audit log.

    The clock starts behind `skip` steps, when all that they logged is on the disk.
    """
    torch.set_num_threads(domain.config.train.threads)
    with tempfile.TemporaryDirectory() as place:
        section = domain.config.run.model_copy(update={"folder": str(Path(place))})
        config = domain.config.model_copy(update={"run": section})
        here = Domain(
            config, domain.corpus, domain.corpus_bytes, domain.corpus_path, domain.catalog,
            domain.world,
        )  # fmt: skip
        folder = create_folder(here)
        with Display(plain=True) as display, RunLog(folder, config.log) as log:
            training = Training(config, here.world, log, display, torch.device("cpu"))
            if not logged:
                training.log = None  # type: ignore[assignment]
            display.say = display.begin = lambda *_: None  # type: ignore[method-assign,assignment]
            display.advance = lambda *_: None  # type: ignore[method-assign,assignment]
            before, started = 0, time.perf_counter()
            for step in training.run():
                if step == skip:
                    log.position()
                    before, started = training.characters, time.perf_counter()
            if logged:
                log.event("end")
                log.close()
            return (training.characters - before) / (time.perf_counter() - started)
