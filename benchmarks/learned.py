"""What a learned filter lets through, beside a plain Bloom filter of the same bytes.

    python -m benchmarks.learned --text medical_dialogue.jsonl LISTS/*.tsv catalogs/medical.json

A filter is fitted to the first half of the text. Counted are the spans of the second half that are
no terms, at every place and each length in U: how many of them pass. Beside them the bigram bitmap
that the exact index begins with. One line for each list and budget, as a table.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from benchmarks.lexicon import LENGTHS, text_of
from flexattn.lexicon.columns import Terms
from flexattn.lexicon.entries import load_catalog
from flexattn.lexicon.learned import LearnedFilter, span_hashes
from flexattn.lexicon.sources import read_term_list

BUDGETS = (0.25, 0.5, 1.0, 1.5, 2.0)  # bytes a term
CHARACTERS = 400_000


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("lists", nargs="+", help="term lists or catalogs")
    parser.add_argument("--text", help="a text to search; default: the corpus, shuffled")
    args = parser.parse_args()
    text = text_of(args.text, CHARACTERS)
    half = len(text) // 2
    spans = Terms.of([text[i : i + n] for n in LENGTHS for i in range(half, len(text) - n)])
    hashes = span_hashes(spans.points, spans.start, spans.size)
    print("| list | terms | bytes a term | learned | plain Bloom | bigram bitmap | model's share |")
    print("|---|---|---|---|---|---|---|")
    for name in args.lists:
        terms = terms_of(name)
        known = Terms.of(terms)
        new = ~np.isin(hashes, span_hashes(known.points, known.start, known.size))
        others = list(spans.some(np.flatnonzero(new)))
        pairs = {term[:2] for term in terms}
        bitmap = sum(span[:2] in pairs for span in others) / len(others)
        for budget in BUDGETS:
            learned = LearnedFilter.fit(terms, [text[:half]], round(budget * len(terms)))
            plain = LearnedFilter.plain(terms, learned.nbytes)
            rates = [passed(made, terms, others) for made in (learned, plain)]
            share = (learned.weights.nbytes + learned.bias.nbytes) / learned.nbytes
            print(
                f"| {Path(name).stem} | {len(terms):,} | {learned.nbytes / len(terms):.2f} | "
                f"{rates[0]:.2%} | {rates[1]:.2%} | {bitmap:.2%} | {share:.0%} |",
                flush=True,
            )
    return 0


def passed(made: LearnedFilter, terms: list[str], others: list[str]) -> float:
    """Share of the other spans that pass, once all terms did."""
    assert made.perhaps(terms).all()
    return float(made.perhaps(others).mean())


def terms_of(name: str) -> list[str]:
    """Terms of a catalog or a list with a length in U, each once."""
    if name.endswith(".json"):
        every = [entry.term for entry in load_catalog(name).entries]
    else:
        every = [line.term for line in read_term_list(name)]
    return [term for term in dict.fromkeys(every) if len(term) in LENGTHS]


if __name__ == "__main__":
    sys.exit(main())
