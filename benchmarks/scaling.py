"""Characters trained a second with 1 rank and with more, each rank's share of the batch the same.

    python -m benchmarks.scaling --config configs/gpu.yaml --ranks 1 2 --steps 60

Each size is a training of its own under `torch.distributed.run`, batch and buffers multiplied by
the number of ranks, NCCL where train.device is cuda and gloo elsewhere. The first steps of each
phase are left out of the clock. Efficiency is the rate a rank over that of the smallest size; 1.0
means that nothing is lost. What the ranks say on stderr comes through; a size that takes longer
than `--limit` seconds is ended.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from flexattn.config import Config, load_config
from flexattn.display import Display
from flexattn.domain import Domain
from flexattn.errors import FlexAttnError, command
from flexattn.job import together
from flexattn.stages.trainer import trainer_of

GROWS = ("clone_batch_answers", "batch_answers", "rollout_answers")
WARM = 5  # steps of each phase before the clock starts
PATIENCE = 60.0  # seconds that torchrun has to end its ranks


def measured(config: Config, steps: int, ranks: int) -> None:
    """This process's part; the first rank prints one line of JSON for each phase."""
    train = config.train
    update: dict[str, object] = {name: getattr(train, name) * ranks for name in GROWS}
    update |= {
        name: steps if getattr(train, name) else 0
        for name in ("clone_steps", "warmup_steps", "sac_steps")
    }
    agent = config.agent
    config = config.model_copy(
        update={
            "train": train.model_copy(update=update),
            "agent": agent.model_copy(update={"buffer_answers": agent.buffer_answers * ranks}),
        }
    )
    torch.set_num_threads(train.threads)
    torch.use_deterministic_algorithms(True)
    domain = Domain.of_config(config)
    with together(config) as joined:
        device = torch.device(train.device)
        training = trainer_of(config, domain.world, None, Display(quiet=True), None, joined)
        last = 0
        for phase in ("clone", "warmup", "sac"):
            count = getattr(config.train, f"{phase}_steps")
            if not count:
                continue
            began, before = 0.0, 0
            first, last = last, last + count
            for step in training.run():
                if step == first + WARM:
                    _settled(device)
                    began, before = time.perf_counter(), training.characters
                if step == last:
                    break
            _settled(device)
            spent, characters = time.perf_counter() - began, training.characters - before
            if joined is None or joined.first:
                rate = characters / spent
                print(json.dumps({"phase": phase, "ranks": ranks, "rate": rate}), flush=True)


def _settled(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def size(ranks: int, words: Sequence[str], limit: float) -> list[dict[str, Any]]:
    """One training with that many ranks, as a process of its own; a row for each phase.

    Raises: FlexAttnError where it fails or takes more than `limit` seconds.
    """
    launch = [sys.executable, "-m"]
    if ranks > 1:
        launch += ["torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks), "-m"]
    process = subprocess.Popen(
        [*launch, "benchmarks.scaling", *words, "--here", str(ranks)],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        said, _ = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        process.terminate()  # torchrun passes it on, and kills after 30 s
        try:
            process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
        raise FlexAttnError(
            f"--limit: {ranks} ranks took more than {limit:g} s; raise it, or lower --steps"
        ) from None
    if process.returncode:
        raise FlexAttnError(
            f"--ranks: {ranks} ranks ended with exit code {process.returncode}; see above"
        )
    return [json.loads(line) for line in said.splitlines() if line.startswith("{")]


@command
def main(words: Sequence[str] | None = None) -> int:
    """Start one training for each size, print its rates and what of them is left for each rank."""
    words = sys.argv[1:] if words is None else words
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", default="configs/smoke.yaml")
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--steps", type=int, default=30, help="of each phase, default 30")
    parser.add_argument("--limit", type=float, default=600.0, help="seconds a size, default 600")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--here", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args(words)
    if given.steps <= WARM:
        raise FlexAttnError(f"--steps: is {given.steps}, expected more than {WARM}")
    if given.here:
        measured(load_config(given.config, given.overrides), given.steps, given.here)
        return 0
    rows = []
    for ranks in given.ranks:
        for row in size(ranks, words, given.limit):
            print(f"{row['phase']:8s} {ranks} ranks {row['rate']:14,.0f} characters/s", flush=True)
            rows.append(row)
    base = {row["phase"]: row for row in rows if row["ranks"] == min(given.ranks)}
    for row in rows:
        alone = base[row["phase"]]
        row["efficiency"] = row["rate"] / alone["rate"] * alone["ranks"] / row["ranks"]
        print(f"{row['phase']:8s} {row['ranks']} ranks, efficiency {row['efficiency']:.2f}")
    if given.json:
        given.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
