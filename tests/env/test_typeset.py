from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from flexattn.audit.lines import StepLines
from flexattn.env.collect import Taken
from flexattn.env.records import FLOATS, STEP, columns
from flexattn.env.typeset import Typesetter, typesetter_of
from flexattn.env.vocabulary import END, UNK
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


def rows_of(world: World, count: int, seed: int) -> npt.NDArray[Any]:
    """Steps in which everything happens that a line can say."""
    rng = np.random.default_rng(seed)
    rows = np.zeros(count, STEP)
    rows["char"] = rng.integers(0, world.vocabulary.alphabet, count)
    rows["char"][:2] = END, UNK
    other = rng.integers(0, world.vocabulary.alphabet, count)
    rows["written"] = np.where(rng.random(count) < 0.3, other, rows["char"])
    rows["term"] = rng.integers(-1, len(world.term_list), count)
    rows["n_legal"] = rng.integers(0, 10**5, count)
    rows["history"] = rng.integers(0, len(world.settings.history_chars), count)
    rows["cap"] = rng.integers(0, len(world.settings.hit_cap_chars), count)
    rows["illegal"] = rng.random(count) < 0.2
    for name in FLOATS:
        rows[name] = rng.normal(size=count) * 10.0 ** rng.integers(-9, 5, count)
        rows[name][rng.random(count) < 0.5] = 0.0
    return rows


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
