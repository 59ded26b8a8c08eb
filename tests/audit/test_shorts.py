from __future__ import annotations

import hashlib
import random

import pytest

from flexattn.audit.sha256 import LANES
from flexattn.audit.shorts import FEW_LINES, shorts


def by_hashlib(data: bytes) -> bytes:
    lines = data.split(b"\n")
    whole = [line + b"\n" for line in lines[:-1]] + [lines[-1]] * bool(lines[-1])
    return b"".join(hashlib.sha256(line).digest()[:4] for line in whole)


@pytest.mark.parametrize("count", [0, 1, FEW_LINES, FEW_LINES + 1, FEW_LINES + LANES - 1])
def test_the_short_hashes_are_hashlibs(count: int) -> None:
    rng = random.Random(count)
    data = b"".join(
        rng.randbytes(rng.randrange(400)).replace(b"\n", b" ") + b"\n" for _ in range(count)
    )
    assert shorts(data) == by_hashlib(data)


def test_every_length_around_the_ends_of_blocks_is_padded_as_hashlib_does() -> None:
    sizes = [*range(400), 4096, 33_000, 1 << 17, *range(200)]
    data = b"".join(b"x" * size + b"\n" for size in sizes)
    assert len(sizes) > FEW_LINES
    assert shorts(data) == by_hashlib(data)


def test_a_last_line_without_a_newline_is_hashed_as_it_is() -> None:
    data = b"ab\n" * (FEW_LINES + 3) + b"torn"
    assert shorts(data) == by_hashlib(data)
