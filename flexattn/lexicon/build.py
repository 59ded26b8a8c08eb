"""A catalog is built from term lists and train answers; nothing is dropped without a line about it.

df counts the train answers that hold a term. Zipf comes from the list, else from the background,
else from the earlier version. A term keeps the id of the earlier versions; a new term gets an id
that none of them used.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from flexattn.lexicon.banned import fold
from flexattn.lexicon.defects import SCHEMA, is_mark, term_defect
from flexattn.lexicon.entries import Catalog
from flexattn.lexicon.sources import Background, Listed

MIN_PROPOSAL_COUNT = 3
# characters that link words rather than begin or end terms
LINKING = frozenset("的和与及或等是在为可有者时以并由经对将使其于从被而但也后前中上下")


@dataclass
class Report:
    """What `build` did with the lists; every list of (where, what) pairs or of terms."""

    listed: int = 0
    kept: int = 0
    new: int = 0
    retired: list[str] = field(default_factory=list)
    duplicates: list[str] = field(default_factory=list)
    conflicts: list[str] = field(default_factory=list)
    too_short: list[str] = field(default_factory=list)
    too_long: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    banned_inside: list[str] = field(default_factory=list)
    inside_longer: list[str] = field(default_factory=list)
    without_zipf: int = 0
    unseen: int = 0


def build_catalog(
    listed: Sequence[Listed],
    answers: Sequence[str],
    *,
    name: str,
    version: str,
    language: str = "zh",
    background: Background | None = None,
    previous: Sequence[Catalog] = (),
    banned: Sequence[str] = (),
    min_chars: int = 2,
    max_chars: int = 8,
) -> tuple[dict[str, Any], Report]:
    """The object of a catalog file, and what happened to each listed term.

    Args:
      listed: lines of the term lists, in order; the first line of a term counts.
      answers: train answers, NFC.
      name: goes into the file, as do the next two.
      version: any text.
      language: such as "zh".
      background: everyday word counts.
      previous: earlier versions, newest last; ids follow them.
      banned: strings that may never be written; a term that holds one is left out.
      min_chars: shorter terms are left out.
      max_chars: longer terms are left out.
    """
    report = Report(listed=len(listed))
    chosen = _choose(listed, report, min_chars, max_chars, banned)
    df = document_frequencies(chosen, answers)
    ids = _stable_ids(chosen, previous)
    latest = previous[-1].by_term if previous else {}
    entries = []
    for term, line in chosen.items():
        zipf = line.zipf
        if zipf is None and background is not None:
            zipf = background.zipf(term)
        if zipf is None and term in latest:
            zipf = latest[term].zipf
        entry: dict[str, Any] = {"id": ids[term], "term": term, "df": df[term], "zipf": zipf}
        kind = line.kind or (latest[term].kind if term in latest else None)
        if kind:
            entry["kind"] = kind
        if line.source:
            entry["source"] = line.source
        entries.append(entry)
    entries.sort(key=lambda entry: entry["id"])
    report.kept = len(entries)
    report.new = sum(1 for term in chosen if term not in latest) if previous else len(entries)
    report.retired = [term for term in latest if term not in chosen]
    report.without_zipf = sum(1 for entry in entries if entry["zipf"] is None)
    report.unseen = sum(1 for entry in entries if entry["df"] == 0)
    report.inside_longer = [f"{short} in {long}" for short, long in contained(chosen)]
    catalog = {
        "schema": SCHEMA,
        "name": name,
        "version": version,
        "language": language,
        "lengths": sorted({len(term) for term in chosen}),
        "documents": len(answers),
        "entries": entries,
        "banned": list(banned),
    }
    return catalog, report


def document_frequencies(terms: Iterable[str], answers: Sequence[str]) -> dict[str, int]:
    """For each term, the answers that hold it, overlaps and all."""
    df = dict.fromkeys(terms, 0)
    lengths = sorted({len(term) for term in df})
    for answer in answers:
        spans = {
            answer[start : start + length]
            for length in lengths
            for start in range(len(answer) - length + 1)
        }
        for span in spans:
            if span in df:
                df[span] += 1
    return df


def contained(terms: Iterable[str]) -> Iterator[tuple[str, str]]:
    """(short, long) where a term stands inside a longer one; the first such longer one."""
    known = dict.fromkeys(terms)
    lengths = sorted({len(term) for term in known})
    seen: set[str] = set()
    for long in known:
        for length in lengths:
            if length >= len(long):
                break
            for start in range(len(long) - length + 1):
                short = long[start : start + length]
                if short in known and short not in seen:
                    seen.add(short)
                    yield short, long


def propose_terms(
    answers: Sequence[str],
    known: Iterable[str],
    background: Background | None,
    min_chars: int = 2,
    max_chars: int = 8,
    top: int = 200,
) -> list[tuple[str, int, float]]:
    """Spans of the answers that look like terms and aren't in the catalog, best first.

    A span qualifies where it comes at least `MIN_PROPOSAL_COUNT` times, holds no mark, cuts through
    no known term, coheres (its parts come together more often than by chance) and stands free
    (different characters before it and after it). Keyness is Dunning's log-likelihood G2 of its
    count against the background.

    Returns: (span, count, keyness) triples.
    """
    known_terms = set(known)
    counts, before, after = _span_counts(answers, max_chars, known_terms)
    characters = sum(map(len, answers))
    words = max(1.0, characters / 1.7)  # words in the answers, at the usual 1.7 characters a word
    proposals = []
    for span, count in counts.items():
        if count < MIN_PROPOSAL_COUNT or not min_chars <= len(span) <= max_chars:
            continue
        free = sum(before[span].values())
        if span in known_terms or free < MIN_PROPOSAL_COUNT:
            continue
        if span[0] in LINKING or span[-1] in LINKING or _is_made_of(span, known_terms):
            continue
        if max(before[span].values()) > 0.5 * free or max(after[span].values()) > 0.5 * free:
            continue
        cohesion = min(
            count * characters / (counts[span[:cut]] * counts[span[cut:]])
            for cut in range(1, len(span))
        )
        if cohesion < 10.0:
            continue
        elsewhere = background.counts.get(span, 0) if background else 0
        total = background.total if background else 60_000_000
        proposals.append((span, free, log_likelihood(free, words, elsewhere, total)))
    proposals.sort(key=lambda item: (-item[2], item[0]))
    return proposals[:top]


def log_likelihood(a: int, n: float, b: int, m: float) -> float:
    """G2 = 2 (a ln(a / E1) + b ln(b / E2)), E1 = n (a+b)/(n+m), E2 = m (a+b)/(n+m); >= 0.

    Args:
      a: count in the text of interest.
      n: size of that text.
      b: count in the background.
      m: size of the background.

    Source: Dunning 1993, Accurate methods for the statistics of surprise and coincidence.
    """
    share = (a + b) / (n + m)
    value = 0.0
    for count, size in ((a, n), (b, m)):
        if count:
            value += count * math.log(count / (size * share))
    return max(0.0, 2.0 * value)


def _choose(
    listed: Sequence[Listed], report: Report, min_chars: int, max_chars: int, banned: Sequence[str]
) -> dict[str, Listed]:
    chosen: dict[str, Listed] = {}
    folded = sorted(filter(None, map(fold, banned)))
    forbidden = re.compile("|".join(map(re.escape, folded))) if folded else None
    for line in listed:
        term = line.term
        first = chosen.get(term)
        if first is not None:
            report.duplicates.append(f"{line.where}: '{term}' stands already at {first.where}")
            if line.kind and first.kind and line.kind != first.kind:
                report.conflicts.append(
                    f"{line.where}: '{term}' is {line.kind}, but {first.kind} at {first.where}"
                )
            continue
        if len(term) < min_chars:
            report.too_short.append(f"{line.where}: '{term}'")
        elif len(term) > max_chars:
            report.too_long.append(f"{line.where}: '{term}'")
        elif (defect := term_defect(term)) is not None:
            report.refused.append(f"{line.where}: '{term}' {defect}")
        elif forbidden is not None and forbidden.search(fold(term)):
            report.banned_inside.append(f"{line.where}: '{term}'")
        else:
            chosen[term] = line
    return chosen


def _stable_ids(terms: Mapping[str, Listed], previous: Sequence[Catalog]) -> dict[str, int]:
    known: dict[str, int] = {}
    used = 0
    for catalog in previous:
        for entry in catalog.entries:
            known[entry.term] = entry.id
            used = max(used, entry.id)
    ids = {}
    for term in terms:
        if term not in known:
            used += 1
            known[term] = used
        ids[term] = known[term]
    return ids


def _span_counts(
    answers: Sequence[str], max_chars: int, known: set[str]
) -> tuple[Counter[str], dict[str, Counter[str]], dict[str, Counter[str]]]:
    """Counts of all spans without marks, and the neighbours of those that cut no known term."""
    counts: Counter[str] = Counter()
    before: dict[str, Counter[str]] = defaultdict(Counter)
    after: dict[str, Counter[str]] = defaultdict(Counter)
    lengths = sorted({len(term) for term in known}, reverse=True)
    for number, answer in enumerate(answers):
        inside = _inside_terms(answer, known, lengths)
        for start in range(len(answer)):
            for stop in range(start + 1, min(len(answer), start + max_chars) + 1):
                if is_mark(answer[stop - 1]):
                    break
                span = answer[start:stop]
                counts[span] += 1
                if start in inside or stop in inside:
                    continue
                # an edge of a clause is a free neighbour: each one counts as another character
                left = answer[start - 1] if start else ""
                right = answer[stop] if stop < len(answer) else ""
                before[span][left if left and not is_mark(left) else f"<{number}:{start}"] += 1
                after[span][right if right and not is_mark(right) else f">{number}:{stop}"] += 1
    return counts, before, after


def _is_made_of(span: str, known: set[str]) -> bool:
    """Whether known terms alone make up the span."""
    reachable = {0}
    for stop in range(1, len(span) + 1):
        if any(span[start:stop] in known for start in reachable):
            reachable.add(stop)
    return len(span) in reachable


def _inside_terms(answer: str, known: set[str], lengths: Sequence[int]) -> set[int]:
    """Places of `answer` that lie strictly inside a known term, leftmost-longest."""
    inside: set[int] = set()
    place = 0
    while place < len(answer):
        length = next((n for n in lengths if answer[place : place + n] in known), 1)
        inside.update(range(place + 1, place + length))
        place += length
    return inside
