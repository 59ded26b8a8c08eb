"""RFC 8785's number table: a fixed sequence of doubles, their canonical forms with known sums."""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Iterator
from itertools import islice

import pytest

from flexattn.audit.chain import canonical

# -1.0e21/3 and on, each a tenth of the one before, as IEEE-754 bits; their positives follow
THIRDS = """
c46696695dbd1cc3 c43211ede4974a35 c3fce97ca0f21056 c3c7213080c1a6ac c39280f39a348556
c35d9b1f5d20d557 c327af4c4a80aaac c2f2f2a36ecd5556 c2be51057e155558 c28840d131aaaaac
c253670dc1555557 c21f0b4935555557 c1e8d5d42aaaaaac c1b3de4355555556 c17fca0555555556
c1496e6aaaaaaaab c114585555555555 c0e046aaaaaaaaab c0aa0aaaaaaaaaaa c074d55555555555
c040aaaaaaaaaaab c00aaaaaaaaaaaab bfd5555555555555 bfa1111111111111 bf6b4e81b4e81b4f
bf35d867c3ece2a5 bf0179ec9cbd821e becbf647612f3696 be965e9f80f29212 be61e54c672874db
be2ca213d840baf8 bdf6e80fe033c8c6 bdc2533fe68fd3d2 bd8d51ffd74c861c bd5774ccac3d3817
bd22c3d6f030f9ac bcee0624b3818f79 bcb804ea293472c7 bc833721ba905bd3 bc4ebe9c5db3c61e
bc18987d17c304e5 bbe3ad30dfcf371d bbaf7b816618582f bb792f9ab81379bf bb442615600f9499
bb101e77800c76e1 bad9ca58cce0be35 baa4a1e0a3e6fe90 ba708180831f320d ba3a68cd9e985016"""
EDGES = """
4024000000000000 4014000000000000 3fe0000000000000 3fa999999999999a 3f747ae147ae147b
3f40624dd2f1a9fc 3f0a36e2eb1c432d 3ed4f8b588e368f1 3ea0c6f7a0b5ed8d 3e6ad7f29abcaf48
3e35798ee2308c3a 3ed539223589fa95 3ed4ff26cd5a7781 3ed4f95a762283ff 3ed4f8c60703520c
3ed4f8b72f19cd0d 3ed4f8b5b31c0c8d 3ed4f8b58d1c461a 3ed4f8b5894f7f0e 3ed4f8b588ee37f3
3ed4f8b588e47da4 3ed4f8b588e3849c 3ed4f8b588e36bb5 3ed4f8b588e36937 3ed4f8b588e368f8
3ed4f8b588e368f1 3ff0000000000000 bff0000000000000 bfeffffffffffffa bfeffffffffffffb
3feffffffffffffa 3feffffffffffffb 3feffffffffffffc 3feffffffffffffe bfefffffffffffff
bfefffffffffffff 3fefffffffffffff 3fefffffffffffff 3fd3333333333332 3fd3333333333333
3fd3333333333334 0010000000000000 000ffffffffffffd 000fffffffffffff 7fefffffffffffff
ffefffffffffffff 4340000000000000 c340000000000000 4430000000000000 44b52d02c7e14af5
44b52d02c7e14af6 44b52d02c7e14af7 444b1ae4d6e2ef4e 444b1ae4d6e2ef4f 444b1ae4d6e2ef50
3eb0c6f7a0b5ed8c 3eb0c6f7a0b5ed8d 41b3de4355555553 41b3de4355555554 41b3de4355555555
41b3de4355555556 41b3de4355555557 becbf647612f3696 43143ff3c1cb0959"""


def doubles() -> Iterator[int]:
    """Bits of the sequence: edge cases, 2000 doubles from the smallest normal one, a hash chain."""
    thirds = [int(x, 16) for x in THIRDS.split()]
    yield from (0, 1 << 63, 1, 1 << 63 | 1)
    yield from thirds
    yield from (x ^ 1 << 63 for x in thirds)
    yield from (int(x, 16) for x in EDGES.split())
    yield from range(0x0010000000000000, 0x0010000000000000 + 2000)
    block = bytes(32)
    while True:
        block = hashlib.sha256(block).digest()
        for bits in struct.unpack("<4Q", block):
            value = struct.unpack("<d", struct.pack("<Q", bits))[0]
            if value and math.isfinite(value):
                yield bits


@pytest.mark.parametrize(
    ("count", "sha"),
    [
        (1_000, "be18b62b6f69cdab33a7e0dae0d9cfa869fda80ddc712221570f9f40a5878687"),
        (10_000, "b9f7a8e75ef22a835685a52ccba7f7d6bdc99e34b010992cbc5864cd12be6892"),
        pytest.param(
            100_000,
            "22776e6d4b49fa294a0d0f349268e5c28808fe7e0cb2bcbe28f63894e494d4c7",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_numbers_are_written_as_rfc_8785_says(count: int, sha: str) -> None:
    digest = hashlib.sha256()
    for bits in islice(doubles(), count):
        value = struct.unpack("<d", struct.pack("<Q", bits))[0]
        digest.update(b"%x,%b\n" % (bits, canonical(value)))
    assert digest.hexdigest() == sha


def test_keys_are_sorted_by_utf_16_units_and_nothing_is_escaped_that_need_not_be() -> None:
    value = {"\U0001f600": 1, "\ufb33": 2, "€": '\u20ac$\u000f\nA\'B"\\\\"/', "1": [None, True]}
    assert canonical(value).decode() == (
        '{"1":[null,true],"€":"€$\\u000f\\nA\'B\\"\\\\\\\\\\"/","\U0001f600":1,"\ufb33":2}'
    )


@pytest.mark.parametrize("value", [2**53, float("nan"), float("inf"), {1: 2}, "\ud800"])
def test_what_has_no_canonical_form_is_refused(value: object) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        canonical(value)
