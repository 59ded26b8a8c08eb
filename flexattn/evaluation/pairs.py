"""What written answers earn under every fixed pair (Lh, Lp), derived again without a network.

Without reinforcement learning Lp reaches no character: a student cloned under (Lh, 3) writes what
it would write under (Lh, 6). So one training stands for all pairs with its Lh, and what each pair
would have been credited and charged for the same text follows from the step's own arithmetic.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from flexattn.env.core import Core
from flexattn.env.vocabulary import END
from flexattn.env.world import World
from flexattn.evaluation.rows import Row

Floats = npt.NDArray[np.float64]
Pair = tuple[int, int]


def net_lexical(world: World, rows: Sequence[Row]) -> Mapping[Pair, Floats]:
    """Sum(ler) - sum(len_cost) of each answer under every pair of the world's H x P, [N] reward.

    Args:
      world: corpus, catalog and rules that credit and charge.
      rows: answers without noise: what was emitted is what was written.
    """
    settings = world.settings
    records = [world.record_index(row.record) for row in rows]
    size = world.answers.size[records]
    texts = [[world.vocabulary.ids[char] for char in row.output] for row in rows]
    # an answer that fills its limit was cut off there; any other wrote the end
    ended = np.array([len(text) for text in texts]) < size + settings.slack
    steps = np.array([len(text) for text in texts]) + ended
    chars = np.full((int(steps.max(initial=0)), len(rows)), END, np.int32)
    for n, text in enumerate(texts):
        chars[: len(text), n] = text
    zeros = np.zeros(len(rows), np.int32)
    found: dict[Pair, Floats] = {}
    for p, cap in enumerate(settings.hit_cap_chars):
        core = Core(world, len(rows))
        core.reset(record_indices=records)
        earned = np.zeros(len(rows))
        for t, char in enumerate(chars):
            active = t < steps
            made = core.step(zeros, zeros + p, char, active=active, enforce=False)
            earned += np.where(active, made.ler, 0.0)
        for h, history in enumerate(settings.history_chars):
            found[history, cap] = earned - steps * world.terms.cost[h, p]
    return found
