from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from flexattn.config import load_config
from flexattn.env.core import Core
from flexattn.env.lexical import open_world
from flexattn.env.world import World
from flexattn.evaluation import optimum, pairs
from flexattn.evaluation.optimum import Rules
from flexattn.evaluation.rows import Decisions, Row, Scorer

CONFIG = load_config(Path(__file__).parents[2] / "configs" / "medical.yaml", ["corpus.records=24"])


@pytest.fixture(scope="module")
def world() -> World:
    return open_world(CONFIG)


def written(world: World, record: int, history: int, cap: int, wrong: int, slack: bool) -> Row:
    """An answer that copies the teacher but for one character, with one pair throughout."""
    core = Core(world, 1)
    core.reset(record_indices=[record])
    size = int(world.answers.size[record])
    rng = np.random.default_rng(record)
    ler, cost = [], []
    while not core.state.done[0]:
        t = int(core.state.t[0])
        char = int(core.teacher()[0]) if not (slack and t >= size) else int(world.answer(record)[0])
        if t == wrong:
            char = int(rng.integers(5, world.size))
        steps = core.step([history], [cap], [char], enforce=False)
        ler.append(float(steps.ler[0]))
        cost.append(float(steps.len_cost[0]))
    settings, answer = world.settings, world.records[record].answer
    n = len(ler)
    made = Decisions(
        [settings.history_chars[history]] * n, [settings.hit_cap_chars[cap]] * n,
        list(range(n)), ["-"] * n, ler, cost,
    )  # fmt: skip
    scorer = Scorer.of([answer], {"抑制剂": 1}, settings.lengths, settings.hit_cap_chars)
    text = world.vocabulary.decode(core.written(0))
    return scorer.row("greedy", 1, world.records[record].id, "?", text, answer, made)


@pytest.mark.parametrize("slack", [False, True], ids=["ended", "cut off at the limit"])
@pytest.mark.parametrize(("history", "cap"), [(0, 0), (2, 3)])
def test_the_pair_that_was_played_gives_the_figure_that_was_logged(
    world: World, history: int, cap: int, slack: bool
) -> None:
    rows = [
        written(world, int(record), history, cap, wrong=10 + n, slack=slack)
        for n, record in enumerate(world.train[:6])
    ]
    settings = world.settings
    found = pairs.net_lexical(world, rows)
    logged = [row.kpis["net_lexical"] for row in rows]
    pair = (settings.history_chars[history], settings.hit_cap_chars[cap])
    assert found[pair].tolist() == pytest.approx(logged, abs=1e-9)
    assert len(found) == 16


def test_copying_earns_what_the_written_rules_say_under_every_pair(world: World) -> None:
    rows = [written(world, int(record), 0, 0, wrong=-1, slack=False) for record in world.train[:3]]
    weights = dict(zip(world.term_list, world.terms.weight.tolist()))
    rules = Rules.of(weights, [world.records[r].answer for r in world.train], CONFIG)
    found = pairs.net_lexical(world, rows)
    for (history, cap), values in found.items():
        for row, value in zip(rows, values.tolist()):
            caps = [cap] * (len(row.reference) + 1)
            told = optimum.copied(row.reference, caps, history, rules)
            assert value == pytest.approx(told, abs=1e-9)
