"""One line of `evaluations.jsonl` is one answer under one regime: asked, written and scored.

`train` writes these lines; `report` reads them and never runs a network. Sums stand beside means,
so that a selectivity over all steps of all answers can be derived from the lines alone.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson

from flexattn.errors import AuditError
from flexattn.evaluation import metrics
from flexattn.evaluation.metrics import Terms
from flexattn.lexicon.entries import PUNCTUATION
from flexattn.lexicon.reference import grams

REGIMES = (
    "greedy",             # train phrasings of train terms, no sampling
    "heldout_phrasing",   # phrasings that training never saw, greedy
    "heldout_term",       # terms that training never saw, greedy
    "top_p",              # train phrasings, sampled as online
    "noise_3",            # train phrasings, 3 % of the written characters replaced
    "noise_10",           # the same at 10 %
)  # fmt: skip
ANSWER_KPIS = (
    "term_recall", "rouge_l", "word_noncompliance", "typo_rate", "net_lexical", "hit_rate",
    "long_term_share", "top100_share",
)  # fmt: skip
BERT_SCORE = "bert_score"  # beside them where a model is configured


@dataclass(frozen=True, slots=True)
class Row:
    """One scored answer.

    Attributes:
      regime: one of REGIMES.
      step: training step of the evaluation.
      record: id of the teacher answer.
      prompt: the question.
      output: what the student wrote.
      reference: the teacher's answer.
      kpis: name -> value, None where the answer doesn't define it.
      Lh: mean, characters.
      Lp: mean, characters.
      Lh_steps: choice of Lh -> steps.
      Lp_steps: choice of Lp -> steps.
      turning: steps at a clause's or term's first character, and the sum of Lh there.
      opening: steps where a long cap can pay, and the sum of Lp there.
      characters: written or cloned in training before this evaluation.
    """

    regime: str
    step: int
    record: str
    prompt: str
    output: str
    reference: str
    kpis: Mapping[str, float | None]
    Lh: float
    Lp: float
    Lh_steps: Mapping[str, int]
    Lp_steps: Mapping[str, int]
    turning: tuple[int, int]
    opening: tuple[int, int]
    characters: int = 0

    def line(self) -> bytes:
        """The row as one line of JSON, floats rounded to 9 decimals, with its newline."""
        return orjson.dumps(_rounded(asdict(self)), option=orjson.OPT_APPEND_NEWLINE)


@dataclass(frozen=True)
class Decisions:
    """The logged columns of one written answer, [T] each, the end step included."""

    history_chars: Sequence[int]
    hit_cap_chars: Sequence[int]
    pointers: Sequence[int]
    segments: Sequence[str]
    ler: Sequence[float]
    len_cost: Sequence[float]


@dataclass(frozen=True)
class Scorer:
    """Scores answers against one corpus and one catalog; prepared once."""

    terms: Terms
    bigrams: frozenset[str]
    chars: frozenset[str]
    top: frozenset[str]
    lengths: tuple[int, ...]
    caps: tuple[int, ...]

    @classmethod
    def of(
        cls,
        train: Iterable[str],
        document_frequency: Mapping[str, int],
        lengths: Sequence[int],
        caps: Sequence[int],
    ) -> Scorer:
        """Count what is compliant over train answers and terms.

        Args:
          train: answers of the train split.
          document_frequency: term -> df, the whole catalog.
          lengths: U, characters.
          caps: P, characters.
        """
        texts = [*train, *document_frequency]
        return cls(
            terms=Terms.of(document_frequency),
            bigrams=frozenset(gram for text in texts for gram in grams(text)),
            chars=frozenset().union(*map(frozenset, texts)),
            top=metrics.most_frequent(document_frequency),
            lengths=tuple(lengths),
            caps=tuple(caps),
        )

    def kpis(self, output: str, reference: str, made: Decisions) -> dict[str, float | None]:
        """Every KPI of one answer, in the order of ANSWER_KPIS."""
        return {
            "term_recall": metrics.term_recall(output, reference, self.terms),
            "rouge_l": metrics.rouge_l(output, reference),
            "word_noncompliance": metrics.word_noncompliance(
                output, self.bigrams, self.chars, PUNCTUATION
            ),
            "typo_rate": metrics.typo_rate(output, reference, self.terms),
            "net_lexical": metrics.net_lexical(made.ler, made.len_cost),
            "hit_rate": metrics.hit_rate(made.segments),
            "long_term_share": metrics.long_term_share(made.segments),
            "top100_share": metrics.top100_share(made.segments, self.top),
        }

    def row(
        self,
        regime: str,
        step: int,
        record: str,
        prompt: str,
        output: str,
        reference: str,
        made: Decisions,
    ) -> Row:
        """Score one written answer."""
        opening = metrics.opening_places(
            reference, self.terms.terms, self.lengths, self.caps, PUNCTUATION
        )
        turning = metrics.turning_places(reference, self.terms, PUNCTUATION)
        steps = max(1, len(made.pointers))
        return Row(
            regime, step, record, prompt, output, reference,
            self.kpis(output, reference, made),
            Lh=sum(made.history_chars) / steps,
            Lp=sum(made.hit_cap_chars) / steps,
            Lh_steps=_counts(made.history_chars),
            Lp_steps=_counts(made.hit_cap_chars),
            turning=_marked(made.history_chars, metrics.at_pointers(turning, made.pointers)),
            opening=_marked(made.hit_cap_chars, metrics.at_pointers(opening, made.pointers)),
        )  # fmt: skip


def summary(rows: Collection[Row]) -> dict[str, float | None]:
    """KPIs of one regime at one step: means over answers, selectivities over all their steps."""
    found = {name: metrics.mean(row.kpis.get(name) for row in rows) for name in ANSWER_KPIS}
    found[BERT_SCORE] = metrics.mean(row.kpis.get(BERT_SCORE) for row in rows)
    found["lp_selectivity"] = _selectivity(
        [row.opening for row in rows], [row.Lp_steps for row in rows]
    )
    found["lh_selectivity"] = _selectivity(
        [row.turning for row in rows], [row.Lh_steps for row in rows]
    )
    for name, made in (("Lh", [r.Lh_steps for r in rows]), ("Lp", [r.Lp_steps for r in rows])):
        counts = choice_counts(made)
        shares = metrics.histogram(counts.elements(), sorted(counts))
        found[f"{name}_entropy"] = metrics.entropy(shares) if counts else None
    return found


def choice_counts(rows: Iterable[Mapping[str, int]]) -> Counter[int]:
    """Steps of each choice over several rows' `Lh_steps` or `Lp_steps`."""
    total: Counter[int] = Counter()
    for counts in rows:
        total.update({int(choice): n for choice, n in counts.items()})
    return total


