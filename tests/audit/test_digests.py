from __future__ import annotations

import hashlib
import random

import numpy as np
import pytest

from flexattn.audit.digests import FEW, digests, digests_of_rows
from flexattn.audit.sha256 import LANES


def by_hashlib(data: bytes) -> bytes:
    lines = data.split(b"\n")
    whole = [line + b"\n" for line in lines[:-1]] + [lines[-1]] * bool(lines[-1])
    return b"".join(hashlib.sha256(line).digest() for line in whole)


@pytest.mark.parametrize("count", [0, 1, FEW, FEW + 1, FEW + LANES - 1])
def test_the_hashes_are_hashlibs(count: int) -> None:
    rng = random.Random(count)
    data = b"".join(
        rng.randbytes(rng.randrange(400)).replace(b"\n", b" ") + b"\n" for _ in range(count)
    )
    assert digests(data).tobytes() == by_hashlib(data)


def test_every_length_around_the_ends_of_blocks_is_padded_as_hashlib_does() -> None:
    sizes = [*range(400), 4096, 33_000, 1 << 17, *range(200)]
    data = b"".join(b"x" * size + b"\n" for size in sizes)
    assert len(sizes) > FEW
    assert digests(data).tobytes() == by_hashlib(data)


def test_a_last_line_without_a_newline_is_hashed_as_it_is() -> None:
    data = b"ab\n" * (FEW + 3) + b"torn"
    assert digests(data).tobytes() == by_hashlib(data)


@pytest.mark.parametrize("count", [0, 3, FEW + 5])
def test_rows_are_hashed_one_by_one(count: int) -> None:
    rows = np.random.default_rng(count).integers(0, 256, (count, 65)).astype(np.uint8)
    wanted = [hashlib.sha256(row[::-1].tobytes()).digest() for row in rows]
    for many in (False, True):
        assert digests_of_rows(rows[:, ::-1], many).tobytes() == b"".join(wanted)
