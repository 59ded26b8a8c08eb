"""The lexicon's definitions, slow and plain: what `index` and `gate` are tested against.

A hit is the longest catalog term that starts with `char` and goes on with the future, its length in
U and <= cap. No hit is None, never an empty term. Lengths below 2 and punctuation never hit.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from itertools import pairwise

from flexattn.lexicon.entries import PUNCTUATION


def longest_capped_hit(
    char: str, future: str, terms: Collection[str], lengths: Iterable[int], cap: int
) -> str | None:
    """The term credited for `char` when the teacher goes on with `future`; longest first.

    Args:
      char: the emitted character.
      future: the teacher's characters after the pointer, y_{p+1}...
      terms: catalog terms.
      lengths: U, lengths in characters that may hit.
      cap: Lp, the longest that may hit now, characters.
    """
    if not char or char in PUNCTUATION:
        return None
    usable = [n for n in lengths if 2 <= n <= min(cap, 1 + len(future))]
    for n in sorted(usable, reverse=True):
        candidate = char + future[: n - 1]
        if candidate in terms:
            return candidate
    return None


def completions(tail: str, terms: Iterable[str]) -> dict[str, str]:
    """First character -> term, over the terms that consist of one character and then `tail`."""
    return {term[0]: term for term in terms if len(term) == len(tail) + 1 and term[1:] == tail}


def find_terms(text: str, terms: Collection[str], longest: int) -> list[tuple[int, str]]:
    """Leftmost-longest occurrences that don't overlap, as (place, term); any length >= 1."""
    found = []
    place = 0
    while place < len(text):
        for n in range(min(longest, len(text) - place), 0, -1):
            if text[place : place + n] in terms:
                found.append((place, text[place : place + n]))
                place += n
                break
        else:
            place += 1
    return found


def grams(text: str) -> list[str]:
    """Character bigrams; a text of one character is its own only gram."""
    return [a + b for a, b in pairwise(text)] if len(text) != 1 else [text]


def gram_weights(answers: Iterable[str]) -> Callable[[str], float]:
    """BM25's idf of a bigram over the answers: ln(1 + (N - df + 1/2) / (df + 1/2)) > 0."""
    seen = [frozenset(grams(answer)) for answer in answers]
    df = Counter(gram for answer in seen for gram in answer)
    n = len(seen)
    return lambda gram: math.log(1.0 + (n - df[gram] + 0.5) / (df[gram] + 0.5))


def similarity(
    history: str,
    piece: str,
    answer: str,
    pointer: int,
    gram_idf: Callable[[str], float],
    mean_length: float,
    *,
    window: int = 12,
    mix: float = 0.5,
    k1: float = 1.2,
    b: float = 0.75,
) -> float:
    """Similarity: sim = mix Jaccard(ours, theirs) + (1 - mix) BM25-lite(ours, answer), in [0, 1].

    `ours` is the last `window` characters of history + piece; `theirs` is as many characters of the
    answer, ending where the piece would end there. BM25-lite clips each gram's term-frequency
    factor at 1, counts repeated grams of `ours` each time and divides by their idf mass.

    Args:
      history: what the student wrote before, h_t.
      piece: the hit segment, from the emitted character on.
      answer: the teacher's answer y.
      pointer: p_t, place of the target in y.
      gram_idf: bigram -> weight.
      mean_length: mean answer length, bigrams.
      window: gate window, characters.
      mix: share of the Jaccard part, 0..1.
      k1: BM25's saturation.
      b: BM25's length normalisation.
    """
    ours = (history + piece)[-window:]
    stop = min(len(answer), pointer + len(piece))
    theirs = answer[max(0, stop - len(ours)) : stop]
    mine, yours = set(grams(ours)), set(grams(theirs))
    union = mine | yours
    jaccard = len(mine & yours) / len(union) if union else 1.0

    document = Counter(grams(answer))
    size = document.total()
    norm = k1 * (1.0 - b + b * size / mean_length) if mean_length > 0 else k1
    mass = got = 0.0
    for gram in grams(ours):
        weight, tf = gram_idf(gram), document[gram]
        mass += weight
        if tf:
            got += weight * min(1.0, tf * (k1 + 1.0) / (tf + norm))
    lexical = (got / mass if mass > 0 else 0.0) if ours else 1.0
    return mix * jaccard + (1.0 - mix) * lexical
