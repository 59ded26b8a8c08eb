"""Every KPI of an answer is a pure function of texts and logged numbers; values in, values out.

A KPI that an answer does not define (recall of a reference without a term) is None, never 0 or 1,
and `mean` leaves it out. Lengths and places are in Unicode code points. Nothing here opens a file,
holds a random state or reaches torch.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

TYPO_TERM_CHARS = 3  # a term this long or longer can be misspelt, characters
LONG_TERM_CHARS = 4  # a hit this long or longer is a long one, characters
TOP_TERMS = 100  # how many of a catalog's most frequent terms top100_share looks at
CJK_RANGES = (
    (0x3007, 0x3007),
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x323AF),
)


def is_cjk(char: str) -> bool:
    """Whether `char` is a Chinese ideograph."""
    return any(first <= ord(char) <= last for first, last in CJK_RANGES)


def mean(values: Iterable[float | None]) -> float | None:
    """Mean over the answers that define the KPI; None where none does."""
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None


# ---- terms -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Terms:
    """A catalog's terms, of any length, prepared for finding them and their misspellings."""

    terms: frozenset[str]
    by_first: Mapping[str, tuple[int, ...]]  # lengths of the terms that start with it, falling
    shortened: frozenset[str]  # terms of >= 3 characters, one character left out
    holed: frozenset[tuple[str, str]]  # the same, as (before, after) the changed character
    typo_chars: tuple[int, ...]  # lengths of a misspelling, falling

    @classmethod
    def of(cls, terms: Iterable[str]) -> Terms:
        """Prepare the terms of one catalog version."""
        known = frozenset(terms)
        lengths: dict[str, set[int]] = {}
        for term in known:
            lengths.setdefault(term[0], set()).add(len(term))
        long = [term for term in known if len(term) >= TYPO_TERM_CHARS]
        holed = frozenset((t[:i], t[i + 1 :]) for t in long for i in range(len(t)))
        typo_chars = {len(t) + change for t in long for change in (-1, 0, 1)}
        return cls(
            terms=known,
            by_first={first: tuple(sorted(n, reverse=True)) for first, n in lengths.items()},
            shortened=frozenset(before + after for before, after in holed),
            holed=holed,
            typo_chars=tuple(sorted(typo_chars, reverse=True)),
        )

    def find(self, text: str) -> list[tuple[int, str]]:
        """Places of terms in `text`, leftmost first, the longest at each, none overlapping."""
        places, at = [], 0
        while at < len(text):
            for n in self.by_first.get(text[at], ()):
                if text[at : at + n] in self.terms and at + n <= len(text):
                    places.append((at, text[at : at + n]))
                    at += n
                    break
            else:
                at += 1
        return places

    def misspelt(self, piece: str) -> bool:
        """Whether `piece`, itself no term, is one edit away from a term of >= 3 characters."""
        if piece in self.terms:
            return False
        if piece in self.shortened:
            return True
        cuts = [(piece[:i], piece[i + 1 :]) for i in range(len(piece))]
        return any(
            cut in self.holed or (len(piece) > TYPO_TERM_CHARS and cut[0] + cut[1] in self.terms)
            for cut in cuts
        )


def term_recall(output: str, reference: str, terms: Terms) -> float | None:
    """Distinct terms of the reference that are substrings of the output / distinct terms of it.

    Returns: a share in [0, 1]; None where the reference holds no term.
    """
    wanted = {term for _, term in terms.find(reference)}
    return sum(term in output for term in wanted) / len(wanted) if wanted else None


