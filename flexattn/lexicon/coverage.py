"""What of some texts the terms of a catalog cover, leftmost-longest and without overlap."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from flexattn.lexicon.entries import Catalog


@dataclass(frozen=True)
class Coverage:
    """Counts over some texts.

    Attributes:
      texts: how many there are.
      characters: of all of them.
      covered: characters that stand inside a term.
      distinct: for every text, how many different terms it holds.
      terms: how many different terms stand in any of them.
    """

    texts: int
    characters: int
    covered: int
    distinct: tuple[int, ...]
    terms: int


def measure_coverage(catalog: Catalog, texts: Sequence[str]) -> Coverage:
    """Count what the catalog's terms cover of `texts`."""
    found = [list(terms_in(text, catalog.by_term, catalog.lengths)) for text in texts]
    return Coverage(
        texts=len(texts),
        characters=sum(map(len, texts)),
        covered=sum(len(term) for terms in found for term in terms),
        distinct=tuple(len(set(terms)) for terms in found),
        terms=len({term for terms in found for term in terms}),
    )


def terms_in(text: str, terms: Mapping[str, object], lengths: Sequence[int]) -> Iterator[str]:
    """The terms of `text`, leftmost-longest and without overlap.

    Args:
      text: what is searched.
      terms: their strings are the keys.
      lengths: lengths a term may have, increasing.
    """
    place = 0
    while place < len(text):
        for length in reversed(lengths):
            term = text[place : place + length]
            if len(term) == length and term in terms:
                yield term
                place += length
                break
        else:
            place += 1
