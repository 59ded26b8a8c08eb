"""A learned filter before the exact index: it says "no term" or "perhaps", never no to a term.

    score(s)   = bias[|s|] + first[c1 c2] + sum of within[c_i c_i+1] + last[c_n-1 c_n]
    perhaps(s) <=> score(s) >= threshold  or  the backup holds s

The weights are a logistic model's, fitted to tell terms from other spans of texts, hashed into one
table and cut to 8 bits. The backup is a Bloom filter of the terms that score too low. All of it is
whole numbers, so what passed when the filter was built passes ever after.
Source: Kraska et al. 2018, arXiv:1712.01208 (a model and a backup); Mitzenmacher 2018,
arXiv:1901.00902 (what a model must gain to beat a plain Bloom filter of the same bytes).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from flexattn.lexicon.columns import Terms, points_of
from flexattn.lexicon.compiled import compiled
from flexattn.lexicon.index import TermIndex, term_at

Ids = npt.NDArray[np.int32]
Places = npt.NDArray[np.int64]

LONGEST = 32  # characters of a term at most
BLOCK = 4096  # places of a text whose weights are kept at once
NEGATIVES = 4  # spans that are no terms, for each term
EPOCHS = 4
RATE, SHRINK = 0.3, 1e-6

_MIX, _BASE = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD6E8FEB86659FD93)
_32, _29, _LOW = np.uint64(32), np.uint64(29), np.uint64(0xFFFFFFFF)
_FIRST, _WITHIN, _LAST = np.uint64(1), np.uint64(2), np.uint64(3)


class Bloom(NamedTuple):
    """A Bloom filter of span hashes.

    Args:
      words: [ceil(bits / 64)] uint64.
      bits: how many there are, below 2^32; 0: it holds nothing.
      probes: bits looked at for a span.
    """

    words: npt.NDArray[np.uint64]
    bits: int
    probes: int

    @classmethod
    def of(cls, hashes: npt.NDArray[np.uint64], bits: int) -> Bloom:
        """A filter of at most `bits` bits that holds `hashes`, with as many probes as is best."""
        if not len(hashes):
            return cls(np.zeros(1, np.uint64), 0, 0)
        bits = max(64, bits)
        probes = max(1, min(16, round(bits / len(hashes) * math.log(2))))
        words = np.zeros((bits + 63) // 64, np.uint64)
        _put(hashes, words, bits, probes)
        return cls(words, bits, probes)

    @property
    def nbytes(self) -> int:
        """Bytes of its bits."""
        return (self.bits + 7) // 8


def bloom_rate(bits: float, terms: int) -> float:
    """Expected share of other spans that a Bloom filter lets through, (1 - e^(-k n / m))^k."""
    if not terms:
        return 0.0
    if bits < 1:
        return 1.0
    probes = max(1, min(16, round(bits / terms * math.log(2))))
    return float((1.0 - math.exp(-probes * terms / bits)) ** probes)


@dataclass(frozen=True, eq=False)
class LearnedFilter:
    """A hashed bigram model with a backup.

    Attributes:
      weights: [M] int8, M a power of two; empty: no model, the backup is a plain Bloom filter.
      bias: [33] int32, by length.
      threshold: lowest score that passes.
      backup: the terms that score lower.
    """

    weights: npt.NDArray[np.int8]
    bias: Ids
    threshold: int
    backup: Bloom

    @classmethod
    def plain(cls, terms: Sequence[str], nbytes: int) -> LearnedFilter:
        """A Bloom filter of all terms, no model: what a learned one has to beat."""
        points, start, size = _spans_of(terms)
        backup = Bloom.of(span_hashes(points, start, size), nbytes * 8)
        return cls(np.zeros(0, np.int8), np.zeros(LONGEST + 1, np.int32), 1, backup)

    @classmethod
    def fit(
        cls, terms: Sequence[str], texts: Sequence[str], nbytes: int, seed: int = 0
    ) -> LearnedFilter:
        """Fit tables of several sizes and keep the one that should let least through.

        Args:
          terms: 2 to 32 characters each.
          texts: where spans that are no terms come from; such texts as will be searched.
          nbytes: bytes of model and backup together; a small table and its backup where it is less.
          seed: of the drawn spans and their order.
        """
        rng = np.random.default_rng(seed)
        points, start, size = _spans_of(terms)
        hashes = span_hashes(points, start, size)
        other, other_start, other_size = _other_spans(texts, size, hashes, rng)
        half = len(other_start) // 2
        best: tuple[float, LearnedFilter] | None = None
        table = 256
        while table <= max(256, nbytes * 7 // 8):
            weights, bias = _fitted(
                (points, start, size), (other, other_start[:half], other_size[:half]), table, rng
            )
            high = scores(points, start, size, weights, bias)
            low = scores(other, other_start[half:], other_size[half:], weights, bias)
            bits = 8 * (nbytes - table - bias.nbytes)
            rate, threshold = _threshold(high, low, bits)
            if best is None or rate < best[0]:
                missed = high < threshold
                # a backup of next to nothing would let everything through
                backup = Bloom.of(hashes[missed], max(bits, 2 * int(missed.sum())))
                best = rate, cls(weights, bias, threshold, backup)
            table *= 2
        assert best is not None
        return best[1]

    @property
    def nbytes(self) -> int:
        """Bytes of model and backup."""
        model = self.weights.nbytes + self.bias.nbytes if len(self.weights) else 0
        return model + self.backup.nbytes

    def perhaps(self, spans: Sequence[str]) -> npt.NDArray[np.bool_]:
        """Which spans may be terms, [len(spans)] bool; one of another length than 2..32 is none."""
        fits = np.array([2 <= len(span) <= LONGEST for span in spans], np.bool_)
        points, start, size = _spans_of([span for span in spans if 2 <= len(span) <= LONGEST])
        passed = np.zeros(len(start), np.bool_)
        _pass(points, start, size, self.weights, self.bias, self.threshold, self.backup, passed)
        fits[fits] = passed
        return fits


@dataclass(frozen=True, eq=False)
class LearnedIndex:
    """The exact index behind a learned filter: the same hits as `TermIndex.longest_hits`.

    Attributes:
      index: the exact one.
      filter: never says no to a term of it.
    """

    index: TermIndex
    filter: LearnedFilter

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
        most = self.index.trie.longest if cap is None else min(cap, self.index.trie.longest)
        allowed = range(2, most + 1) if lengths is None else lengths
        asked = np.array(sorted({n for n in allowed if 2 <= n <= most}, reverse=True), np.int64)
        if len(asked) and text:
            learned = self.filter
            _search(
                points_of(text), asked, learned.weights, learned.bias, learned.threshold,
                learned.backup, self.index.trie, hits,
            )  # fmt: skip
        return hits


def _spans_of(spans: Sequence[str]) -> tuple[npt.NDArray[np.uint32], Places, Places]:
    """Code points of all spans behind one another, and where each begins and how long it is."""
    terms = Terms.of(spans)
    return terms.points, terms.start, terms.size


def _other_spans(
    texts: Sequence[str],
    sizes: Places,
    known: npt.NDArray[np.uint64],
    rng: np.random.Generator,
) -> tuple[npt.NDArray[np.uint32], Places, Places]:
    """Spans of the texts that are no terms, of the lengths that terms have."""
    points = points_of("\0".join(texts))
    lengths = np.unique(sizes)
    count = NEGATIVES * len(sizes)
    size = rng.choice(lengths, count)
    start = rng.integers(0, max(1, len(points) - LONGEST), count)
    inside = start + size <= len(points)
    start, size = start[inside], size[inside]
    breaks = np.concatenate([[0], np.cumsum(points == 0)])
    whole = breaks[start + size] == breaks[start]
    start, size = start[whole], size[whole]
    new = ~np.isin(span_hashes(points, start, size), known)
    return points, start[new], size[new]


def _fitted(
    terms: tuple[Any, Any, Any], others: tuple[Any, Any, Any], table: int, rng: np.random.Generator
) -> tuple[npt.NDArray[np.int8], Ids]:
    """Weights and biases of a logistic model, as whole numbers of one scale."""
    points = np.concatenate([terms[0], others[0]])
    start = np.concatenate([terms[1], others[1] + len(terms[0])])
    size = np.concatenate([terms[2], others[2]])
    label = np.arange(len(start)) < len(terms[1])
    weights, bias = np.zeros(table), np.zeros(LONGEST + 1)
    seen, bias_seen = np.full(table, 1e-2), np.full(LONGEST + 1, 1e-2)
    for _ in range(EPOCHS):
        order = rng.permutation(len(start))
        _descend(points, start, size, label, order, weights, bias, seen, bias_seen)
    scale = 127.0 / max(1e-9, float(np.quantile(np.abs(weights), 0.999)))
    cut = np.clip(np.rint(weights * scale), -127, 127).astype(np.int8)
    return cut, np.rint(bias * scale).astype(np.int32)


def _threshold(high: Ids, low: Ids, bits: int) -> tuple[float, int]:
    """Lowest expected share of other spans let through, and the score that gives it.

    Args:
      high: scores of the terms.
      low: scores of spans that are none.
      bits: of the backup.
    """
    best = (1.0, int(high.min()))
    terms, others = np.sort(high), np.sort(low)
    for threshold in np.unique(np.quantile(high, np.linspace(0.0, 1.0, 101)).astype(np.int64)):
        missed = int(np.searchsorted(terms, threshold))
        passed = 1.0 - np.searchsorted(others, threshold) / max(1, len(others))
        rate = passed + (1.0 - passed) * bloom_rate(bits, missed)
        if rate < best[0]:
            best = (float(rate), int(threshold))
    return best


def span_hashes(
    points: npt.NDArray[np.uint32], start: Places, size: Places
) -> npt.NDArray[np.uint64]:
    """64-bit hash of each span, [len(start)]."""
    out = np.zeros(len(start), np.uint64)
    _hash_spans(points, start, size, out)
    return out


def scores(
    points: npt.NDArray[np.uint32],
    start: Places,
    size: Places,
    weights: npt.NDArray[np.int8],
    bias: Ids,
) -> Ids:
    """The model's score of each span, [len(start)] int32."""
    out = np.zeros(len(start), np.int32)
    _score_spans(points, start, size, weights, bias, out)
    return out


