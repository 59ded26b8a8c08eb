from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexattn.audit.chain import GENESIS, Chain, Seal, break_in, make_seal, read_seal
from flexattn.audit.schema import FORMS, SCHEMA

LINES = [b'{"step":%d}\n' % n for n in range(1, 8)]


def _seal(lines: list[bytes], form: str = SCHEMA) -> Seal:
    seal = read_seal(make_seal(0, 1, GENESIS, b"".join(lines), form)[0])
    assert isinstance(seal, Seal)
    return seal


def test_a_seal_says_what_sha256sum_says() -> None:
    line, name = make_seal(2, 9, "ab" * 32, b"".join(LINES))
    seal = read_seal(line)
    assert isinstance(seal, Seal)
    assert (seal.n, seal.first, seal.lines, seal.prev) == (2, 9, 7, "ab" * 32)
    assert seal.segment == hashlib.sha256(b"".join(LINES)).hexdigest()
    assert seal.short[8:12].hex() == hashlib.sha256(LINES[2]).hexdigest()[:8]
    assert name == hashlib.sha256(line[: line.index(b',"seal":')]).hexdigest() == seal.seal


@pytest.mark.parametrize(
    ("edit", "code", "index"),
    [
        (lambda x: x, None, 0),
        (lambda x: [*x[:3], b'{"step":9}\n', *x[4:]], "line-changed", 3),
        (lambda x: [*x[:3], *x[4:]], "line-missing", 3),
        (lambda x: x[:-1], "line-missing", 6),
        (lambda x: [*x[:3], x[2], *x[3:]], "line-inserted", 3),
        (lambda x: [b"{}\n", *x], "line-inserted", 0),
        (lambda x: [*x[:2], x[3], x[2], *x[4:]], "line-order", 2),
        (lambda x: [x[0][:-1] + x[1], *x[2:]], "line-changed", 0),
        (lambda x: [], "line-missing", 0),
    ],
    ids=[
        "sound",
        "changed",
        "dropped",
        "last-dropped",
        "doubled",
        "inserted",
        "swapped",
        "merged",
        "gone",
    ],
)
def test_what_was_done_to_a_segment_is_named_with_its_place(edit, code, index) -> None:
    found = break_in(b"".join(edit(list(LINES))), _seal(LINES))
    assert (found.code, found.index) == (code, index) if code else found is None


@given(st.integers(0, 600), st.integers(0, 7), st.sampled_from(FORMS))
def test_no_bit_of_a_seal_can_be_turned_unseen(place: int, bit: int, form: str) -> None:
    line = bytearray(make_seal(0, 1, GENESIS, b"".join(LINES), form)[0])
    place %= len(line) - 1
    line[place] ^= 1 << bit
    assert isinstance(read_seal(bytes(line)), str)


def test_a_tree_that_is_not_the_lines_is_named() -> None:
    seal = _seal(LINES)
    found = break_in(b"".join(LINES), replace(seal, tree="00" * 32))
    assert found is not None
    assert (found.code, found.expected) == ("segment-tree", "00000000")


def test_a_seal_of_the_older_form_has_no_tree() -> None:
    seal = _seal(LINES, FORMS[0])
    assert seal.tree is None
    assert seal.short == _seal(LINES).short
    assert break_in(b"".join(LINES), seal) is None


@pytest.mark.parametrize("new", [b"00000000", b"zz", b'","more":"'])
def test_the_list_of_a_seal_stands_behind_its_hash_and_is_vouched_for(new: bytes) -> None:
    line = make_seal(0, 1, GENESIS, b"".join(LINES))[0]
    at = line.index(b'"short":"') + 9
    assert isinstance(read_seal(line), Seal)
    assert isinstance(read_seal(line[:at] + new + line[at + len(new) :]), str)
    assert isinstance(read_seal(line[:at] + line[at + 8 :]), str)


def test_a_chain_links_its_seals() -> None:
    chain = Chain()
    chain.add(b"".join(LINES[:3]), 3)
    first = read_seal(chain.seal())
    chain.add(b"".join(LINES[3:]), 4)
    assert chain.next_line == 9
    second = read_seal(chain.seal())
    assert isinstance(first, Seal)
    assert isinstance(second, Seal)
    assert first.prev == GENESIS
    assert (
        second.prev
        == first.seal
        == hashlib.sha256(
            make_seal(0, 1, GENESIS, b"".join(LINES[:3]))[0].partition(b',"seal":')[0]
        ).hexdigest()
    )
    assert (second.n, second.first, second.lines) == (1, 5, 4)
    assert chain.prev == second.seal
