"""Train a student: one run, or many side by side; say what came of it and what to do next."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from flexattn.errors import ConfigError, command

if TYPE_CHECKING:
    from flexattn.config import Config

EPILOG = """example:
  python -m flexattn.train --config configs/medical.yaml --set agent.actor_lr=1e-4
  python -m flexattn.train --resume logs/medical
  python -m flexattn.train --config configs/medical.yaml --seeds 0-9 --workers 2
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="python -m flexattn.train",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument(
        "--config", metavar="FILE", action="append", default=[],
        help="YAML file; every key is explained in configs/medical.yaml; with --seeds it may be "
        "given again, once for each arm",
    )  # fmt: skip
    made.add_argument(
        "--set", metavar="KEY=VALUE", action="append", default=[], dest="overrides",
        help="override one key, such as train.sac_steps=200; may be given again",
    )  # fmt: skip
    made.add_argument(
        "--resume", metavar="RUN", help="run folder to go on with, from its newest checkpoint"
    )
    made.add_argument(
        "--seeds", metavar="LIST", help="such as 0-9 or 1,2,5: a run for each, in logs/NAME/seed-N"
    )
    made.add_argument(
        "--workers", metavar="N", type=int, help="runs side by side; default: one a CPU"
    )
    made.add_argument(
        "--ray", metavar="ADDRESS",
        help="run the seeds on a Ray cluster: auto, ray://host:10001, or local for one here",
    )  # fmt: skip
    made.add_argument("--plain", action="store_true", help="plain lines also on a terminal")
    return made


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Train, and end by saying where things are and what to do next."""
    given = parser().parse_args(argv)
    if given.seeds is not None:
        return _many(given)
    for option in ("workers", "ray"):
        if getattr(given, option) is not None:
            raise ConfigError(f"--{option}: is for many runs; expected --seeds beside it")
    if len(given.config) > 1:
        raise ConfigError(
            f"--config: is given {len(given.config)} times, expected one; several arms need --seeds"
        )
    if not given.resume and not given.config:
        raise ConfigError("--config or --resume is missing; try --config configs/smoke.yaml")
    return _one(given)


def _one(given: argparse.Namespace) -> int:
    from flexattn.audit.folder import CONFIG, RunFolder
    from flexattn.config import load_config, parse_config

    folder = RunFolder.open(given.resume) if given.resume else None
    # read first: a mistake in it is said before anything heavy is loaded
    if folder is None:
        config = load_config(given.config[0], given.overrides)
    else:
        config = parse_config(folder.config_text(), str(folder.path / CONFIG))

    from flexattn import job
    from flexattn.display import Display

    with job.together(config) as ranks:
        first = ranks is None or ranks.first
        display = Display(plain=True if given.plain else None, quiet=not first)
        if folder is None:
            run = job.begin(config, display, ranks=ranks)
        else:
            run = job.go_on(folder, display, _asked(given, folder.path / CONFIG), ranks)
    if run is not None:
        run.farewell()
    elif folder is not None and first:
        print(
            f"{folder.path}: is finished; nothing to do. Verify it: "
            f"python -m flexattn.replay {folder.path}"
        )
    return 0


def _asked(given: argparse.Namespace, kept: Path) -> Callable[[], Config] | None:
    """Reads the configuration that stands beside --resume; None where none does."""
    if not given.config and not given.overrides:
        return None
    from flexattn.config import load_config

    path = given.config[0] if given.config else str(kept)
    return lambda: load_config(path, given.overrides)


def _many(given: argparse.Namespace) -> int:
    from flexattn import seeds

    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("--seeds: goes without torchrun; --workers sets how many run at a time")
    if given.resume:
        raise ConfigError("--resume: goes with one run; the same --seeds command goes on by itself")
    if not given.config:
        raise ConfigError("--seeds: needs --config, such as --config configs/smoke.yaml")
    tasks = seeds.tasks(given.config, given.overrides, seeds.parse_seeds(given.seeds))
    display = seeds.Together(plain=True if given.plain else None)
    workers = seeds.workers(given.workers, tasks)
    if given.ray is None:
        return seeds.farewell(tasks, seeds.run_here(tasks, workers, display))
    from flexattn import cluster

    return seeds.farewell(tasks, cluster.run_on(given.ray, tasks, workers, display))


if __name__ == "__main__":
    sys.exit(main())
