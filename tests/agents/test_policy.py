"""What enters a history in place of the student's own character."""

from __future__ import annotations

import numpy as np

from flexattn.agents.policy import NoiseWrites, TeacherWrites
from flexattn.env.core import Core
from flexattn.env.world import World


def test_noise_is_written_by_each_answers_share_and_the_teachers_character_beneath(
    world: World,
) -> None:
    count = len(world.train)
    core = Core(world, count)
    core.reset(record_indices=world.train)
    active = np.ones(count, np.bool_)
    char, teacher = core.sample_legal(np.random.default_rng(0)), core.teacher()
    alphabet = np.arange(10, 12, dtype=np.int32)
    shares = np.where(np.arange(count) % 2, 1.0, 0.0)
    beneath = TeacherWrites(1.0, np.random.default_rng(1))
    written = NoiseWrites(shares, alphabet, np.random.default_rng(2), beneath)(core, char, active)
    assert set(written[1::2].tolist()) == {10, 11}
    assert (written[::2] == teacher[::2]).all()
    alone = NoiseWrites(shares, alphabet, np.random.default_rng(2))(core, char, active)
    assert (alone[::2] == -1).all()
