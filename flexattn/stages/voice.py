"""A trained run's student, whatever its stage; torch is loaded where a network speaks."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from flexattn.agents import checkpoint as checkpoints
from flexattn.agents.checkpoint import Checkpoint
from flexattn.audit.folder import RunFolder
from flexattn.domain import Domain
from flexattn.errors import CheckpointError
from flexattn.generation.sampling import Voice

if TYPE_CHECKING:
    from flexattn.agents.networks import Actor


def newest_checkpoint(run: RunFolder) -> Checkpoint:
    """The newest sound checkpoint of a training.

    Raises: CheckpointError where there is none.
    """
    saved, skipped = checkpoints.load_newest(run.path / "checkpoints")
    for line in skipped:
        print(f"warning: {line}", file=sys.stderr)
    if saved is None:
        raise CheckpointError(
            f"{run.path}: holds no checkpoint; train it first, or go on with --resume"
        )
    return saved


def voice_of(domain: Domain, saved: Checkpoint) -> Voice:
    """Who decides, as a checkpoint has it.

    Args:
      domain: what the student was trained on, under the catalog version it shall write under.
      saved: of the stage that the domain's configuration names.

    Raises: CheckpointError where the checkpoint does not fit.
    """
    stage = domain.config.stages.stage
    if stage == "a":
        from flexattn.stages.counted import counted_student

        counted = counted_student(domain.world, saved)
        return lambda choose, answers: counted(choose)
    if stage == "b":
        from flexattn.stages.steered import steered_student

        steered = steered_student(domain, saved)
        return lambda choose, answers: steered(choose)
    from flexattn.agents.ongoing import Ongoing

    actor = actor_of(domain, saved)
    return lambda choose, answers: Ongoing(actor, answers, choose=choose)


def actor_of(domain: Domain, saved: Checkpoint) -> Actor:
    """Stage C's network with a checkpoint's weights.

    Raises: CheckpointError where it has another shape.
    """
    import torch

    from flexattn.agents.networks import Actor, Sizes
    from flexattn.agents.prior import CountPrior

    config, world = domain.config, domain.world
    torch.set_num_threads(config.train.threads)
    actor = Actor(Sizes.of(world), config.env, config.agent, config.attention)
    try:
        actor.load_state_dict(saved.module("actor"))
    except RuntimeError:
        raise CheckpointError(
            f"checkpoint step {saved.step}: its network has another shape than this version "
            f"builds from config.yaml; use the version that trained it, or train again"
        ) from None
    actor.prior = CountPrior.of(config, world)
    return actor.eval()
