"""All terms in one frozen trie: the longest capped hit at every place, and who completes a tail.

Forwards (`TermIndex`), the hit of a place is found by one probe of a bigram bitmap and, where that
bigram starts a term, a walk. Backwards (`TailIndex`), a teacher's future y_{p+1}..y_{p+L-1}, read
from its end, leads to one node; its children that end a term are exactly the characters which would
complete one of length L. `reference` is the definition.

Nodes are numbered breadth first, so the children of a node stand side by side, in the order of
their characters' codes; codes run by decreasing frequency, which keeps the busy part of the bitmap
small. A node is one 64-bit word: first child (31 bits), number of children (16), "a term ends here"
(1), code of its character (16). Nothing is written after the build; every method may run in any
thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from flexattn.errors import CatalogError
from flexattn.lexicon.bits import popcount
from flexattn.lexicon.columns import Terms, points_of
from flexattn.lexicon.compiled import compiled

Ids = npt.NDArray[np.int32]
Places = npt.NDArray[np.int64]

MAX_CODES = (1 << 16) - 1
POINTS = 0x110000
BLOCK = 2048  # places whose candidates are kept at once

_CODE = np.uint64(0xFFFF)
_ENDS = np.uint64(1 << 16)
_COUNT_SHIFT, _FIRST_SHIFT = np.uint64(17), np.uint64(33)
_ONE_CHILD = np.uint64(1 << 17)
_MIX, _TOP = np.uint64(0x9E3779B97F4A7C15), np.uint64(40)
_SIX, _SIXTEEN, _63 = np.uint64(6), np.uint64(16), np.uint64(63)
_0, _1 = np.uint64(0), np.uint64(1)


class Trie(NamedTuple):
    """Frozen arrays; B codes, node numbers 0..B are the first characters.

    Args:
      code_of: [POINTS] uint16, code of a code point, 0 where no term has it.
      point_of: [B + 1] uint32, code point of a code.
      bitmap: [(B + 1) * stride] uint64, bigrams that start a term.
      rank: [(B + 1) * stride] uint32, set bits before each word.
      node: [nodes] uint64, see the module's docstring.
      term: [nodes] int32, index of the term that ends here, -1 for none.
      edges: [power of 2] uint64, hashed bits of (parent, code) for all deeper children; most walks
        end at a bit that isn't set, before any child is compared.
      stride: words of one bitmap row.
      longest: characters of the longest term.
    """

    code_of: npt.NDArray[np.uint16]
    point_of: npt.NDArray[np.uint32]
    bitmap: npt.NDArray[np.uint64]
    rank: npt.NDArray[np.uint32]
    node: npt.NDArray[np.uint64]
    term: Ids
    edges: npt.NDArray[np.uint64]
    stride: int
    longest: int

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(part.nbytes for part in self if isinstance(part, np.ndarray))


def _build(terms: Sequence[str], backwards: bool) -> Trie:
    """Build the trie of the terms, or of the terms read backwards.

    Raises: CatalogError where terms have more than 65,535 different characters.
    """
    spelled = Terms.of(terms)
    points, lengths = spelled.points, spelled.size
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    frequency = np.bincount(points, minlength=1)
    used = np.flatnonzero(frequency)
    if len(used) > MAX_CODES:
        raise CatalogError(
            f"catalog: terms have {len(used):,} different characters, expected at most "
            f"{MAX_CODES:,}"
        )
    used = used[np.argsort(-frequency[used], kind="stable")]
    code_of = np.zeros(POINTS, np.uint16)
    code_of[used] = np.arange(1, len(used) + 1)
    point_of = np.concatenate([[0], used]).astype(np.uint32)
    codes = code_of[points]
    del points, frequency
    longest = int(lengths.max(initial=1))
    keys = np.zeros(((longest + 3) // 4, len(lengths)), np.uint64)
    _pack_keys(codes, offsets, backwards, keys)
    order = np.lexsort(keys[::-1]) if len(keys) > 1 else np.argsort(keys[0], kind="stable")
    del keys
    shared = np.zeros(len(lengths), np.int64)
    added = np.zeros(longest + 2, np.int64)
    _shared_prefixes(codes, offsets, order, backwards, shared, added)
    added[1] = len(used) + 1
    first = np.concatenate([[0], np.cumsum(added)]).astype(np.int64)  # first[d]: nodes of depth < d
    node = np.zeros(first[-1], np.uint64)
    term = np.full(first[-1], -1, np.int32)
    node[: len(used) + 1] = np.arange(len(used) + 1, dtype=np.uint64)
    stride = (len(used) + 64) // 64
    bitmap = np.zeros((len(used) + 1) * stride, np.uint64)
    edges = np.zeros(1 << max(4, int(first[-1]).bit_length() - 3), np.uint64)  # 8 to 16 bits each
    _grow(
        codes, offsets, order, shared, backwards, first[:-1].copy(), stride,
        node, term, bitmap, edges,
    )  # fmt: skip
    ones = np.bitwise_count(bitmap).astype(np.uint32)
    rank = np.cumsum(ones, dtype=np.uint32) - ones
    return Trie(code_of, point_of, bitmap, rank, node, term, edges, stride, longest)


@compiled(allocates=True)
def _pack_keys(codes: Any, offsets: Any, backwards: Any, keys: Any) -> None:
    """Four codes a word, the first one highest, so that keys sort as the terms do."""
    for i in range(offsets.shape[0] - 1):
        start, stop = offsets[i], offsets[i + 1]
        for j in range(stop - start):
            code = codes[stop - 1 - j] if backwards else codes[start + j]
            keys[j >> 2, i] |= np.uint64(code) << np.uint64(48 - 16 * (j & 3))


@compiled(allocates=True)
def _shared_prefixes(
    codes: Any, offsets: Any, order: Any, backwards: Any, shared: Any, added: Any
) -> None:
    """Characters that each term shares with the one before it, and new nodes at each depth."""
    for n in range(order.shape[0]):
        start, stop = offsets[order[n]], offsets[order[n] + 1]
        same = 0
        if n > 0:
            begin, end = offsets[order[n - 1]], offsets[order[n - 1] + 1]
            most = min(stop - start, end - begin)
            while same < most:
                if backwards:
                    if codes[stop - 1 - same] != codes[end - 1 - same]:
                        break
                elif codes[start + same] != codes[begin + same]:
                    break
                same += 1
        shared[n] = same
        for depth in range(same + 1, stop - start + 1):
            added[depth] += 1


@compiled(allocates=True)
def _grow(
    codes: Any, offsets: Any, order: Any, shared: Any, backwards: Any, following: Any, stride: Any,
    node: Any, term: Any, bitmap: Any, edges: Any,
) -> None:  # fmt: skip
    """Number the nodes; `following[d]` is the next free number of depth d."""
    path = np.zeros(following.shape[0] + 1, np.int64)
    for n in range(order.shape[0]):
        start, stop = offsets[order[n]], offsets[order[n] + 1]
        for depth in range(shared[n] + 1, stop - start + 1):
            code = codes[stop - depth] if backwards else codes[start + depth - 1]
            if depth == 1:
                path[1] = code
                continue
            number = following[depth]
            following[depth] += 1
            node[number] = np.uint64(code)
            parent = path[depth - 1]
            if node[parent] >> _COUNT_SHIFT == np.uint64(0):
                node[parent] |= np.uint64(number) << _FIRST_SHIFT
            node[parent] += _ONE_CHILD
            if depth == 2:
                bitmap[parent * stride + (code >> 6)] |= np.uint64(1) << np.uint64(code & 63)
            else:
                bit = _edge(parent, code)
                edges[np.int64(bit >> _SIX) & (edges.shape[0] - 1)] |= _1 << (bit & _63)
            path[depth] = number
        last = path[stop - start]
        if term[last] < 0:
            term[last] = order[n]
            node[last] |= _ENDS


@compiled()
def _edge(parent: Any, code: Any) -> Any:
    """Hashed bit of an edge; its low 6 bits choose in a word, those above the word."""
    return ((np.uint64(parent) << _SIXTEEN | np.uint64(code)) * _MIX) >> _TOP


@compiled()
def _child(node: Any, parent: Any, code: Any) -> Any:
    """Number of the child with this code, -1 for none."""
    word = node[parent]
    low = np.int64(word >> _FIRST_SHIFT)
    left = np.int64((word >> _COUNT_SHIFT) & _CODE)
    stop = low + left
    wanted = np.uint64(code)
    while left > 0:
        half = left >> 1
        if node[low + half] & _CODE < wanted:
            low += half + 1
            left -= half + 1
        else:
            left = half
    return low if low < stop and node[low] & _CODE == wanted else np.int64(-1)


@compiled()
def term_at(points: Any, place: Any, size: Any, trie: Any) -> Any:
    """Index of the term that is the `size` >= 2 characters from `place` on, -1 for none."""
    a = np.int64(trie.code_of[points[place]])
    b = np.int64(trie.code_of[points[place + 1]])
    at = a * trie.stride + (b >> 6)
    bit = np.uint64(b & 63)
    if (trie.bitmap[at] >> bit) & _1 == _0:
        return np.int32(-1)
    below = trie.bitmap[at] & ((_1 << bit) - _1)
    here = np.int64(trie.point_of.shape[0]) + np.int64(trie.rank[at]) + np.int64(popcount(below))
    for i in range(place + 2, place + size):
        here = _child(trie.node, here, trie.code_of[points[i]])
        if here < 0:
            return np.int32(-1)
    return trie.term[here]


@compiled(allocates=True)
def _longest_hits(points: Any, trie: Any, lengths: Any, cap: Any, hits: Any) -> None:
    """Fill hits[p]: the longest term at place p with a length in `lengths` (bit n: n), else -1."""
    total = points.shape[0]
    codes = np.zeros(BLOCK + 64, np.uint16)
    places = np.zeros(BLOCK, np.int32)
    nodes = np.zeros(BLOCK, np.int64)
    first_pair = np.int64(trie.point_of.shape[0])
    slots = np.int64(trie.edges.shape[0] - 1)
    pairs_hit = np.int64((lengths >> np.uint64(2)) & _1)
    for block in range(0, total, BLOCK):
        size = min(np.int64(BLOCK), total - block)
        seen = min(size + 64, total - block)
        for i in range(seen):
            codes[i] = trie.code_of[points[block + i]]
        for i in range(seen, BLOCK + 64):
            codes[i] = 0  # stands in no term, so no walk leaves the text
        # Each pass below is short and without guesses, so that its loads run side by side.
        # Places whose bigram starts a term.
        found = np.int64(0)
        for i in range(size):
            b = np.int64(codes[i + 1])
            word = trie.bitmap[np.int64(codes[i]) * trie.stride + (b >> 6)]
            places[found] = i
            found += np.int64((word >> np.uint64(b & 63)) & _1)
        # Their nodes.
        for n in range(found):
            j = np.int64(places[n])
            b = np.int64(codes[j + 1])
            at = np.int64(codes[j]) * trie.stride + (b >> 6)
            below = trie.bitmap[at] & ((_1 << np.uint64(b & 63)) - _1)
            nodes[n] = first_pair + np.int64(trie.rank[at]) + np.int64(popcount(below))
        # Terms of two characters; who may go on with a third stays.
        left = np.int64(0)
        for n in range(found):
            j = np.int64(places[n])
            here = nodes[n]
            if trie.node[here] & _ENDS and pairs_hit:
                hits[block + j] = trie.term[here]
            bit = _edge(here, codes[j + 2])
            places[left] = j
            nodes[left] = here
            left += np.int64((trie.edges[np.int64(bit >> _SIX) & slots] >> (bit & _63)) & _1)
        if cap < 3:
            continue
        for n in range(left):
            j = np.int64(places[n])
            best = np.int64(-1)
            depth = np.int64(2)
            here = _child(trie.node, nodes[n], codes[j + 2])
            while here >= 0:
                depth += 1
                if trie.node[here] & _ENDS and (lengths >> np.uint64(depth)) & _1:
                    best = here
                if depth >= cap:
                    break
                bit = _edge(here, codes[j + depth])
                if (trie.edges[np.int64(bit >> _SIX) & slots] >> (bit & _63)) & _1 == _0:
                    break
                here = _child(trie.node, here, codes[j + depth])
            if best >= 0:
                hits[block + j] = trie.term[best]


@compiled(allocates=True)
def _leftmost_longest(hits: Any, sizes: Any, places: Any) -> Any:
    """Keep the hits that no earlier one overlaps; returns how many."""
    found = 0
    place = 0
    while place < hits.shape[0]:
        if hits[place] >= 0:
            places[found] = place
            found += 1
            place += sizes[hits[place]]
        else:
            place += 1
    return found


@dataclass(frozen=True, eq=False)
class TermIndex:
    """Terms read forwards: hits in a text.

    Attributes:
      trie: the frozen arrays.
      sizes: [terms] int32, characters of each term.
    """

    trie: Trie
    sizes: Ids

    @classmethod
    def build(cls, terms: Sequence[str]) -> TermIndex:
        """Build from terms of 2 to 32 characters; their order gives the indices.

        Raises: CatalogError where they have more than 65,535 different characters.
        """
        terms = Terms.of(terms)
        return cls(_build(terms, False), terms.size.astype(np.int32))

    def longest_hits(
        self, text: str, lengths: Sequence[int] | None = None, cap: int | None = None
    ) -> Ids:
        """The longest capped hit that starts at every place, [len(text)] int32, -1 for none.

        Args:
          text: any text.
          lengths: U; every length where None.
          cap: longest term that may hit, characters; no cap where None.
        """
        hits = np.full(len(text), -1, np.int32)
        most = self.trie.longest if cap is None else min(cap, self.trie.longest)
        allowed = range(2, most + 1) if lengths is None else lengths
        bits = sum(1 << n for n in set(allowed) if 2 <= n <= most)
        if bits:
            _longest_hits(points_of(text), self.trie, np.uint64(bits), np.int64(most), hits)
        return hits

    def find(self, text: str) -> list[tuple[int, int]]:
        """Leftmost-longest terms that don't overlap, as (place, term index); any length."""
        hits = self.longest_hits(text)
        places = np.empty(len(text), np.int64)
        places = places[: _leftmost_longest(hits, self.sizes, places)]
        return list(zip(places.tolist(), hits[places].tolist()))


