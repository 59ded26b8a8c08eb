from __future__ import annotations

import numpy as np
import pytest

from flexattn.audit.merkle import includes, inclusion_proof, root_of
from flexattn.audit.tree import path_in_tree, tree_root


@pytest.mark.parametrize("count", [*range(18), 511, 513, 1100])
def test_roots_and_paths_are_rfc_6962s(count: int) -> None:
    leaves = np.random.default_rng(count).integers(0, 256, (count, 32)).astype(np.uint8)
    texts = [leaf.tobytes() for leaf in leaves]
    root = tree_root(leaves)
    assert root == root_of(texts)
    for at in {*range(min(count, 18)), count - 1} if count else ():
        path = path_in_tree(leaves, at)
        assert path == inclusion_proof(texts, at)
        assert includes(texts[at], at, count, path, root)
