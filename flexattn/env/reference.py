"""The step's definition, slow and plain: strings, sets and loops, no tables and no compiled code.

    R = base + eta1 chi_soft + eta2 ler - len_cost
    base = progress (LCS(h a, y) - LCS(h, y)) / |y| - P
    A(s) = what may follow, as `mask` says it, minus what would complete a banned term

It shares the lexicon's plain definitions and nothing of `core`, so that a replay can ask a second
opinion. Thousands of times slower than the core.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

from flexattn.corpus import Record
from flexattn.env.settings import Settings
from flexattn.lexicon.banned import fold
from flexattn.lexicon.entries import PUNCTUATION, Catalog
from flexattn.lexicon.reference import gram_weights, grams, longest_capped_hit, similarity
from flexattn.lexicon.weights import term_weight

SENTENCE_ENDS = "。！？!?…"
FEWEST = 3  # characters that the guide must leave


def common(a: str, b: str) -> int:
    """Length of the longest common subsequence."""
    row = [0] * (len(b) + 1)
    for x in a:
        above, row = row, [0]
        for j, y in enumerate(b):
            row.append(above[j] + 1 if x == y else max(above[j + 1], row[j]))
    return row[-1]


class Domain:
    """Corpus, catalog and settings as plain values."""

    def __init__(self, records: Sequence[Record], catalog: Catalog, settings: Settings) -> None:
        """Count everything over the train answers."""
        self.settings = settings
        self.records = {record.id: record for record in records}
        self.answers = [record.answer for record in records if record.split == "train"]
        self.terms = {
            entry.term: term_weight(
                entry.term, entry.df, catalog.documents, entry.zipf, settings.two_char
            )
            for entry in catalog.entries
        }
        self.entries = {entry.term: f"{catalog.file}#{entry.id}" for entry in catalog.entries}
        self.banned = [plain for term in catalog.banned if (plain := fold(term))]
        self.gram_weight = gram_weights(self.answers)
        self.mean_grams = sum(len(grams(y)) for y in self.answers) / len(self.answers)
        self.mean_chars = sum(map(len, self.answers)) / len(self.answers)

    @cached_property
    def vocabulary(self) -> frozenset[str]:
        """Characters that may be written."""
        return frozenset("".join(self.answers))

    def stricter(self, banned: Iterable[str]) -> Domain:
        """The same with further banned strings."""
        made = copy.copy(self)
        made.banned = self.banned + [plain for term in banned if (plain := fold(term))]
        return made

    @cached_property
    def seen(self) -> frozenset[str]:
        """Bigrams of train answers and terms."""
        return frozenset(
            text[i : i + 2] for text in (*self.answers, *self.terms) for i in range(len(text) - 1)
        )

    @cached_property
    def behind(self) -> dict[tuple[int, str], set[str]]:
        """(k, a character, "" for a text's start) -> characters k places behind it, k <= reach."""
        found: dict[tuple[int, str], set[str]] = {}
        for text in (*self.answers, *self.terms):
            texts = ["", *text]
            for k in range(1, self.settings.guide_reach + 1):
                for first, second in zip(texts, texts[k:]):
                    found.setdefault((k, first), set()).add(second)
        return found

    def legal(self, history: str) -> set[str]:
        """A(s) behind `history`; "" is the end."""
        marks = {c for c in self.vocabulary if c in PUNCTUATION}
        writable = set(self.vocabulary)
        if not history:
            writable -= marks - {y[0] for y in self.answers}
        elif history[-1] in marks and not any(2 * history[-1] in y for y in self.answers):
            writable.discard(history[-1])
        writable = {c for c in writable if not self._bans(history, c)}
        allowed = writable
        if self.settings.guide == "ngram":
            written = ["", *history]
            guide: set[str] = set()
            for k in range(1, min(self.settings.guide_reach, len(written)) + 1):
                guide |= self.behind.get((k, written[-k]), set())
            allowed = writable & guide
            if len(allowed) < FEWEST:
                allowed = writable
        ends = history and (history[-1] in SENTENCE_ENDS or len(history) >= self.mean_chars / 2)
        return allowed | {""} if ends or not allowed else set(allowed)

    def _bans(self, history: str, char: str) -> bool:
        added = fold(char)
        if not added:
            return False
        text = fold(history[-80:]) + added
        return any(term in text[-(len(term) + len(added) - 1) :] for term in self.banned)


def second_opinion(
    domain: Domain,
    record: str,
    steps: Sequence[Mapping[str, Any]],
    tolerance: float = 1e-9,
    bans: Mapping[int, Sequence[str]] | None = None,
) -> tuple[int, str] | None:
    """The first step of a training's episode in which the log and the definition part.

    Args:
      domain: corpus, catalog and settings.
      record: id of the episode's record.
      steps: its step lines, parsed.
      tolerance: on numbers, since the definition sums in another order.
      bans: number of a step, from 1 -> what is banned from there on too.

    Returns: (index of the step, what differs in words), None where nothing does.
    """
    source = domain.records[record]
    episode = Episode(domain, source.answer, source.logprobs)
    for t, step in enumerate(steps):
        if bans and t + 1 in bans:
            episode.domain = episode.domain.stricter(bans[t + 1])
        found = episode.step(step["Lh"], step["Lp"], step["a"], step.get("w"))
        if not found.pop("legal"):
            return t, f"a is {step['a']!r}, which the mask's definition does not allow"
        for name, value in found.items():
            number = isinstance(value, float)
            apart = abs(step[name] - value) > tolerance if number else step[name] != value
            if apart:
                return t, f"{name} is {step[name]}, by definition {value}"
    return None


class Episode:
    """One answer being written."""

    def __init__(self, domain: Domain, answer: str, logprobs: Any = None) -> None:
        """Stand at the start of `answer`."""
        self.domain, self.answer, self.logprobs = domain, answer, logprobs
        self.history = ""
        self.pointer = 0
        self.covered = 0
        self.credits: dict[str, int] = {}

    def step(self, lh: int, lp: int, char: str, written: str | None = None) -> dict[str, Any]:
        """Every number of one step; "" ends the answer.

        Args:
          lh: Lh, characters.
          lp: Lp, characters.
          char: the character a.
          written: what enters the history, where it is another one.
        """
        s, d, t, p, y = (
            self.domain.settings,
            self.domain,
            len(self.history),
            self.pointer,
            self.answer,
        )
        put = char if written is None else written
        legal = d.legal(self.history)
        seg = (
            longest_capped_hit(char, y[p + 1 :], d.terms, s.lengths, lp) or "" if p < len(y) else ""
        )
        if seg and not s.nested and t < self.covered and t + len(seg) <= self.covered:
            seg = ""
        sim = weight = delta = ler = 0.0
        if seg:
            weight = d.terms[seg]
            sim = similarity(
                self.history, seg, y, p, d.gram_weight, d.mean_grams,
                window=s.gate_window, mix=s.gate_mix, k1=s.gate_k1, b=s.gate_b,
            )  # fmt: skip
            gated = s.lambda_lex * max(0.0, sim - s.semantic_gate) * weight
            delta = s.lambda_lex if s.bonus == "hard" else gated
            ler = delta * s.repeat ** self.credits.get(seg, 0)
        if delta > 0.0:
            self.credits[seg] = self.credits.get(seg, 0) + 1
            if put == char:
                self.covered = max(self.covered, t + len(seg))
        gain = common(self.history + char, y) - common(self.history, y) if char else 0
        base = s.progress * gain / max(1, len(y)) - (self._penalty(char) if char else 0.0)
        chi = self._match(char)
        longest = max(s.lengths)
        cost = s.lambda_h * (lh / longest) ** s.alpha_h + s.lambda_p * (lp / longest) ** s.alpha_p
        self.pointer = self._next(char)
        self.history += put
        return {
            "seg": seg or "-", "len": len(seg), "idf": weight, "sim": sim, "delta": delta,
            "ler": ler, "len_cost": cost, "base": base, "chi_soft": chi,
            "reward": base + s.eta1 * chi + s.eta2 * ler - cost,
            "file": d.entries[seg] if seg else "-", "n_legal": len(legal), "legal": char in legal,
        }  # fmt: skip

    def _penalty(self, char: str) -> float:
        s, h = self.domain.settings, self.history
        total = s.p_punct if char in PUNCTUATION else 0.0
        if len(h) >= 2 and h[-2:] + char in h:
            total += s.p_repeat
        pair = h[-1:] + char
        if len(pair) == 2 and not PUNCTUATION & set(pair) and pair not in self.domain.seen:
            total += s.p_noncompliant
        return total

    def _match(self, char: str) -> float:
        s, p, y = self.domain.settings, self.pointer, self.answer
        if not char:
            return float(p >= len(y))
        if s.soft == "teacher" and self.logprobs is not None:
            shares: Mapping[str, float] = self.logprobs[p] if p < len(y) else {}
            return math.exp(shares[char]) if char in shares else 0.0
        if y[p : p + 1] == char:
            return 1.0
        return s.near if char in y[max(0, p - s.radius) : p + s.radius + 1] else 0.0

    def _next(self, char: str) -> int:
        s, p, y = self.domain.settings, self.pointer, self.answer
        if s.align == "resync" and char and y[p : p + 1] != char:
            ahead = y[p + 1 : p + 1 + s.radius].find(char)
            if ahead >= 0:
                return min(len(y), p + 2 + ahead)
        return min(len(y), p + 1)