@compiled(allocates=True)
def _tail_nodes(points: Any, start: Any, size: Any, trie: Any, column: Any, tails: Any) -> None:
    """tails[place, column of L] = node of y_{p+1}..y_{p+L-1} read backwards, -1 for none."""
    deepest = min(np.int64(column.shape[0]) - 2, trie.longest - 1)
    for r in range(start.shape[0]):
        first = start[r]
        for end in range(first + 1, first + size[r]):
            here = np.int64(trie.code_of[points[end]])
            depth = np.int64(1)
            if here == 0:
                continue
            while True:
                if column[depth + 1] >= 0:
                    tails[end - depth, column[depth + 1]] = here
                if depth >= deepest or end - depth <= first:
                    break
                here = _child(trie.node, here, trie.code_of[points[end - depth]])
                if here < 0:
                    break
                depth += 1


class Tails(NamedTuple):
    """Tail nodes of a corpus, renumbered: only those that some place of it leads to.

    Args:
      tail: [T, K] int32, node of each place and length, -1 where no character completes a term.
      child_start: [nodes + 1] int64.
      child_point: [.] uint32, first characters as code points, increasing inside a node.
      child_term: [.] int32, term index.
    """

    tail: Ids
    child_start: Places
    child_point: npt.NDArray[np.uint32]
    child_term: Ids


