from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexattn.audit.merkle import (
    EMPTY,
    Frontier,
    consistency_proof,
    extends,
    includes,
    inclusion_proof,
    root_of,
)

# the eight leaves and the roots over the first n of them that implementations of RFC 6962 share
LEAVES = [bytes.fromhex(x) for x in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657",
                                     "606162636465666768696a6b6c6d6e6f")]  # fmt: skip
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


@pytest.mark.parametrize("size", range(9))
def test_the_roots_are_those_of_rfc_6962s_examples(size: int) -> None:
    assert root_of(LEAVES[:size]).hex() == ROOTS[size]
    assert EMPTY.hex() == ROOTS[0]


@given(st.integers(1, 70), st.data())
def test_every_leaf_has_a_proof_and_no_other_leaf_fits_it(size: int, data: st.DataObject) -> None:
    leaves = [bytes([n]) for n in range(size)]
    index = data.draw(st.integers(0, size - 1))
    proof, root = inclusion_proof(leaves, index), root_of(leaves)
    assert includes(leaves[index], index, size, proof, root)
    assert not includes(b"other", index, size, proof, root)
    for other in {(index + 1) % size, size - 1, 0} - {index}:
        assert not includes(leaves[index], other, size, proof, root)
    assert not includes(leaves[index], index, size, [*proof, root], root)
    assert not includes(leaves[index], size, size, proof, root)
    if proof:
        assert not includes(leaves[index], index, size, proof[:-1], root)


@given(st.integers(1, 70), st.data())
def test_growth_has_a_proof_and_nothing_else_fits_it(size: int, data: st.DataObject) -> None:
    leaves = [bytes([n]) for n in range(size)]
    old = data.draw(st.integers(1, size))
    proof = consistency_proof(leaves, old)
    before, after = root_of(leaves[:old]), root_of(leaves)
    assert extends(old, size, proof, before, after)
    assert not extends(0, size, proof, before, after)
    assert not extends(old, size, [*proof, after], before, after)
    if old < size:
        assert not extends(old, size, proof, after, before)
        assert not extends(old, size, proof[:-1], before, after)
        changed = [b"x", *leaves[1:]]
        assert not extends(old, size, consistency_proof(changed, old), before, root_of(changed))


@given(st.lists(st.binary(max_size=4), max_size=40))
def test_a_tree_can_grow_leaf_by_leaf(leaves: list[bytes]) -> None:
    tree = Frontier()
    for n, leaf in enumerate(leaves):
        assert tree.root() == root_of(leaves[:n])
        tree.add(leaf)
    assert tree.size == len(leaves)
