"""The longest capped hit at every place of a text, beside daachorse and pyahocorasick.

All subjects read the same text and the same terms in one process, one thread, and must find the
same hits. They take turns at the whole text, and a piece's time is its smallest of several turns:
whatever runs beside can only slow one down. A peer that isn't installed gives no row.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import random
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from flexattn.bench import Row
from flexattn.config import resolve_path
from flexattn.corpus import load_corpus
from flexattn.lexicon.entries import load_catalog
from flexattn.lexicon.index import TailIndex, TermIndex
from flexattn.lexicon.learned import LearnedFilter, LearnedIndex

LENGTHS = (2, 3, 4, 5, 6, 8)
SIZES = {"17k": 17_386, "100k": 100_000, "1m": 1_000_000}

PIECE = 100_000  # characters searched at once
FILTER_TERMS = 100_000  # from more on no filter is fitted here
FILTER_BYTES = 1.0  # of a filter before the exact index, for each term

Search = Callable[[str], npt.NDArray[np.int32]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `flexattn bench lexicon`."""
    parser.add_argument(
        "--terms", nargs="*", default=[], help="TSV files, a term first on each line"
    )
    parser.add_argument(
        "--text", help="a text to search, any UTF-8 file; default: the corpus, shuffled"
    )
    parser.add_argument("--sizes", nargs="*", choices=SIZES, default=list(SIZES))
    parser.add_argument("--characters", type=int, default=2_600_000, help="characters of the text")
    parser.add_argument("--windows", type=int, default=5, help="windows of each measurement")


def run(args: argparse.Namespace) -> Iterator[Row]:
    """Measure search, build time and memory at each size."""
    real = _real_terms(args.terms)
    text = text_of(args.text, args.characters)
    TailIndex.build(real[:50])
    TermIndex.build(real[:50]).longest_hits(text[:5000], LENGTHS)  # compile before the clock runs
    for name in args.sizes:
        terms = _grown(real, SIZES[name])
        yield from _measure(name, terms, text, args.windows)


def _measure(name: str, terms: list[str], text: str, windows: int) -> Iterator[Row]:
    subjects: dict[str, tuple[float, Search]] = {}
    for subject, build in _subjects().items():
        start = time.perf_counter()
        search = build(terms)
        subjects[subject] = (time.perf_counter() - start, search)
    pieces = [text[n : n + PIECE] for n in range(0, len(text), PIECE)]
    expected = [subjects["flexattn"][1](piece) for piece in pieces]
    seconds = {subject: np.full(len(pieces), np.inf) for subject in subjects}
    for _ in range(windows):
        for subject, (_, search) in subjects.items():
            for n, piece in enumerate(pieces):
                start = time.perf_counter()
                hits = search(piece)
                seconds[subject][n] = min(seconds[subject][n], time.perf_counter() - start)
                if not np.array_equal(hits, expected[n]):
                    raise AssertionError(f"lexicon/{name}: {subject} finds other hits")
    for subject, taken in seconds.items():
        rate = len(text) / float(taken.sum()) / 1e6
        yield Row("lexicon", f"hits/{name}", subject, rate, "Mchar/s")
    for subject, (seconds, _) in subjects.items():
        yield Row("lexicon", f"build/{name}", subject, seconds, "s")
    del subjects
    if len(terms) <= FILTER_TERMS:
        yield from _filtered(name, terms, text, expected, windows)
    start = time.perf_counter()
    index = TermIndex.build(terms)
    again = time.perf_counter() - start
    yield Row("lexicon", f"rebuild/{name}", "flexattn", again, "s")
    yield Row("lexicon", f"size/{name}", "flexattn", index.trie.nbytes / 1e6, "MB")
    del index
    tracemalloc.start()
    TermIndex.build(terms)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    yield Row("lexicon", f"build-peak/{name}", "flexattn", peak / 1e6, "MB")
    start = time.perf_counter()
    TailIndex.build(terms)
    yield Row("lexicon", f"tails-build/{name}", "flexattn", time.perf_counter() - start, "s")