@compiled()
def _slot(a: Any, b: Any, kind: Any, table: Any) -> Any:
    """Place of a bigram of one kind in a table of a power of two."""
    word = (np.uint64(a) << _32 | np.uint64(b)) * _MIX + kind * _BASE
    word ^= word >> _29
    return np.int64((word * _MIX) >> _32) & (table - 1)


@compiled()
def _finished(word: Any) -> Any:
    """A span's polynomial hash, its bits mixed."""
    word ^= word >> _32
    word *= _BASE
    word ^= word >> _29
    word *= _MIX
    return word ^ (word >> _32)


@compiled()
def _hash_of(points: Any, start: Any, size: Any) -> Any:
    word = np.uint64(0)
    for i in range(start, start + size):
        word = word * _MIX + np.uint64(points[i]) + np.uint64(1)
    return _finished(word)


@compiled()
def _bit(word: Any, probe: Any, bits: Any) -> Any:
    """Number of the bit that this probe looks at: h1 + probe * h2, spread over the filter."""
    mixed = (word + np.uint64(probe) * (word >> _32 | np.uint64(1))) & _LOW
    return np.int64((mixed * np.uint64(bits)) >> _32)


@compiled()
def _put(hashes: Any, words: Any, bits: Any, probes: Any) -> None:
    for n in range(hashes.shape[0]):
        for probe in range(probes):
            bit = _bit(hashes[n], probe, bits)
            words[bit >> 6] |= np.uint64(1) << np.uint64(bit & 63)


