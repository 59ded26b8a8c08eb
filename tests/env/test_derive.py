from __future__ import annotations

from typing import Any

import numpy as np
import orjson
import pytest

from flexattn.audit.lines import StepLines
from flexattn.env.collect import EpisodeSteps
from flexattn.env.core import Core
from flexattn.env.derive import Deriver
from flexattn.env.difference import Logged, compare
from flexattn.env.world import World

ANSWERS = ["绿茶是一种茶叶，不经发酵。", "红茶是全发酵的茶叶。", "茶叶！"]
CASE: dict[str, Any] = {
    "answers": ANSWERS,
    "answer": 0,
    "terms": [
        {"term": t, "zipf": None} for t in ("绿茶", "红茶", "茶叶", "全发酵", "发酵", "是一种")
    ],
    "actions": [[2, 3, "茶"], [4, 6, "茶"]],
}


@pytest.fixture(scope="module")
def world() -> World:
    return World.from_case(CASE)


def episodes_of(world: World, count: int, seed: int) -> list[Logged]:
    """Answers written by a policy that copies with chance 0.8 and is legal else."""
    rng, lines, out = np.random.default_rng(seed), StepLines(), []
    core = Core(world, count, seed)
    core.reset(record_indices=rng.integers(0, len(world.records), count))
    steps = EpisodeSteps(core)
    running = np.ones(count, np.bool_)
    while running.any():
        active = running.copy()
        history, cap = (rng.integers(0, 2, count).astype(np.int32) for _ in range(2))
        target, legal, char = core.teacher(), core.legal(), core.sample_legal(rng)
        copied = (target < world.size) & (rng.random(count) < 0.8)
        copied &= legal[np.arange(count), np.minimum(target, world.size - 1)]
        char = np.where(copied, target, char).astype(np.int32)
        put = np.where((rng.random(count) < 0.1) & (target > 2) & (char > 2), target, -1)
        made = core.step(history, cap, char, put.astype(np.int32), active)
        steps.add(history, cap, made, active)
        for env in np.flatnonzero(active & (made.terminated | made.truncated)).tolist():
            ep = len(out)
            columns = {**steps.columns(env), "ep": [ep] * len(steps.columns(env)["step"])}
            data = b"".join(lines.lines(columns))
            out.append(Logged({**steps.header(env), "ep": ep}, data))
            running[env] = False
    return out


@pytest.mark.parametrize("lanes", [1, 3, 64])
def test_what_was_written_is_derived_byte_for_byte(world: World, lanes: int) -> None:
    episodes = episodes_of(world, 40, seed=lanes)
    assert sum(len(e.lines) for e in episodes) > 300
    assert Deriver(world, lanes).check(episodes) == []


def test_only_the_changed_episode_differs_and_only_its_first_step_is_named(world: World) -> None:
    episodes = episodes_of(world, 9, seed=2)
    lines = episodes[4].lines
    for t in (2, 3):
        step = orjson.loads(lines[t])
        lines[t] = orjson.dumps({**step, "reward": step["reward"] + 0.5}) + b"\n"
    episodes[4] = Logged(episodes[4].header, b"".join(lines))
    (found,) = Deriver(world, 4).check(episodes)
    assert (found.episode, found.step, found.code, found.field) == (4, 2, "number", "reward")
    assert found.logged == pytest.approx(found.derived + 0.5)


def test_an_episode_that_the_log_cuts_off_may_stop_short(world: World) -> None:
    whole = episodes_of(world, 1, seed=3)[0]
    for whole_log, codes in ((False, []), (True, ["episode-stops"])):
        part = Logged(whole.header, b"".join(whole.lines[:4]), whole=whole_log)
        assert [d.code for d in Deriver(world, 2).check([part])] == codes


def test_an_episode_without_steps_stops_at_its_header(world: World) -> None:
    whole = episodes_of(world, 1, seed=3)[0]
    (found,) = Deriver(world, 2).check([Logged(whole.header, b"")])
    assert (found.step, found.code) == (-1, "episode-stops")


def test_decisions_give_columns(world: World) -> None:
    episode = episodes_of(world, 1, seed=4)[0]
    steps = [orjson.loads(line) for line in episode.lines]
    names = ("Lh", "Lp", "a", "w", "note")
    decisions = {name: [step.get(name) for step in steps] for name in names}
    derived = Deriver(world, 2).derive(episode.header, decisions)
    assert StepLines().lines(derived) == episode.lines


def test_a_line_in_other_bytes_is_told_from_one_with_other_values() -> None:
    line = orjson.dumps({"step": 1}) + b"\n"
    assert compare(0, 0, line, {"step": 1}).code == "schema"  # the rest of its keys is missing
    assert compare(0, 0, b"{", {"step": 1}).code == "not-json"
    assert compare(0, 0, b"[1]\n", {"step": 1}).code == "schema"