def _filtered(
    name: str, terms: list[str], text: str, expected: list[npt.NDArray[np.int32]], windows: int
) -> Iterator[Row]:
    """The exact index behind a learned filter, and behind a plain Bloom filter of its bytes.

    The filter is fitted to the first half of the text; both search the second.
    """
    exact = TermIndex.build(terms)
    half = len(text) // PIECE // 2
    start = time.perf_counter()
    learned = LearnedFilter.fit(terms, [text[: half * PIECE]], round(FILTER_BYTES * len(terms)))
    fitted = time.perf_counter() - start
    fronts = {
        "flexattn": LearnedIndex(exact, learned),
        "bloom": LearnedIndex(exact, LearnedFilter.plain(terms, learned.nbytes)),
    }
    pieces = range(half, len(expected))
    seconds = {subject: np.full(len(expected), np.inf) for subject in fronts}
    for _ in range(windows):
        for subject, front in fronts.items():
            for n in pieces:
                piece = text[n * PIECE : (n + 1) * PIECE]
                start = time.perf_counter()
                hits = front.longest_hits(piece, LENGTHS)
                seconds[subject][n] = min(seconds[subject][n], time.perf_counter() - start)
                if not np.array_equal(hits, expected[n]):
                    raise AssertionError(f"lexicon/{name}: behind {subject} there are other hits")
    searched = len(text) - half * PIECE
    for subject, taken in seconds.items():
        rate = searched / float(taken[half:].sum()) / 1e6
        yield Row("lexicon", f"filtered-hits/{name}", subject, rate, "Mchar/s")
    yield Row("lexicon", f"filter-fit/{name}", "flexattn", fitted, "s")
    for subject, front in fronts.items():
        yield Row("lexicon", f"filter-size/{name}", subject, front.filter.nbytes / 1e6, "MB")


def _subjects() -> dict[str, Callable[[list[str]], Search]]:
    found: dict[str, Callable[[list[str]], Search]] = {"flexattn": _flexattn}
    if importlib.util.find_spec("daachorse"):
        found["daachorse"] = _daachorse
    if importlib.util.find_spec("ahocorasick"):
        found["pyahocorasick"] = _pyahocorasick
    return found


def _flexattn(terms: list[str]) -> Search:
    index = TermIndex.build(terms)
    return lambda text: index.longest_hits(text, LENGTHS)


def _daachorse(terms: list[str]) -> Search:
    import daachorse

    automaton = daachorse.CharwiseDoubleArrayAhoCorasick(terms)

    def search(text: str) -> npt.NDArray[np.int32]:
        hits = np.full(len(text), -1, np.int32)
        found = np.array(automaton.find_overlapping(text), np.int32).reshape(-1, 3)
        # by end: of the terms that start at one place the longest comes last
        hits[found[:, 0]] = found[:, 2]
        return hits

    return search


def _pyahocorasick(terms: list[str]) -> Search:
    import ahocorasick

    automaton = ahocorasick.Automaton()
    for n, term in enumerate(terms):
        automaton.add_word(term, (n, len(term) - 1))
    automaton.make_automaton()

    def search(text: str) -> npt.NDArray[np.int32]:
        hits = np.full(len(text), -1, np.int32)
        for end, (n, back) in automaton.iter(text):
            hits[end - back] = n
        return hits

    return search


def _real_terms(files: Sequence[str]) -> list[str]:
    """Terms of the files, else of the medical catalog; with a length in U, each once."""
    if files:
        lines = [line for f in files for line in Path(f).read_text("utf-8").splitlines()]
        every = [line.split("\t")[0] for line in lines]
    else:
        every = [e.term for e in load_catalog(resolve_path("catalogs/medical.json")).entries]
    return [term for term in dict.fromkeys(every) if len(term) in LENGTHS]


def _grown(real: list[str], size: int) -> list[str]:
    """The first `size` terms, filled up with pieces of two terms run together."""
    rng = random.Random(size)
    terms = dict.fromkeys(real[:size])
    while len(terms) < size:
        pair = rng.choice(real) + rng.choice(real)
        term = pair[: rng.choice(LENGTHS[1:])]
        if len(term) in LENGTHS:
            terms[term] = None
    return list(terms)


def text_of(file: str | None, characters: int) -> str:
    """The file's text, or answers and questions of the medical corpus in random order."""
    if file:
        lines = Path(file).read_text("utf-8").splitlines()
        parts = [_words(line) for line in lines]
    else:
        records = load_corpus(resolve_path("corpora/medical.jsonl")).records
        parts = [piece for r in records for piece in (r.answer, *r.questions)]
        rng = random.Random(1)
        parts = rng.choices(parts, k=2 * characters * len(parts) // sum(map(len, parts)))
    return "".join(parts)[:characters]


def _words(line: str) -> str:
    """A line of text; of a JSON object its values."""
    try:
        value: Any = json.loads(line)
    except ValueError:
        return line
    return "".join(map(str, value.values())) if isinstance(value, dict) else line
