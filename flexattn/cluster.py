"""The same runs as `seeds`, on a Ray cluster: one task a run, and Ray starts a lost one again.

A task brings the run of a configuration to its end wherever it stands, so a task that lost its
worker goes on from the run's newest checkpoint. Run folders lie on a file system that every node
sees, at the same path; corpora and catalogs are read from there, too.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flexattn.config import dump_config, parse_config
from flexattn.display import Display, Together
from flexattn.errors import ConfigError, FlexAttnError, MissingExtraError
from flexattn.seeds import FAILURES, SAID, Task, skip

LOOK_EVERY_S = 1.0
KNOCK_S = 5.0
NOISE = {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}  # else Ray warns of its own next default


def run_on(
    address: str, found: Sequence[Task], side_by_side: int, display: Together
) -> dict[Task, str]:
    """Bring every run to its end on a cluster.

    Args:
      address: of the cluster, such as auto or ray://head:10001; local: one on this machine.
      found: the runs.
      side_by_side: CPUs of the cluster where it is `local`.
      display: where progress is shown.

    Returns: the runs that were given up, and why.
    Raises: MissingExtraError without Ray; ConfigError where there is no cluster at the address.
    """
    left = [task for task in found if not skip(task, display)]
    if not left:
        return {}
    ray, ours = _connect(address, side_by_side)
    given_up: dict[Task, str] = {}
    try:
        waiting = {_submit(ray, task): task for task in left}
        with display:
            for task in left:
                display.begun(task.name)
            while waiting:
                ended, _ = ray.wait(list(waiting), timeout=LOOK_EVERY_S)
                for reference in ended:
                    task = waiting.pop(reference)
                    reason = _outcome(ray, reference, task)
                    if reason is None:
                        display.finished(task.name, task.steps)
                    else:
                        given_up[task] = reason
                        display.gone(task.name)
                for task in waiting.values():
                    display.reached(task.name, task.newest(), 0)
                display.show()
    finally:
        if ours:
            ray.shutdown()
    return given_up


def train(text: str, folder: str) -> str | None:
    """A task: bring the run of a configuration to its end.

    Args:
      text: the complete configuration, YAML.
      folder: the working folder that its paths are relative to.

    Returns: why the run was refused, None where it came to its end.
    """
    os.chdir(folder)
    config = parse_config(text, "the task")
    path = Path(config.run.folder) / config.run.name
    path.mkdir(parents=True, exist_ok=True)
    with (path / SAID).open("a") as said:
        kept = sys.stdout
        sys.stdout = said
        try:
            from flexattn import job  # here: a node loads it, the watching process does not

            job.finish(config, Display(plain=True))
        except FlexAttnError as error:
            return str(error)
        finally:
            sys.stdout = kept
    return None


def _connect(address: str, side_by_side: int) -> tuple[Any, bool]:
    """Ray, and whether it was connected here rather than before."""
    try:
        os.environ.update({name: os.environ.get(name, value) for name, value in NOISE.items()})
        import ray
    except ImportError:
        raise MissingExtraError("--ray", "ray") from None
    if ray.is_initialized():
        return ray, False
    how = {"num_cpus": side_by_side} if address == "local" else {"address": address}
    try:
        _knock(address)
        ray.init(**how, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"--ray {address}: no cluster answers there ({reason}); expected an address such as "
            f"auto, ray://host:10001 or local"
        ) from None
    return ray, True


def _knock(address: str) -> None:
    """Somebody listens at host:port; Ray itself would try for a minute.

    Raises: OSError where nobody does.
    """
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=KNOCK_S).close()


def _submit(ray: Any, task: Task) -> Any:
    section = task.config.train
    task_of = ray.remote(
        num_cpus=section.threads,
        num_gpus=1 if section.device == "cuda" else 0,
        max_retries=FAILURES,
    )(train)
    return task_of.options(name=task.name).remote(dump_config(task.config), str(Path.cwd()))


def _outcome(ray: Any, reference: Any, task: Task) -> str | None:
    """Why a run is given up, None where it came to its end."""
    try:
        reason: str | None = ray.get(reference)
    except ray.exceptions.RayError as error:
        last = str(error).strip().splitlines()[-1]
        return f"{task.path}: {last}; {task.path / SAID} says more"
    return reason