def typo_rate(output: str, reference: str, terms: Terms) -> float:
    """Misspelt places in the output / term places in the output.

    A misspelt place is at Levenshtein distance 1 from a term of >= 3 characters, itself no term and
    not in the reference. Places are taken leftmost first, the longest at each, none overlapping
    another nor an exact place of a term of >= 3 characters (an intact term with one neighbour more
    or one character less is a near miss of itself).

    Returns: a rate >= 0; over 1 place where the output holds no term.
    """
    exact = terms.find(output)
    taken = [False] * len(output)
    for start, term in exact:
        if len(term) >= TYPO_TERM_CHARS:
            taken[start : start + len(term)] = [True] * len(term)
    wrong, at = 0, 0
    while at < len(output):
        step = 1
        for n in terms.typo_chars:
            piece = output[at : at + n]
            if len(piece) < n or any(taken[at : at + n]):
                continue
            if terms.misspelt(piece) and piece not in reference:
                wrong, step = wrong + 1, n
                break
        at += step
    return wrong / max(1, len(exact))


# ---- characters ------------------------------------------------------------------------


def word_noncompliance(
    output: str, bigrams: Collection[str], chars: Collection[str], punctuation: Collection[str]
) -> float:
    """Share of the output's Chinese characters in an unseen bigram or unseen themselves.

    Args:
      output: what the student wrote.
      bigrams: the pairs that train answers or terms hold.
      chars: the characters that train answers or terms hold.
      punctuation: marks; a pair with one of them doesn't count.

    Returns: a share in [0, 1]; 0 where the output holds no Chinese character.
    """
    bad = [char not in chars for char in output]
    for i in range(len(output) - 1):
        pair = output[i : i + 2]
        if pair not in bigrams and pair[0] not in punctuation and pair[1] not in punctuation:
            bad[i] = bad[i + 1] = True
    judged = [wrong for wrong, char in zip(bad, output, strict=True) if is_cjk(char)]
    return sum(judged) / len(judged) if judged else 0.0


def lcs_length(a: str, b: str) -> int:
    """Length of the longest common subsequence, with one machine word per 64 characters of `a`.

    Source: Hyyro 2004, bit-parallel LCS.
    """
    places: dict[str, int] = {}
    for i, char in enumerate(a):
        places[char] = places.get(char, 0) | 1 << i
    full = (1 << len(a)) - 1
    row = full
    for char in b:
        met = row & places.get(char, 0)
        row = ((row + met) | (row - met)) & full
    return len(a) - row.bit_count()


def rouge_l(output: str, reference: str) -> float | None:
    """Character ROUGE-L F1, white space left out: 2 LCS / (|output| + |reference|).

    Returns: a share in [0, 1], 0 for an empty output; None where the reference is empty.
    Source: Lin 2004; equals rouge-score with a tokenizer of single characters.
    """
    ours, theirs = "".join(output.split()), "".join(reference.split())
    if not theirs:
        return None
    return 2.0 * lcs_length(ours, theirs) / (len(ours) + len(theirs))


# ---- decisions -------------------------------------------------------------------------


def net_lexical(ler: Sequence[float], len_cost: Sequence[float]) -> float:
    """sum(ler) - sum(len_cost) of one answer, reward; its steps as logged, [T] each."""
    return math.fsum(ler) - math.fsum(len_cost)


def opening_places(
    reference: str,
    terms: Collection[str],
    lengths: Collection[int],
    caps: Sequence[int],
    punctuation: Collection[str],
) -> list[bool]:
    """Pointer places where a term starts that can hit and is longer than min(P).

    Args:
      reference: the teacher's answer.
      terms: the catalog's terms.
      lengths: U, lengths that may hit, characters.
      caps: P, choices of Lp, characters.
      punctuation: marks; none of them starts a hit.

    Returns: [|reference|] bool.
    """
    asked = [n for n in lengths if min(caps) < n <= max(caps)]
    return [
        reference[p] not in punctuation
        and any(p + n <= len(reference) and reference[p : p + n] in terms for n in asked)
        for p in range(len(reference))
    ]


def turning_places(reference: str, terms: Terms, punctuation: Collection[str]) -> list[bool]:
    """Pointer places at the first character of a clause or of a term, [|reference|] bool."""
    starts = {start for start, _ in terms.find(reference)}
    return [
        char not in punctuation and (p == 0 or reference[p - 1] in punctuation or p in starts)
        for p, char in enumerate(reference)
    ]


