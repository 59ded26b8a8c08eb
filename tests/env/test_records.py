from __future__ import annotations

import numpy as np

from flexattn.audit.lines import StepLines
from flexattn.audit.schema import TRAIN_FIELDS, rounded
from flexattn.env.collect import EpisodeSteps
from flexattn.env.core import Core
from flexattn.env.records import FLOATS
from flexattn.env.world import World

EXAMPLE = "奥司他韦"


def write(world: World, n: int) -> tuple[EpisodeSteps, list[list[float]]]:
    core = Core(world, n)
    core.reset(record_indices=np.arange(n))
    steps = EpisodeSteps(core)
    rewards: list[list[float]] = [[] for _ in range(n)]
    rng = np.random.default_rng(4)
    while not core.state.done.all():
        active = ~core.state.done
        target = core.teacher()
        char = np.where(rng.random(n) < 0.8, target, rng.integers(3, world.size, n))
        written = np.where(rng.random(n) < 0.5, target, -1)
        out = core.step(np.zeros(n), np.full(n, 3), char, written, active)
        steps.add(np.zeros(n, np.int8), np.full(n, 3, np.int8), out, active)
        for i in np.flatnonzero(active):
            rewards[i].append(float(out.reward[i]))
    return steps, rewards


def test_columns_are_the_step_lines_keys_with_a_value_for_each_step(world: World) -> None:
    steps, rewards = write(world, 3)
    for env in range(3):
        columns = steps.columns(env, ep=9)
        assert list(columns) == [field.name for field in TRAIN_FIELDS]
        assert {len(column) for column in columns.values()} == {len(rewards[env])}
        assert columns["reward"] == [rounded(value) for value in rewards[env]]
        assert columns["step"] == list(range(1, len(rewards[env]) + 1))
        assert all(type(value) is float for name in FLOATS for value in columns[name])
        assert StepLines().lines(columns)


def test_a_hit_names_its_entry_and_its_steps(world: World) -> None:
    core = Core(world, 1)
    record = world.record_index(next(r.id for r in world.records if r.term == EXAMPLE))
    core.reset([0], [record])
    steps = EpisodeSteps(core)
    while not core.state.done[0]:
        out = core.step([0], [3], core.teacher())
        steps.add(np.zeros(1, np.int8), np.full(1, 3, np.int8), out, np.ones(1, np.bool_))
    columns = steps.columns(0)
    place = columns["seg"].index("神经氨酸酶")
    entry = world.term_list.index("神经氨酸酶")
    assert columns["file"][place] == f"medical.json#{world.entry_ids[entry]}"
    assert columns["pos"][place] == f"t{place}-{place + 4}"
    assert columns["len"][place] == 5
    assert columns["a"][-1] == ""
    assert columns["note"][-2:] == ["period", "end"]
    assert "".join(columns["a"]) == world.records[record].answer
    header = steps.header(0)
    assert header["record"] == world.records[record].id
    assert header["question"] == world.records[record].questions[0]


def test_a_replaced_and_an_overwritten_character_are_said(world: World) -> None:
    core = Core(world, 1)
    core.reset([0], [0])
    steps = EpisodeSteps(core)
    target = core.teacher()
    lowest = int(np.flatnonzero(core.legal()[0])[0])
    illegal = np.flatnonzero(~core.legal()[0])[-1:]
    out = core.step([0], [0], illegal, target)
    steps.add(np.zeros(1, np.int8), np.zeros(1, np.int8), out, np.ones(1, np.bool_))
    columns = steps.columns(0)
    assert columns["note"] == ["illegal"]
    assert columns["a"] == [world.vocabulary.char(lowest)]
    assert columns["w"] == [world.vocabulary.char(int(target[0]))]
