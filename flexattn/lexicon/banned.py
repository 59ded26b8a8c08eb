"""A character that would complete a banned term is never legal: Aho-Corasick over the emitted text.

Matching is on folded text, so that a ban can't be walked round: compatibility and full-width forms
(NFKC), letter case and traditional characters (traditional.tsv) count as the plain form, and
spaces, punctuation and invisible characters between two characters of a term count as nothing.
Folding is built into the transition table: the text itself is never rewritten.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from flexattn.errors import CatalogError
from flexattn.lexicon.bits import pack
from flexattn.lexicon.defects import is_mark

START = 0
MAX_TABLE_BYTES = 1 << 30


@lru_cache(maxsize=1)
def simplified() -> Mapping[str, str]:
    """Traditional character -> simplified character, from traditional.tsv."""
    text = Path(__file__).with_name("traditional.tsv").read_text(encoding="utf-8")
    lines = (line.partition("\t") for line in text.splitlines() if not line.startswith("#"))
    return MappingProxyType({traditional: plain for traditional, _, plain in lines})


def fold(text: str, variants: Mapping[str, str] | None = None) -> str:
    """`text` as the ban sees it: NFKC, case folded, variants replaced, marks and spaces dropped.

    Args:
      text: any text.
      variants: character -> plain character; `simplified()` where None.
    """
    if variants is None:
        return "".join(map(_fold_by_default, text))
    return "".join(_fold_char(char, variants) for char in text)


@lru_cache(maxsize=1 << 16)
def _fold_by_default(char: str) -> str:
    return _fold_char(char, simplified())


def _fold_char(char: str, variants: Mapping[str, str]) -> str:
    plain = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", char).casefold())
    plain = "".join(variants.get(c, c) for c in plain)
    return "".join(c for c in plain if not is_mark(c) and unicodedata.category(c)[0] != "C")


def find_banned(
    text: str, terms: Iterable[str], variants: Mapping[str, str] | None = None
) -> str | None:
    """The first of `terms` that `text` holds once both are folded; None where it holds none.

    The naive definition that the automaton agrees with.
    """
    folded = fold(text, variants)
    for term in terms:
        plain = fold(term, variants)
        if plain and plain in folded:
            return term
    return None


@dataclass(frozen=True)
class BannedAutomaton:
    """A dense automaton over character ids; state 0 is the start.

    Attributes:
      goto: next state, [S, A] int32; a batch steps by `state = goto[state, id]`.
      blocked: packed bits, [S, W] uint64, W = ceil(V / 64); bit c % 64 of word c // 64 is set where
        writing id c would complete a banned term.
      terms: the banned strings as given.
    """

    goto: NDArray[np.int32]
    blocked: NDArray[np.uint64]
    terms: tuple[str, ...]

    @classmethod
    def build(
        cls,
        terms: Iterable[str],
        char_ids: Mapping[str, int],
        size: int,
        legal_size: int | None = None,
        variants: Mapping[str, str] | None = None,
    ) -> BannedAutomaton:
        """Build the tables.

        A term with a character that no id can write is left out: it can't be completed.

        Args:
          terms: banned strings.
          char_ids: id of every character that can be written, 0 <= id < size.
          size: A, number of ids, special ones included; an id without a character leads to the
            start.
          legal_size: V, ids that may be legal; default `size`.
          variants: character -> plain character; `simplified()` where None, {} for none.

        Raises: CatalogError where the table would exceed 1 GiB.
        """
        given = tuple(terms)
        spelled = {i: fold(char, variants) for char, i in char_ids.items()}
        alphabet = sorted({c for text in spelled.values() for c in text})
        symbols = {c: n for n, c in enumerate(alphabet, 1)}  # symbol 0: stands in no term
        patterns = {fold(term, variants) for term in given}
        words = sorted(p for p in patterns if p and all(c in symbols for c in p))
        used = sorted({c for word in words for c in word})
        columns = {c: n for n, c in enumerate(used, 1)}
        states = 1 + len({word[:n] for word in words for n in range(1, len(word) + 1)})
        if states * max(size, 1) * 4 > MAX_TABLE_BYTES:
            raise CatalogError(
                f"banned: {len(given):,} terms need {states:,} states x {size:,} characters, "
                f"{states * size * 4 / 2**30:.1f} GiB, expected at most 1; ban fewer terms"
            )
        delta, ends = _aho_corasick([[columns[c] for c in word] for word in words], len(used) + 1)

        goto = np.zeros((states, size), dtype=np.int32)
        bits = np.zeros((states, size), dtype=bool)
        for i, text in spelled.items():
            state = np.arange(states, dtype=np.int32)
            hit = np.zeros(states, dtype=bool)
            for c in text:
                state = delta[state, columns.get(c, 0)]
                hit |= ends[state]
            goto[:, i] = state
            bits[:, i] = hit
        return cls(goto, pack(bits[:, : size if legal_size is None else legal_size]), given)

    @property
    def states(self) -> int:
        """S, number of states."""
        return int(self.goto.shape[0])

    def run(self, ids: Sequence[int], state: int = START) -> int:
        """The state after writing `ids`; where an automaton changes under a running text."""
        for i in ids:
            state = int(self.goto[state, i])
        return state

    def is_blocked(self, state: int, char_id: int) -> bool:
        """Whether writing `char_id` in `state` would complete a banned term."""
        word = int(self.blocked[state, char_id // 64])
        return bool(word >> (char_id % 64) & 1)


def _aho_corasick(
    words: list[list[int]], symbols: int
) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """Transitions [S, symbols] and "a word ends here" [S] of words over symbols 1..; 0 is none."""
    children: list[dict[int, int]] = [{}]
    terminal = [False]
    for word in words:
        state = START
        for symbol in word:
            following = children[state].get(symbol)
            if following is None:
                following = children[state][symbol] = len(children)
                children.append({})
                terminal.append(False)
            state = following
        terminal[state] = True

    delta = np.zeros((len(children), symbols), dtype=np.int32)
    ends = np.array(terminal, dtype=bool)
    fail = [START] * len(children)
    row = [START]
    for state in row:  # breadth first: a state's failure is always complete before the state
        if state != START:
            delta[state] = delta[fail[state]]
            ends[state] |= ends[fail[state]]
        for symbol, following in children[state].items():
            fail[following] = int(delta[state, symbol]) if state != START else START
            row.append(following)
        for symbol, following in children[state].items():
            delta[state, symbol] = following
    return delta, ends
