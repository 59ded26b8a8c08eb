"""Answers and terms as arrays that the compiled step reads: what can be known before an episode is.

Nothing here depends on what a student writes. A place is an index into all answers' characters
behind one another.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from flexattn.corpus import Record
from flexattn.env.reward import length_costs
from flexattn.env.settings import Settings
from flexattn.env.vocabulary import UNK, Vocabulary
from flexattn.lexicon.compiled import compiled
from flexattn.lexicon.entries import Catalog
from flexattn.lexicon.gate import GramTable, gram_weight, pair_count, saturation
from flexattn.lexicon.index import TailIndex
from flexattn.lexicon.weights import term_weights

Ids = npt.NDArray[np.int32]
Places = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


class AnswerTables(NamedTuple):
    """All answers behind one another; R records, T characters in all, D distinct ones per record.

    Args:
      ids: [T] int32.
      start: [R] int64, place of each answer in `ids`.
      size: [R] int64, |y|.
      words: [R] int64, words of a position mask.
      slot: [T] int32, which distinct character stands here.
      slot_start: [R + 1] int64, first distinct character of each record.
      slot_id: [D] int32, increasing ids inside a record.
      slot_mask: [D] int64, where its mask starts.
      masks: [.] uint64, position masks.
      norm: [R] float64, BM25's length norm times k1.
      weight_at: [T] float64, weight of the bigram that ends here.
      share_at: [T] float64, weight times clipped term-frequency factor.
      soft_start: [T + 1] int64, teacher probabilities of each place.
      soft_id: [.] int32, increasing ids at a place.
      soft_p: [.] float64, probability.
      has_soft: [R] bool.
      mark: [A] bool, punctuation.
    """

    ids: Ids
    start: Places
    size: Places
    words: Places
    slot: Ids
    slot_start: Places
    slot_id: Ids
    slot_mask: Places
    masks: npt.NDArray[np.uint64]
    norm: Floats
    weight_at: Floats
    share_at: Floats
    soft_start: Places
    soft_id: Ids
    soft_p: Floats
    has_soft: npt.NDArray[np.bool_]
    mark: npt.NDArray[np.bool_]


class TermTables(NamedTuple):
    """Hits by place: tail nodes of the corpus, with their children.

    Args:
      lengths: [K] int64, U from the longest.
      weight: [terms] float64, the logged `idf`.
      tail: [T, K] int32, node of y_{p+1}..y_{p+L-1}, -1 where no term ends so.
      target: [T, K] int32, term that the target itself would start, -1 for none.
      child_start: [nodes + 1] int64.
      child_id: [.] int32, first characters, increasing inside a node.
      child_term: [.] int32, term index.
      cost: [|H|, |P|] float64, len_cost.
      caps: [|P|] int64, P.
      repeat: [.] float64, repeat^n.
    """

    lengths: Places
    weight: Floats
    tail: Ids
    target: Ids
    child_start: Places
    child_id: Ids
    child_term: Ids
    cost: Floats
    caps: Places
    repeat: Floats


class CatalogPart(NamedTuple):
    """What a world takes from a catalog."""

    texts: Sequence[str]
    weights: Floats
    ids: Places
    banned: tuple[str, ...]
    file: str
    sha256: str
    topics: Callable[[], frozenset[str]]
    catalog: Catalog | None

    @classmethod
    def of(cls, catalog: Catalog, settings: Settings) -> CatalogPart:
        """Take terms, weights and bans; frame phrases are no topic of a question."""
        columns = catalog.columns
        return cls(
            columns.terms,
            term_weights(columns, catalog.documents, settings.two_char),
            columns.ids,
            catalog.banned,
            catalog.file,
            catalog.sha256,
            lambda: frozenset(e.term for e in catalog.entries if e.kind != "frame"),
            catalog,
        )


def build_answers(
    records: Sequence[Record], vocabulary: Vocabulary, grams: GramTable, settings: Settings
) -> AnswerTables:
    """Tables of all records, train or not."""
    texts = [vocabulary.encode(record.answer) for record in records]
    size = np.array([len(ids) for ids in texts], np.int64)
    start = np.concatenate([[0], np.cumsum(size)[:-1]]).astype(np.int64)
    words = (size + 63) // 64
    slots, slot_ids, mask_parts = [], [], []
    for ids, w in zip(texts, words.tolist()):
        distinct, slot = np.unique(ids, return_inverse=True)
        masks = np.zeros((len(distinct), w), np.uint64)
        place = np.arange(len(ids))
        np.bitwise_or.at(
            masks, (slot, place >> 6), np.uint64(1) << (place.astype(np.uint64) & np.uint64(63))
        )
        slots.append(slot)
        slot_ids.append(distinct)
        mask_parts.append(masks.ravel())
    counts = np.array([len(distinct) for distinct in slot_ids], np.int64)
    slot_start = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    mask_first = np.concatenate([[0], np.cumsum(counts * words)]).astype(np.int64)
    slot = np.concatenate(slots) + np.repeat(slot_start[:-1], size)
    within = np.arange(slot_start[-1]) - np.repeat(slot_start[:-1], counts)
    slot_mask = np.repeat(mask_first[:-1], counts) + within * np.repeat(words, counts)
    k1, b, mean = float(settings.gate_k1), float(settings.gate_b), grams.mean_length
    gram_count = np.maximum(size - 1, np.minimum(size, 1))
    norm = np.array(
        [k1 * (1.0 - b + b * n / mean) if mean > 0 else k1 for n in gram_count.tolist()]
    )
    masks = np.concatenate(mask_parts)
    ids = np.concatenate(texts)
    weight_at, share_at = _gram_shares(
        ids, slot, slot_mask, masks, start, size, words, norm, grams, k1
    )
    soft_start, soft_id, soft_p, has_soft = _soft(records, vocabulary)
    return AnswerTables(
        ids=ids,
        start=start,
        size=size,
        words=words,
        slot=slot.astype(np.int32),
        slot_start=slot_start,
        slot_id=np.concatenate(slot_ids).astype(np.int32),
        slot_mask=slot_mask.astype(np.int64),
        masks=masks,
        norm=norm,
        weight_at=weight_at,
        share_at=share_at,
        soft_start=soft_start,
        soft_id=soft_id,
        soft_p=soft_p,
        has_soft=has_soft,
        mark=vocabulary.marks,
    )


@compiled(allocates=True)
def _gram_shares(
    ids: Any, slot: Any, slot_mask: Any, masks: Any, start: Any, size: Any, words: Any, norm: Any,
    grams: Any, k1: Any,
) -> Any:  # fmt: skip
    weight_at = np.zeros(ids.shape[0], np.float64)
    share_at = np.zeros(ids.shape[0], np.float64)
    for r in range(size.shape[0]):
        for place in range(start[r] + 1, start[r] + size[r]):
            a, b = slot_mask[slot[place - 1]], slot_mask[slot[place]]
            tf = pair_count(masks, a, b, words[r])
            weight = gram_weight(
                grams.row, grams.second, grams.weight, grams.unseen, ids[place - 1], ids[place]
            )
            weight_at[place] = weight
            share_at[place] = weight * saturation(tf, k1, norm[r])
    return weight_at, share_at


def _soft(
    records: Sequence[Record], vocabulary: Vocabulary
) -> tuple[Places, Ids, Floats, npt.NDArray[np.bool_]]:
    """Teacher probabilities of each place, compressed; nothing for records without them."""
    starts: list[int] = [0]
    ids: list[int] = []
    probabilities: list[float] = []
    for record in records:
        if record.logprobs is None:
            starts.extend([len(ids)] * len(record.answer))
            continue
        for place in record.logprobs:
            known = {vocabulary.ids[c]: p for c, p in place.items() if c in vocabulary.ids}
            ids.extend(sorted(known))
            probabilities.extend(min(1.0, math.exp(known[n])) for n in sorted(known))
            starts.append(len(ids))
    return (
        np.array(starts, np.int64),
        np.array(ids, np.int32),
        np.array(probabilities, np.float64),
        np.array([record.logprobs is not None for record in records], np.bool_),
    )


def build_terms(
    terms: CatalogPart,
    records: Sequence[Record],
    vocabulary: Vocabulary,
    answers: AnswerTables,
    settings: Settings,
) -> TermTables:
    """Tail nodes of every place for every length in U, longest first."""
    lengths = sorted(settings.lengths, reverse=True)
    found = TailIndex.build(terms.texts).tails([record.answer for record in records], lengths)
    owner = np.repeat(np.arange(len(found.child_start) - 1), np.diff(found.child_start))
    child_id = vocabulary.by_point[found.child_point]
    usable = (child_id != UNK) & ~answers.mark[child_id]
    owner, child_id, child_term = owner[usable], child_id[usable], found.child_term[usable]
    order = np.lexsort((child_id, owner))
    owner, child_id, child_term = owner[order], child_id[order], child_term[order]
    counts = np.bincount(owner, minlength=len(found.child_start) - 1)
    # the term that the target itself would start, for each place and length
    alphabet = vocabulary.alphabet
    keys = owner * alphabet + child_id
    wanted = found.tail.astype(np.int64) * alphabet + answers.ids[:, None]
    near = np.minimum(np.searchsorted(keys, wanted), max(0, len(keys) - 1))
    target = np.full(found.tail.shape, -1, np.int32)
    if len(keys):
        target = np.where(keys[near] == wanted, child_term[near], -1).astype(np.int32)
    most = int(answers.size.max()) + settings.slack + 2
    return TermTables(
        lengths=np.array(lengths, np.int64),
        weight=terms.weights,
        tail=found.tail,
        target=target,
        child_start=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        child_id=child_id.astype(np.int32),
        child_term=child_term,
        cost=length_costs(
            settings.history_chars,
            settings.hit_cap_chars,
            max(settings.lengths),
            settings.lambda_h,
            settings.lambda_p,
            settings.alpha_h,
            settings.alpha_p,
        ),
        caps=np.array(settings.hit_cap_chars, np.int64),
        repeat=np.array([float(settings.repeat) ** n for n in range(most)], np.float64),
    )
