from __future__ import annotations

import numpy as np

from flexattn.env.core import Core
from flexattn.env.sketch import sketch_sequence
from flexattn.env.world import World


def test_a_whole_sequence_gives_the_numbers_of_stepping_bit_for_bit(world: World) -> None:
    core = Core(world, 6)
    core.reset(record_indices=np.arange(6))
    seen = []
    for _ in range(48):
        seen.append(core.observe().sketch)
        core.step(np.zeros(6), np.zeros(6), core.teacher())
    ids = np.stack([core.state.history[i, :48] for i in range(6)])
    whole = sketch_sequence(ids, world.settings.max_history, world.settings.sketch_dim)
    assert np.array_equal(np.stack(seen, axis=1), whole)
    assert np.abs(whole[:, -1]).sum() > 0


def test_the_history_in_view_is_not_in_the_sketch() -> None:
    ids = np.arange(3, 13)[None]
    sketch = sketch_sequence(ids, max_history=4, dim=8)
    assert not sketch[0, :5].any()
    assert np.abs(sketch[0, 5]).sum() == 2.0
