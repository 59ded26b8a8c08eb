"""A run's training by its stage; torch is loaded where a network is trained."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from flexattn.agents.checkpoint import Checkpoint
from flexattn.agents.decision import Choose
from flexattn.audit.writer import RunLog
from flexattn.config import Config
from flexattn.display import Display
from flexattn.env.world import World
from flexattn.episode import Policy
from flexattn.errors import ConfigError, MissingExtraError
from flexattn.live import LiveCatalogs

if TYPE_CHECKING:
    from flexattn.agents.ranks import Ranks


class Trainer(Protocol):
    """What a run needs of a training.

    Attributes:
      world: tables under the catalog version in force.
      step: steps done.
    """

    world: World
    step: int

    @property
    def characters(self) -> int:
        """Written, cloned or counted so far."""

    @property
    def total(self) -> int:
        """Steps of the whole run."""

    def run(self) -> Iterator[int]:
        """Do the steps that are left; yields after each."""

    def student(self, choose: Choose | None = None) -> Policy:
        """The student as it stands."""

    def save(self, folder: Path, extra: dict[str, Any]) -> Path:
        """Write a checkpoint."""

    def restore(self, saved: Checkpoint) -> None:
        """Go back to a checkpoint."""

    def resume_catalogs(self, saved: Checkpoint | None) -> None:
        """Go back to its catalog version."""


def trainer_of(
    config: Config,
    world: World,
    log: RunLog | None,
    display: Display,
    live: LiveCatalogs | None,
    ranks: Ranks | None = None,
) -> Trainer:
    """The training that `stages.stage` asks for.

    Raises: ConfigError where several ranks train a stage that has one alone.
    """
    if ranks is not None and config.stages.stage != "c":
        raise ConfigError(
            f"stages.stage is {config.stages.stage} under torchrun, expected c; leave torchrun away"
        )
    if config.stages.stage == "a":
        from flexattn.stages.counted import CountedTraining

        assert log is not None  # what a first rank has
        assert live is not None
        return CountedTraining(config, world, log, display, live)
    import torch

    device = torch.device(config.train.device)
    if config.stages.stage == "b":
        from flexattn.stages.steered import SteeredTraining

        assert log is not None
        assert live is not None
        return SteeredTraining(config, world, log, display, device, live)
    from flexattn.agents.ranks import ALONE

    if device.type == "cuda":
        if find_spec("triton") is None:
            raise MissingExtraError("train.device: cuda", "triton")
        from flexattn.resident import ResidentTraining

        return ResidentTraining(config, world, log, display, device, ranks or ALONE)
    from flexattn.training import Training

    return Training(config, world, log, display, device, live, ranks or ALONE)
