"""A question is the characters of the terms found in it; phrasing around them does not matter.

Names of records (terms and aliases, an alias standing for its record's term) come first; where
there is none, the catalog's terms; where there is none either, the raw characters. The search is
leftmost-longest; a term counts once; END stands between two terms. `raw` keeps all characters.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from functools import cached_property

import numpy as np
import numpy.typing as npt

from flexattn.env.vocabulary import END, PAD, Vocabulary
from flexattn.lexicon.reference import find_terms

Ids = npt.NDArray[np.int32]


class QuestionEncoder:
    """Text of a question -> ids that an actor sees."""

    def __init__(
        self,
        vocabulary: Vocabulary,
        names: Mapping[str, str],
        terms: Callable[[], Collection[str]],
        chars: int,
        raw: bool,
    ) -> None:
        """Keep the tables.

        Args:
          vocabulary: characters and ids.
          names: term or alias -> the record's term.
          terms: makes the catalog terms that say what a question is about; asked when a question
            first names no record.
          chars: ids of an encoded question; longer ones are cut.
          raw: whether to keep the whole question instead of its terms.
        """
        self._vocabulary = vocabulary
        self._names = names
        self._make_terms = terms
        self._longest_name = max(map(len, names), default=0)
        self._chars = chars
        self._raw = raw

    def find(self, text: str) -> list[str]:
        """The terms that the question is about, in its order, each once."""
        found = self._named(text)
        if not found:
            found = [term for _, term in find_terms(text, *self._terms)]
        return list(dict.fromkeys(found))

    def needs_terms(self, text: str) -> bool:
        """Whether a question names no record, so that what it encodes to depends on the catalog."""
        return not self._raw and not self._named(text)

    def _named(self, text: str) -> list[str]:
        return [self._names[name] for _, name in find_terms(text, self._names, self._longest_name)]

    @cached_property
    def _terms(self) -> tuple[Collection[str], int]:
        """The catalog's terms, and characters of the longest."""
        terms = self._make_terms()
        return terms, max(map(len, terms), default=0)

    def encode(self, text: str) -> Ids:
        """Ids, [chars] int32, PAD behind; a character outside the train vocabulary is UNK."""
        terms = [] if self._raw else self.find(text)
        ids: list[int] = []
        for term in terms or [text]:
            if ids:
                ids.append(END)
            ids.extend(self._vocabulary.encode(term).tolist())
        row = np.full(self._chars, PAD, np.int32)
        row[: len(ids)] = ids[: self._chars]
        return self._vocabulary.visible(row)

    def encode_all(self, texts: Iterable[str]) -> Ids:
        """Rows of many questions, [n, chars] int32."""
        rows = [self.encode(text) for text in texts]
        return np.stack(rows) if rows else np.zeros((0, self._chars), np.int32)
