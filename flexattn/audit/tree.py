"""A segment's lines as the leaves of an RFC 6962 Merkle tree, hashed level by level.

The leaves are the lines' SHA-256, as those of the tree over the seals are the seals'. Pairing
neighbours from the left and passing on what is left over gives RFC 6962's tree of any size.
"""

from __future__ import annotations

import numpy as np

from flexattn.audit.digests import FEW, Digests, digests_of_rows
from flexattn.audit.merkle import EMPTY


def tree_root(leaves: Digests) -> bytes:
    """The root over `leaves`, [n, 32]."""
    return _levels(leaves)[-1][0].tobytes() if len(leaves) else EMPTY


def path_in_tree(leaves: Digests, at: int) -> list[bytes]:
    """The siblings that lead from leaf `at` to the root, from the leaf up."""
    path = []
    for level in _levels(leaves):
        if at ^ 1 < len(level):
            path.append(level[at ^ 1].tobytes())
        at >>= 1
    return path


def _levels(leaves: Digests) -> list[Digests]:
    """Nodes of each level, hashed leaves first, the root last; at least one leaf."""
    many = len(leaves) > FEW
    levels = [digests_of_rows(_marked(0, leaves), many)]
    while len(nodes := levels[-1]) > 1:
        pairs = nodes[: len(nodes) & ~1].reshape(-1, 64)
        joined = digests_of_rows(_marked(1, pairs), many)
        levels.append(np.concatenate([joined, nodes[2 * len(pairs) :]]))
    return levels


def _marked(kind: int, rows: Digests) -> Digests:
    """Each row behind the byte that tells leaves from nodes."""
    out = np.empty((len(rows), 1 + rows.shape[1]), np.uint8)
    out[:, 0], out[:, 1:] = kind, rows
    return out