@compiled()
def _holds(word: Any, backup: Any) -> Any:
    if backup.bits == 0:
        return False
    for probe in range(backup.probes):
        bit = _bit(word, probe, backup.bits)
        if (backup.words[bit >> 6] >> np.uint64(bit & 63)) & np.uint64(1) == np.uint64(0):
            return False
    return True


@compiled()
def _score(points: Any, start: Any, size: Any, weights: Any, bias: Any) -> Any:
    """Score of one span; 0 where there is no model."""
    table = np.int64(weights.shape[0])
    if table == 0:
        return np.int64(0)
    total = np.int64(bias[size])
    for i in range(start, start + size - 1):
        a, b = points[i], points[i + 1]
        total += weights[_slot(a, b, _WITHIN, table)]
        if i == start:
            total += weights[_slot(a, b, _FIRST, table)]
        if i == start + size - 2:
            total += weights[_slot(a, b, _LAST, table)]
    return total


@compiled()
def _hash_spans(points: Any, start: Any, size: Any, out: Any) -> None:
    for n in range(start.shape[0]):
        out[n] = _hash_of(points, start[n], size[n])


@compiled()
def _score_spans(points: Any, start: Any, size: Any, weights: Any, bias: Any, out: Any) -> None:
    for n in range(start.shape[0]):
        out[n] = _score(points, start[n], size[n], weights, bias)


