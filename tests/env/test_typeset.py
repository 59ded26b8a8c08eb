from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from rows_of_steps import rows_of

from flexattn.audit.lines import StepLines
from flexattn.env.collect import Taken
from flexattn.env.records import FLOATS, columns
from flexattn.env.typeset import Typesetter, typesetter_of
from flexattn.env.world import World
from flexattn.errors import AuditError

CASE: dict[str, Any] = {
    "answers": ['绿茶是"一种"茶叶\\，不经发酵。', "红茶是全发酵的茶叶！"],
    "answer": 0,
    "terms": [{"term": t, "zipf": None} for t in ("绿茶", '"一种"', "发酵", "是全发酵的茶叶")],
    "actions": [[2, 3, "茶"], [4, 6, "\n"]],
}


@pytest.fixture(scope="module")
def world() -> World:
    return World.from_case(CASE)


@pytest.mark.parametrize("seed", range(5))
def test_lines_are_byte_for_byte_those_of_the_columns(world: World, seed: int) -> None:
    rows = rows_of(world, 300, seed)
    slow = StepLines().lines(columns(world, rows, 7, 12))
    assert Taken(world, rows, 7).lines(12) == b"".join(slow)


def test_several_episodes_stand_one_behind_the_other(world: World) -> None:
    rows = np.stack([rows_of(world, 40, seed) for seed in range(3)])
    counts = np.array([40, 0, 17])
    made = Typesetter(world).lines(rows, counts, [(5, 0), (6, 1), (7, 2)])
    assert made is not None
    data, ends = made
    assert data[: ends[0]] == Taken(world, rows[0], 0).lines(5)
    assert ends[0] == ends[1]
    assert data[ends[1] :] == Taken(world, rows[2, :17], 2).lines(7)


def test_a_million_is_written_the_slow_way(world: World) -> None:
    rows = rows_of(world, 3, 1)
    rows["base"] = 1234567.5
    assert typesetter_of(world).lines(rows[None], np.array([3]), [(0, 0)]) is None
    assert Taken(world, rows, 0).lines(0).count(b'"base":1234567.5,') == 3


@pytest.mark.parametrize("name", FLOATS)
def test_nothing_that_is_no_number_is_printed(world: World, name: str) -> None:
    rows = rows_of(world, 3, 1)
    rows[name][1] = np.nan
    with pytest.raises(AuditError, match=r"NaN|nan"):
        Taken(world, rows, 0).lines(0)


def test_a_world_has_one_typesetter(world: World) -> None:
    assert typesetter_of(world) is typesetter_of(world)