@dataclass(frozen=True, eq=False)
class TailIndex:
    """Terms read backwards: which characters complete a term before a given future."""

    trie: Trie

    @classmethod
    def build(cls, terms: Sequence[str]) -> TailIndex:
        """Build from terms of 2 to 32 characters; their order gives the indices.

        Raises: CatalogError where they have more than 65,535 different characters.
        """
        return cls(_build(terms, True))

    def tails(self, texts: Sequence[str], lengths: Sequence[int]) -> Tails:
        """Tail nodes of every place of the texts, and their children.

        Args:
          texts: answers; places count through all of them.
          lengths: U; column k of the result is lengths[k].
        """
        points = points_of("".join(texts))
        size = np.fromiter(map(len, texts), np.int64, len(texts))
        start = np.cumsum(size) - size
        column = np.full(max(lengths) + 1, -1, np.int64)
        column[list(lengths)] = np.arange(len(lengths))
        raw = np.full((len(points), len(lengths)), -1, np.int64)
        _tail_nodes(points, start, size, self.trie, column, raw)
        nodes = np.unique(raw)
        nodes = nodes[nodes >= 0]
        words = self.trie.node[nodes]
        counts = ((words >> _COUNT_SHIFT) & _CODE).astype(np.int64)
        owner = np.repeat(np.arange(len(nodes)), counts)
        inside = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        children = np.repeat((words >> _FIRST_SHIFT).astype(np.int64), counts) + inside
        ends = (self.trie.node[children] & _ENDS) != 0
        owner, children = owner[ends], children[ends]
        child_point = self.trie.point_of[(self.trie.node[children] & _CODE).astype(np.int64)]
        order = np.lexsort((child_point, owner))
        kept, per_node = np.unique(owner, return_counts=True)
        number = np.full(len(nodes) + 1, -1, np.int32)
        number[kept] = np.arange(len(kept))
        place = np.where(raw >= 0, np.searchsorted(nodes, np.maximum(raw, 0)), len(nodes))
        return Tails(
            tail=number[place],
            child_start=np.concatenate([[0], np.cumsum(per_node)]).astype(np.int64),
            child_point=child_point[order],
            child_term=self.trie.term[children][order],
        )