@compiled()
def _pass(
    points: Any, start: Any, size: Any, weights: Any, bias: Any, threshold: Any, backup: Any,
    out: Any,
) -> None:  # fmt: skip
    for n in range(start.shape[0]):
        high = _score(points, start[n], size[n], weights, bias) >= threshold
        out[n] = high or _holds(_hash_of(points, start[n], size[n]), backup)


@compiled()
def _descend(
    points: Any, start: Any, size: Any, label: Any, order: Any, weights: Any, bias: Any, seen: Any,
    bias_seen: Any,
) -> None:  # fmt: skip
    """One pass of AdaGrad over the spans, each class weighing as much as the other."""
    table = np.int64(weights.shape[0])
    share = 0.0
    for n in range(label.shape[0]):
        share += label[n]
    share /= label.shape[0]
    for n in order:
        first, count = start[n], size[n]
        total = bias[count]
        for i in range(first, first + count - 1):
            a, b = points[i], points[i + 1]
            total += weights[_slot(a, b, _WITHIN, table)]
            if i == first:
                total += weights[_slot(a, b, _FIRST, table)]
            if i == first + count - 2:
                total += weights[_slot(a, b, _LAST, table)]
        chance = 1.0 / (1.0 + np.exp(-total))
        slope = (1.0 - chance) * (1.0 - share) if label[n] else -chance * share
        bias_seen[count] += slope * slope
        bias[count] += RATE * slope / np.sqrt(bias_seen[count])
        for i in range(first, first + count - 1):
            a, b = points[i], points[i + 1]
            for kind in range(3):
                if (kind == 0 and i != first) or (kind == 2 and i != first + count - 2):
                    continue
                slot = _slot(a, b, np.uint64(kind + 1), table)
                seen[slot] += slope * slope
                step = slope - SHRINK * weights[slot]
                weights[slot] += RATE * step / np.sqrt(seen[slot])


@compiled(allocates=True)
def _search(
    points: Any, lengths: Any, weights: Any, bias: Any, threshold: Any, backup: Any, trie: Any,
    hits: Any,
) -> None:  # fmt: skip
    """Fill hits[p]; `lengths` from the longest. Sums and hashes of a block are made once."""
    total = points.shape[0]
    table = np.int64(weights.shape[0])
    longest = lengths[0]
    first = np.zeros(BLOCK + LONGEST, np.int32)
    last = np.zeros(BLOCK + LONGEST, np.int32)
    within = np.zeros(BLOCK + LONGEST + 1, np.int32)
    prefix = np.zeros(BLOCK + LONGEST + 1, np.uint64)
    power = np.ones(LONGEST + 1, np.uint64)
    for n in range(1, LONGEST + 1):
        power[n] = power[n - 1] * _MIX
    for block in range(0, total, BLOCK):
        here = min(np.int64(BLOCK), total - block)
        seen = min(here + longest, total - block)
        for i in range(seen):
            prefix[i + 1] = prefix[i] * _MIX + np.uint64(points[block + i]) + np.uint64(1)
        if table > 0:
            for i in range(seen - 1):
                a, b = points[block + i], points[block + i + 1]
                first[i] = weights[_slot(a, b, _FIRST, table)]
                last[i] = weights[_slot(a, b, _LAST, table)]
                within[i + 1] = within[i] + weights[_slot(a, b, _WITHIN, table)]
        for i in range(here):
            for n in lengths:
                if i + n > seen:
                    continue
                perhaps = False
                if table > 0:
                    score = bias[n] + first[i] + last[i + n - 2] + within[i + n - 1] - within[i]
                    perhaps = score >= threshold
                if not perhaps:
                    perhaps = _holds(_finished(prefix[i + n] - prefix[i] * power[n]), backup)
                if perhaps:
                    term = term_at(points, block + i, n, trie)
                    if term >= 0:
                        hits[block + i] = term
                        break
