"""A checkpoint is a folder of two files, tensors.safetensors and state.json; never pickle.

It is written beside its place, flushed to disk and renamed, so that it is either whole or absent.
state.json holds the SHA-256 of the tensors, so that a damaged one is seen and skipped with a word.
torch is needed by whoever has networks to save alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from flexattn.errors import CheckpointError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

SCHEMA = "flexattn.checkpoint/1"


@dataclass(frozen=True)
class Checkpoint:
    """What a run needs to go on as if it had never stopped."""

    step: int
    arrays: dict[str, np.ndarray]
    state: dict[str, Any]

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """The arrays as tensors of the same memory."""
        import torch

        return {name: torch.from_numpy(values) for name, values in self.arrays.items()}

    def module(self, name: str) -> dict[str, Tensor]:
        """The state dict that was saved under `name`."""
        prefix = f"{name}."
        return {k.removeprefix(prefix): v for k, v in self.tensors.items() if k.startswith(prefix)}


def save(
    folder: Path,
    step: int,
    tensors: Mapping[str, Tensor | np.ndarray],
    state: Mapping[str, Any],
    keep: int,
) -> Path:
    """Write checkpoint `step` into `folder` and drop all but the newest `keep`.

    Returns: the checkpoint's own folder.
    """
    place = folder / f"step-{step:08d}"
    aside = folder / f".writing-{step:08d}"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    save_file(
        {name: _array(values) for name, values in tensors.items()},
        aside / "tensors.safetensors",
    )
    described = {
        "schema": SCHEMA,
        "step": step,
        "sha256": _sha256(aside / "tensors.safetensors"),
        **state,
    }
    described["state_sha256"] = _state_sha256(described)
    (aside / "state.json").write_text(json.dumps(described, ensure_ascii=False), encoding="utf-8")
    for file in aside.iterdir():
        _flush(file)
    shutil.rmtree(place, ignore_errors=True)
    aside.rename(place)
    _flush(folder)
    for old in _folders(folder)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return place


def load_newest(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest sound checkpoint, or None; and one line for each damaged one that was skipped."""
    skipped: list[str] = []
    for place in reversed(_folders(folder)):
        try:
            return load(place), skipped
        except CheckpointError as error:
            skipped.append(f"{error}; going back to the one before")
    return None, skipped


def load(place: Path) -> Checkpoint:
    """Read one checkpoint.

    Raises: CheckpointError where a file is missing, cut or was changed.
    """
    try:
        state = json.loads((place / "state.json").read_text(encoding="utf-8"))
        written = state.pop("state_sha256", None)  # checkpoints of earlier versions have none
        if written is not None and written != _state_sha256(state):
            raise CheckpointError(f"{place / 'state.json'}: was changed after writing")
        found, expected = _sha256(place / "tensors.safetensors"), state["sha256"]
        if found != expected:
            raise CheckpointError(
                f"{place / 'tensors.safetensors'}: SHA-256 is {found[:8]}, expected "
                f"{expected[:8]}; it was damaged"
            )
        return Checkpoint(int(state["step"]), load_file(place / "tensors.safetensors"), state)
    except CheckpointError:
        raise
    except (OSError, LookupError, TypeError, AttributeError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"{place}: is no whole checkpoint ({type(error).__name__})") from None


def module_tensors(name: str, module: nn.Module) -> dict[str, Tensor]:
    """A module's state dict with `name` in front of every key."""
    return {f"{name}.{key}": value for key, value in module.state_dict().items()}


def optimiser_tensors(name: str, optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Adam's moments and step counts as tensors."""
    state = optimiser.state_dict()["state"]
    return {
        f"{name}.{i}.{key}": value for i, entry in state.items() for key, value in entry.items()
    }


def restore_optimiser(name: str, optimiser: torch.optim.Optimizer, checkpoint: Checkpoint) -> None:
    """Put back what `optimiser_tensors` took."""
    entries: dict[int, dict[str, Tensor]] = {}
    for key, value in checkpoint.module(name).items():
        index, _, field = key.partition(".")
        entries.setdefault(int(index), {})[field] = value
    described = optimiser.state_dict()
    described["state"] = entries
    optimiser.load_state_dict(described)


class Learner(Protocol):
    """What every learner keeps; `Any` where each has networks of its own.

    Attributes:
      actor: the network that decides.
      critics: the networks that judge.
      target: their slow copy.
      actor_optimiser: Adam.
      critic_optimiser: Adam.
      log_alpha: log temperatures of the heads.
    """

    actor: Any
    critics: Any
    target: Any
    actor_optimiser: torch.optim.Adam
    critic_optimiser: torch.optim.Adam
    log_alpha: Tensor


def learner_tensors(learner: Learner) -> dict[str, Any]:
    """Everything that a learner needs to go on as if it had never stopped."""
    return {
        **module_tensors("actor", learner.actor),
        **module_tensors("critics", learner.critics),
        **module_tensors("target", learner.target),
        **optimiser_tensors("actor_optimiser", learner.actor_optimiser),
        **optimiser_tensors("critic_optimiser", learner.critic_optimiser),
        "log_alpha": learner.log_alpha,
    }


def restore_learner(learner: Learner, checkpoint: Checkpoint) -> None:
    """Put back what `learner_tensors` took; call it under `fitting`."""
    learner.actor.load_state_dict(checkpoint.module("actor"))
    learner.critics.load_state_dict(checkpoint.module("critics"))
    learner.target.load_state_dict(checkpoint.module("target"))
    restore_optimiser("actor_optimiser", learner.actor_optimiser, checkpoint)
    restore_optimiser("critic_optimiser", learner.critic_optimiser, checkpoint)
    learner.log_alpha.detach().copy_(checkpoint.tensors["log_alpha"])


@contextmanager
def fitting(checkpoint: Checkpoint) -> Iterator[None]:
    """What a checkpoint holds goes into what the configuration made.

    Raises: CheckpointError where it does not fit.
    """
    try:
        yield
    except (RuntimeError, KeyError, ValueError) as error:
        raise CheckpointError(
            f"checkpoint step {checkpoint.step} does not fit config.yaml: "
            f"{str(error).splitlines()[0]}"
        ) from None


def array_tensors(name: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Arrays with `name` in front of every key, packed words as int64 of the same bits."""
    tensors = {}
    for key, values in arrays.items():
        plain = values.view(np.int64) if values.dtype == np.uint64 else values
        tensors[f"{name}.{key}"] = np.ascontiguousarray(plain)
    return tensors


def restore_arrays(name: str, arrays: Mapping[str, np.ndarray], checkpoint: Checkpoint) -> None:
    """Copy what `array_tensors` took back into `arrays`, in place."""
    for key, values in arrays.items():
        plain = values.view(np.int64) if values.dtype == np.uint64 else values
        plain[...] = checkpoint.arrays[f"{name}.{key}"]


def _array(values: Tensor | np.ndarray) -> np.ndarray:
    if isinstance(values, np.ndarray):
        return values
    array: np.ndarray = values.detach().contiguous().cpu().numpy()
    return array


def _folders(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*")) if folder.is_dir() else []


def _state_sha256(state: Mapping[str, Any]) -> str:
    """Of a state as JSON with sorted keys, which writing and reading leave as it is."""
    text = json.dumps(json.loads(json.dumps(state)), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