def selectivity(choices: Iterable[float], places: Iterable[bool]) -> float | None:
    """Mean choice at the marked places minus mean choice elsewhere, characters.

    `lp_selectivity` is this over Lp and `opening_places`, `lh_selectivity` over Lh and
    `turning_places`, of all steps of all answers together. A step whose pointer is past the
    reference stands elsewhere.

    Returns: a difference, characters; None where one of the sides has no step.
    """
    here: list[float] = []
    there: list[float] = []
    for choice, marked in zip(choices, places, strict=True):
        (here if marked else there).append(choice)
    if not here or not there:
        return None
    return math.fsum(here) / len(here) - math.fsum(there) / len(there)


def at_pointers(places: Sequence[bool], pointers: Iterable[int]) -> list[bool]:
    """The mark at each step's pointer; False past the reference."""
    return [pointer < len(places) and places[pointer] for pointer in pointers]


# ---- anti-gaming and collapse ----------------------------------------------------------


def hit_rate(segments: Sequence[str]) -> float | None:
    """Share of steps with a hit; `segments` as logged, "-" or "" where nothing hit."""
    return sum(_is_hit(segment) for segment in segments) / len(segments) if segments else None


def long_term_share(segments: Iterable[str]) -> float | None:
    """Share of hits of 4 characters and more; None without a hit."""
    hits = [segment for segment in segments if _is_hit(segment)]
    return sum(len(segment) >= LONG_TERM_CHARS for segment in hits) / len(hits) if hits else None


def most_frequent(document_frequency: Mapping[str, int]) -> frozenset[str]:
    """The 100 terms that stand in most train answers, ties by code point."""
    ranked = sorted(document_frequency, key=lambda term: (-document_frequency[term], term))
    return frozenset(ranked[:TOP_TERMS])


def top100_share(segments: Iterable[str], top: Collection[str]) -> float | None:
    """Share of hits that are among the catalog's `most_frequent` terms; None without a hit."""
    hits = [segment for segment in segments if _is_hit(segment)]
    return sum(segment in top for segment in hits) / len(hits) if hits else None


def histogram(values: Iterable[int], choices: Sequence[int]) -> dict[int, float]:
    """Share of each choice of Lh or Lp, in the order of `choices`; all 0 without a value."""
    counts = Counter(values)
    total = sum(counts.values())
    return {choice: counts[choice] / total if total else 0.0 for choice in choices}


def entropy(shares: Mapping[int, float]) -> float:
    """Entropy of a histogram, nats; 0 where one value has everything."""
    return -math.fsum(share * math.log(share) for share in shares.values() if share > 0.0) + 0.0


def _is_hit(segment: str) -> bool:
    return segment not in ("", "-")


# ---- perturbation ----------------------------------------------------------------------


@dataclass(frozen=True)
class Perturbation:
    """The replacement stream of the 3 % and 10 % regimes: what is written instead, or None.

    A pure function of seed, record and step, so that every arm meets the same characters at the
    same places; the places of 3 % are among those of 10 %. The step is still rewarded for what the
    student emitted; what stands here goes into the history, and into the log as `w`.
    """

    seed: int
    rate: float  # share of steps, 0..1
    chars: Sequence[str]  # the vocabulary's Chinese characters, in a fixed order

    @classmethod
    def of(cls, seed: int, rate: float, vocabulary: Iterable[str]) -> Perturbation:
        """Keep the Chinese characters of a vocabulary, by code point."""
        return cls(seed, rate, tuple(sorted({char for char in vocabulary if is_cjk(char)})))

    def __call__(self, record: str | int, step: int) -> str | None:
        """What to write at `step` (from 1) of `record`'s answer; None keeps the student's own."""
        key = f"{self.seed}\x1f{record}\x1f{step}".encode()
        digest = hashlib.blake2b(key, digest_size=16, person=b"flexattn-noise").digest()
        if not self.chars or int.from_bytes(digest[:8], "big") >= self.rate * 2.0**64:
            return None
        return self.chars[int.from_bytes(digest[8:], "big") % len(self.chars)]