def read_rows(path: Path) -> Iterator[Row]:
    """Read `evaluations.jsonl`, line by line.

    Raises: AuditError naming file, line and what is missing.
    """
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            yield _parse(line, f"{path}:{number}")


def _parse(line: bytes, where: str) -> Row:
    try:
        tree: Any = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise AuditError(f"{where}: is no JSON: {error}; the file was cut or changed") from None
    try:
        kpis = {str(name): _number(value) for name, value in tree["kpis"].items()}
        return Row(
            str(tree["regime"]), int(tree["step"]), str(tree["record"]), str(tree["prompt"]),
            str(tree["output"]), str(tree["reference"]), kpis, float(tree["Lh"]), float(tree["Lp"]),
            _steps(tree["Lh_steps"]), _steps(tree["Lp_steps"]),
            _pair(tree["turning"]), _pair(tree["opening"]), int(tree["characters"]),
        )  # fmt: skip
    except KeyError as error:
        raise AuditError(f"{where}: {error.args[0]} is missing in an evaluation row") from None
    except (TypeError, ValueError, AttributeError) as error:
        raise AuditError(f"{where}: is no evaluation row: {error}") from None


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def _steps(tree: Mapping[str, Any]) -> dict[str, int]:
    return {str(int(choice)): int(count) for choice, count in tree.items()}


def _pair(values: Sequence[Any]) -> tuple[int, int]:
    count, total = values
    return int(count), int(total)


def _counts(values: Sequence[int]) -> dict[str, int]:
    return {str(choice): count for choice, count in sorted(Counter(map(int, values)).items())}


def _marked(values: Sequence[int], marks: Sequence[bool]) -> tuple[int, int]:
    there = [int(value) for value, mark in zip(values, marks, strict=True) if mark]
    return len(there), sum(there)


def _selectivity(
    marked: Iterable[tuple[int, int]], steps: Iterable[Mapping[str, int]]
) -> float | None:
    here = there = here_sum = there_sum = 0
    for (count, total), choices in zip(marked, steps, strict=True):
        here, here_sum = here + count, here_sum + total
        there += sum(choices.values()) - count
        there_sum += sum(int(choice) * n for choice, n in choices.items()) - total
    return here_sum / here - there_sum / there if here and there else None


def _rounded(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _rounded(value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [_rounded(value) for value in tree]
    if isinstance(tree, float):
        if not math.isfinite(tree):
            raise ValueError(f"an evaluation row holds {tree}, expected finite numbers")
        return round(tree, 9)
    return tree
