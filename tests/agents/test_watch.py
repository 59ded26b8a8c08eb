"""A collapsed head is reported once, with what to look at."""

from __future__ import annotations

import numpy as np
import torch

from flexattn.agents.networks import Actor, Sizes
from flexattn.agents.policy import Student
from flexattn.agents.watch import CollapseWatch
from flexattn.config import Config
from flexattn.env.core import Core
from flexattn.env.world import World
from flexattn.experience import write_answers


def test_a_head_forced_onto_one_value_is_reported_once(world: World, config: Config) -> None:
    torch.manual_seed(0)
    actor = Actor(Sizes.of(world), config.env, config.agent, config.attention)
    with torch.no_grad():
        actor.cap_head[-1].bias[2] += 50.0
    core = Core(world, 4, gain_by_cap=True)
    student = Student(actor, generator=torch.Generator().manual_seed(0))
    rollout = write_answers(core, world.train[:4], np.zeros(4, np.int64), student, None, None)
    watch, settings = CollapseWatch(), world.settings
    assert watch.see("Lh", settings.history_chars, rollout.history_share) is None
    warning = watch.see("Lp", settings.hit_cap_chars, rollout.cap_share)
    assert warning is not None
    assert warning.startswith(f"warning: Lp sits on {settings.hit_cap_chars[2]} in 100.0% of")
    assert "agent.kappa" in warning
    assert watch.see("Lp", settings.hit_cap_chars, rollout.cap_share) is None


def test_a_head_of_one_choice_cannot_collapse() -> None:
    assert CollapseWatch().see("Lh", (2,), np.array([1.0])) is None
