"""Ids are PAD 0, END 1, UNK 2, then the train answers' characters by code point, then all others.

Only ids below `size` can be written. Characters of other answers get ids from `size` on, so that
arithmetic on held-out answers stays exact; an agent sees them as UNK. Anything else is UNK.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from flexattn.lexicon.entries import PUNCTUATION

PAD, END, UNK = 0, 1, 2
SPECIALS = 3
SENTENCE_ENDS = frozenset("。！？!?…")

Ids = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Vocabulary:
    """Characters and their ids.

    Args:
      train: characters of the train answers, increasing code points.
      others: further characters of the corpus, increasing code points.
    """

    train: str
    others: str = ""
    ids: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        every = self.train + self.others
        object.__setattr__(self, "ids", {char: n + SPECIALS for n, char in enumerate(every)})

    @classmethod
    def build(cls, train: Iterable[str], every: Iterable[str] = ()) -> Vocabulary:
        """Vocabulary of train texts, and of all texts beside."""
        known = set().union(*map(set, train))
        others = set().union(*map(set, every)) - known
        return cls("".join(sorted(known)), "".join(sorted(others)))

    @property
    def size(self) -> int:
        """V: ids that an action may have, specials included."""
        return SPECIALS + len(self.train)

    @property
    def alphabet(self) -> int:
        """A: all ids, V and those that only the arithmetic knows."""
        return self.size + len(self.others)

    def encode(self, text: str) -> Ids:
        """Ids of a text, [T] int32; UNK for a character that the corpus doesn't have."""
        ids = self.ids
        return np.fromiter((ids.get(char, UNK) for char in text), np.int32, len(text))

    def encode_all(self, texts: Iterable[str]) -> Ids:
        """Ids of many texts behind one another, two PAD before each text and at the end."""
        joined = "\0\0" + "\0\0".join(texts) + "\0\0"
        points = np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), np.uint32)
        return self.by_point[points]

    @cached_property
    def by_point(self) -> Ids:
        """Id of every code point, [0x110000] int32; PAD for U+0000, UNK for the unknown."""
        table = np.full(sys.maxunicode + 1, UNK, np.int32)
        table[0] = PAD
        table[[ord(char) for char in self.ids]] = list(self.ids.values())
        return table

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ids; END and PAD are nothing, UNK is U+FFFD."""
        return "".join(self.char(n) for n in ids)

    def char(self, n: int) -> str:
        """Character of one id; "" for END and PAD, U+FFFD for UNK."""
        if n < SPECIALS:
            return "\ufffd" if n == UNK else ""
        n -= SPECIALS
        return self.train[n] if n < len(self.train) else self.others[n - len(self.train)]

    def visible(self, ids: Ids) -> Ids:
        """The same ids as an agent sees them: UNK from `size` on."""
        return np.where(ids < self.size, ids, UNK).astype(np.int32, copy=False)

    def members(self, chars: Iterable[str]) -> npt.NDArray[np.bool_]:
        """Which ids are among `chars`, [A] bool."""
        wanted = frozenset(chars)
        row = np.zeros(self.alphabet, np.bool_)
        row[[n for char, n in self.ids.items() if char in wanted]] = True
        return row

    @property
    def marks(self) -> npt.NDArray[np.bool_]:
        """Which ids are punctuation, [A] bool."""
        return self.members(PUNCTUATION)
