from __future__ import annotations

import random
from typing import Any

import orjson
import pytest
from rows_of_steps import rows_of

from flexattn.env.collect import Taken
from flexattn.env.scan import Scanner
from flexattn.env.world import World

CASE: dict[str, Any] = {
    "answers": ["绿茶是一种茶叶，不经发酵。", "红茶aé𠮷是全发酵的茶叶！"],
    "answer": 0,
    "terms": [{"term": t, "zipf": None} for t in ("绿茶", "一种", "发酵", "是全发酵的茶叶")],
    "actions": [[2, 3, "茶"], [4, 6, "茶"]],
}


@pytest.fixture(scope="module")
def world() -> World:
    return World.from_case(CASE)


ROOM = 256


def read(scanner: Scanner, *episodes: bytes) -> list[list[tuple[int, ...]] | None]:
    """What each episode decided, a tuple for each step; None where the scanner gives up."""
    decided = scanner.read(episodes, ROOM)
    return [
        None
        if count < 0
        else [tuple(col[t, n].item() for col in decided[:5]) for t in range(count)]
        for n, count in enumerate(decided.counts.tolist())
    ]


def lines_of(world: World, seed: int) -> list[bytes]:
    rows = rows_of(world, 200, seed)
    rows["char"][rows["char"] < 3] = 1
    rows["written"][rows["written"] < 3] = 1
    return Taken(world, rows, 0).lines(3).splitlines(True)


@pytest.mark.parametrize("seed", range(3))
def test_what_is_read_is_what_a_json_parser_reads(world: World, seed: int) -> None:
    lines = lines_of(world, seed)
    (decided,) = read(Scanner(world), b"".join(lines))
    assert decided is not None
    settings, ids = world.settings, {"": 1, **world.vocabulary.ids}
    for line, (history, cap, char, written, illegal) in zip(lines, decided, strict=True):
        step = orjson.loads(line)
        assert settings.history_chars[history] == step["Lh"]
        assert settings.hit_cap_chars[cap] == step["Lp"]
        assert ids[step["a"]] == char
        assert (ids[step["w"]] if "w" in step else -1) == written
        assert (step.get("note") == "illegal") == illegal


@pytest.mark.parametrize(
    "change",
    [
        lambda line: line.replace(b'{"step"', b'{ "step"'),
        lambda line: line.replace(b',"Lh"', b',"lh"'),
        lambda line: line.replace(b',"Lp":', b',"Lp":99'),
        lambda line: line.replace(b',"Lh":', b',"Lh":-'),
        lambda line: b'{"step":1,"Lh":2,"Lp":3,"a":"\\n","seg":"-","n_legal":1}\n',
        lambda line: b'{"step":1,"Lh":2,"Lp":3,"a":"\xe7\xa3\xb7","seg":"-","n_legal":1}\n',
        lambda line: b'{"step":1,"Lh":2,"Lp":3,"a":"\xf0',
        lambda line: b'{"step":1,"Lh":2,"Lp":3,"a":"',
        lambda line: b"{",
        lambda line: b"\n",
        lambda line: b'{"step":' + b"9" * 40,
    ],
    ids=["blank", "key", "choice", "minus", "escape", "unknown", "torn-character", "torn", "brace",
         "empty", "digits"],
)  # fmt: skip
def test_anything_unusual_is_left_to_the_slow_way(world: World, change: Any) -> None:
    lines = lines_of(world, 1)[:4]
    odd, sound = b"".join([*lines[:3], change(lines[3])]), b"".join(lines)
    found = read(Scanner(world), sound, odd, b"", sound)
    assert found[1] is None
    assert found[0] == found[3] != []
    assert found[2] == []


def test_an_episode_may_be_as_long_as_there_is_room_and_no_longer(world: World) -> None:
    lines = (lines_of(world, 1) * 2)[: ROOM + 1]
    short, long = read(Scanner(world), b"".join(lines[:ROOM]), b"".join(lines))
    assert short is not None
    assert len(short) == ROOM
    assert long is None


def test_damaged_lines_are_read_as_something_possible_or_not_at_all(world: World) -> None:
    rng, scanner, lines = random.Random(4), Scanner(world), lines_of(world, 2)[:3]
    for _ in range(3000):
        data = bytearray(rng.choice(lines))
        for _ in range(rng.randrange(1, 4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        (decided,) = read(scanner, bytes(data[: rng.randrange(1, len(data) + 1)]) + b"\n")
        for history, cap, char, written, _ in decided or ():
            assert 0 <= history < len(world.settings.history_chars)
            assert 0 <= cap < len(world.settings.hit_cap_chars)
            assert 0 <= char < world.vocabulary.alphabet
            assert -1 <= written < world.vocabulary.alphabet
