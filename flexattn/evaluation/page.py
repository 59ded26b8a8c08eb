"""The report as one HTML page that needs nothing beside itself: no script, no network, no font.

Everything that came out of a run is escaped. What is missing is said, never left blank.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from flexattn.evaluation import pictures
from flexattn.evaluation.acceptance import Acceptance, Verdict
from flexattn.evaluation.arms import Arm, Run
from flexattn.evaluation.beside import Difference
from flexattn.evaluation.metrics import Terms, histogram
from flexattn.evaluation.overlap import NAMES
from flexattn.evaluation.pictures import Line
from flexattn.evaluation.rows import REGIMES, Row, choice_counts, summary

SHOWN = (
    "term_recall", "rouge_l", "bert_score", "word_noncompliance", "typo_rate", "net_lexical",
    "lp_selectivity", "lh_selectivity", "hit_rate", "long_term_share", "top100_share",
    "Lh_entropy", "Lp_entropy",
)  # fmt: skip
DISTRIBUTIONS = ("term_recall", "rouge_l", "net_lexical")
BINS = 12
TERM_ROWS = 40
ANSWER_ROWS = 5
NOISE = "noise_10"
STYLE = """
:root{color-scheme:light dark;--line:#8884;--0:#c2410c;--1:#1d4ed8;--2:#15803d;--3:#7e22ce;
--4:#a16207;--5:#0e7490}
body{font:15px/1.5 system-ui,"Noto Sans CJK SC","PingFang SC",sans-serif;max-width:1280px;
margin:2rem auto;padding:0 1rem}
h1{margin-bottom:0}h2{margin-top:2.2rem;border-bottom:1px solid var(--line)}
table{border-collapse:collapse;width:100%;font-size:13px;font-variant-numeric:tabular-nums}
th,td{padding:.25rem .5rem;border-bottom:1px solid var(--line);text-align:right;vertical-align:top}
th:first-child,td:first-child,td.text,th.text{text-align:left}
td.text{min-width:14em}
.wide{overflow-x:auto}
.PASS{color:#15803d}.FAIL,.ERROR{color:#dc2626}.INCONCLUSIVE{color:#a16207}
.PASS,.FAIL,.ERROR,.INCONCLUSIVE{font-weight:600}
.pictures{display:flex;flex-wrap:wrap;gap:1rem}figure{margin:0;flex:1 1 440px;max-width:540px}
figcaption{font-weight:600}svg{width:100%;height:auto}svg text{font-size:11px;fill:currentColor}
.mid{text-anchor:middle}.end{text-anchor:end}.grid{stroke:var(--line);fill:none}
.line{fill:none;stroke-width:2}.band{opacity:.18}
.s0{stroke:var(--0);background:var(--0)}.s1{stroke:var(--1);background:var(--1)}
.s2{stroke:var(--2);background:var(--2)}.s3{stroke:var(--3);background:var(--3)}
.s4{stroke:var(--4);background:var(--4)}.s5{stroke:var(--5);background:var(--5)}
.bar,.band{stroke:none}.bar.s0,.band.s0{fill:var(--0)}.bar.s1,.band.s1{fill:var(--1)}
.bar.s2,.band.s2{fill:var(--2)}.bar.s3,.band.s3{fill:var(--3)}.bar.s4,.band.s4{fill:var(--4)}
.bar.s5,.band.s5{fill:var(--5)}
.legend{margin:.2rem 0;display:flex;gap:1rem;font-size:13px}
.legend i{display:inline-block;width:.8em;height:.8em;margin-right:.35em;border-radius:2px}
"""


@dataclass(frozen=True)
class Optimum:
    """What perfect copying allows at best, over the train answers; and the best fixed pair's."""

    net_lexical: float | None = None
    lp_selectivity: float | None = None
    fixed: float | None = None
    fixed_pair: tuple[int, int] | None = None

    @property
    def fixed_name(self) -> str:
        """The pair in words."""
        return "-" if self.fixed_pair is None else "Lh {}, Lp {}".format(*self.fixed_pair)


@dataclass(frozen=True)
class Report:
    """Everything that a page shows.

    Attributes:
      acceptance: verdicts.
      candidate: what shall go online.
      baseline: what there was.
      others: further arms, shown but not judged.
      optimum: arm's name -> the exact optimum under its configuration.
      goals: verdicts beside the arms without reinforcement learning.
      differences: candidate minus every other arm.
      overlap: arm's name and regime -> BLEU and chrF, where they were computed.
      terms: the candidate's catalog.
      seed: of the bootstrap.
      draws: of the bootstrap.
    """

    acceptance: Acceptance
    candidate: Arm
    baseline: Arm
    others: tuple[Arm, ...]
    optimum: Mapping[str, Optimum]
    goals: tuple[Verdict, ...]
    differences: tuple[Difference, ...]
    overlap: Mapping[tuple[str, str], Mapping[str, float | None]]
    terms: Terms
    seed: int
    draws: int

    @property
    def arms(self) -> tuple[Arm, ...]:
        """All arms, the candidate first."""
        return (self.candidate, self.baseline, *self.others)

    @property
    def drawn(self) -> tuple[Arm, ...]:
        """The first arms, as many as there are colours."""
        return self.arms[: pictures.COLOURS]


def render(report: Report) -> str:
    """The whole page."""
    word = report.acceptance.verdict
    seeds = ", ".join(map(str, report.candidate.seeds))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>flexattn report: {word}</title><style>{STYLE}</style></head><body>"
        f'<h1>Acceptance: <span class="{word}">{word}</span></h1>'
        f"<p>{escape(report.candidate.name)} against {escape(report.baseline.name)}, seeds "
        f"{seeds}; one-sided 95 % bounds by a paired bootstrap over seeds and prompts, "
        f"{report.draws} draws, seed {report.seed}, or by t on the logarithm where a run has one "
        f"figure. A KPI passes when its bound clears the margin.</p>"
        f"<h2>KPIs</h2>{_verdicts(report.acceptance.kpis)}"
        f"{_goals(report.goals)}"
        f"<h2>Candidate minus each other arm</h2>{_differences(report.differences)}"
        f"<h2>Policy beside the exact optimum</h2>{_beside_optimum(report)}"
        f"<h2>Arms by regime</h2>{_regimes(report)}"
        f"{_which(report)}"
        f'<h2>Learning curves</h2><div class="pictures">{_curves(report)}</div>'
        f'<h2>Choices of Lh and Lp</h2><div class="pictures">{_choices(report)}</div>'
        f'<h2>Distributions over answers, greedy</h2><div class="pictures">{_spread(report)}</div>'
        f"<h2>Terms under 10 % noise</h2>{_terms(report)}"
        f"<h2>Worst and best answers under 10 % noise</h2>{_answers(report)}"
        f"<h2>Runs</h2>{_runs(report)}</body></html>\n"
    )


# ---- sections --------------------------------------------------------------------------


def _goals(goals: Sequence[Verdict]) -> str:
    if not goals:
        return ""
    said = (
        "<p>Judged by the same bounds against every arm without reinforcement learning; the row "
        "shows the hardest of them. These goals are no part of the verdict above.</p>"
    )
    title = "<h2>Goals beside what needs no reinforcement learning</h2>"
    return title + said + _verdicts(goals, "other")


def _differences(found: Sequence[Difference]) -> str:
    """A row an arm, a column a KPI: the difference with its one-sided 95 % bounds."""
    columns = list(dict.fromkeys((d.name, d.regime) for d in found))
    by_arm: dict[str, dict[tuple[str, str], Difference]] = {}
    for difference in found:
        by_arm.setdefault(difference.arm, {})[difference.name, difference.regime] = difference
    rows = []
    for arm, cells in by_arm.items():
        seeds = max(cell.bounds.seeds for cell in cells.values())
        rows.append([escape(arm), str(seeds), *(_cell(cells.get(key)) for key in columns)])
    heads = ("arm", "common seeds", *(f"{name}, {regime}" for name, regime in columns))
    return _table(heads, rows) + (
        "<p>Mean difference [lower .. upper], one-sided 95 % bounds each, over the common seeds "
        "and prompts; bold where the bounds leave 0 out.</p>"
    )


def _cell(difference: Difference | None) -> str:
    if difference is None:
        return "-"
    bounds = difference.bounds
    text = f"{bounds.estimate:+.3f} [{bounds.lower:+.3f} .. {bounds.upper:+.3f}]"
    return f"<b>{text}</b>" if bounds.lower > 0.0 or bounds.upper < 0.0 else text


def _which(report: Report) -> str:
    left = len(report.arms) - len(report.drawn)
    said = f"The pictures show the first {len(report.drawn)} of {len(report.arms)} arms."
    return f"<p>{said}</p>" if left else ""


def _verdicts(kpis: Iterable[Verdict], other: str = "baseline") -> str:
    rows = [
        [
            escape(kpi.name), escape(kpi.regime or "-"),
            f'<span class="{kpi.verdict}">{kpi.verdict}</span>',
            number(kpi.baseline), number(kpi.candidate), number(kpi.estimate), number(kpi.lower),
            number(kpi.upper), number(kpi.margin), f"{kpi.seeds} x {kpi.prompts}",
            str(kpi.needed or "-"), escape("; ".join(filter(None, (kpi.rule, kpi.note)))),
        ]
        for kpi in kpis
    ]  # fmt: skip
    heads = (
        "KPI", "regime", "verdict", other, "candidate", "estimate", "lower", "upper", "margin",
        "seeds x prompts", "seeds needed", "rule",
    )  # fmt: skip
    return _table(heads, rows, text_from=11)


def _beside_optimum(report: Report) -> str:
    rows = []
    for arm in report.arms:
        found = summary(arm.final_rows("greedy"))
        best = report.optimum.get(arm.name, Optimum())
        rows.append([
            escape(arm.name), number(found["net_lexical"]), number(best.net_lexical),
            number(best.fixed), best.fixed_name, number(found["lp_selectivity"]),
            number(best.lp_selectivity), _share(found["lp_selectivity"], best.lp_selectivity),
        ])  # fmt: skip
    heads = (
        "arm, greedy", "net_lexical", "optimum", "best fixed pair", "", "lp_selectivity", "optimum",
        "share of it",
    )  # fmt: skip
    return _table(heads, rows) + (
        "<p>The optimum is over all choices of Lp while the reference is copied, the fixed pair "
        "over those that stay the same throughout, each under its arm's own configuration; "
        "a student that writes less pays less.</p>"
    )


def _regimes(report: Report) -> str:
    rows = []
    for regime in REGIMES:
        for arm in report.arms:
            found = summary(arm.final_rows(regime))
            if any(value is not None for value in found.values()):
                more = report.overlap.get((arm.name, regime), {})
                figures = [found.get(name) for name in SHOWN] + [more.get(name) for name in NAMES]
                rows.append([regime, escape(arm.name), *map(number, figures)])
    return _table(("regime", "arm", *SHOWN, *NAMES), rows) + (
        "<p>bert_score needs a model folder (train.bert_model) when a run is evaluated; bleu and "
        "chrf are sacrebleu's with its Chinese tokenizer, of candidate and baseline, where it is "
        'installed. "-": not computed, or not defined.</p>'
    )


def _curves(report: Report) -> str:
    drawn = []
    for kpi in ("rouge_l", "term_recall", "net_lexical"):
        lines = [_line(arm, kpi) for arm in report.drawn]
        drawn.append(pictures.curves(lines, "characters trained", f"greedy {kpi}"))
    return "".join(drawn)


def _line(arm: Arm, kpi: str) -> Line:
    """Mean, least and greatest of the runs, at the evaluations that all of them have."""
    runs = [run.curve(kpi) for run in arm.runs]
    length = min(map(len, runs), default=0)
    columns = [[run[i] for run in runs] for i in range(length)]
    xs = [math.fsum(x for x, _ in column) / len(column) for column in columns]
    ys = [[y for _, y in column] for column in columns]
    return Line(
        arm.name,
        [(x, math.fsum(y) / len(y)) for x, y in zip(xs, ys, strict=True)],
        [(x, min(y)) for x, y in zip(xs, ys, strict=True)],
        [(x, max(y)) for x, y in zip(xs, ys, strict=True)],
    )


def _choices(report: Report) -> str:
    drawn = []
    for name, of in (("Lh", lambda row: row.Lh_steps), ("Lp", lambda row: row.Lp_steps)):
        counts = {
            arm.name: choice_counts(of(row) for row in arm.final_rows("greedy"))
            for arm in report.drawn
        }
        choices = sorted({choice for count in counts.values() for choice in count})
        shares = {
            arm: {str(c): part for c, part in histogram(count.elements(), choices).items()}
            for arm, count in counts.items()
        }
        drawn.append(pictures.bars(shares, f"{name}, characters", "share of greedy steps"))
    return "".join(drawn)


def _spread(report: Report) -> str:
    drawn = []
    for kpi in DISTRIBUTIONS:
        values = {
            arm.name: [
                v for row in arm.final_rows("greedy") if (v := row.kpis.get(kpi)) is not None
            ]
            for arm in report.drawn
        }
        every = [v for found in values.values() for v in found]
        if every:
            low, high = min(every), max(every)
            drawn.append(pictures.bars(_binned(values, low, high), kpi, "share of answers"))
    return "".join(drawn)


def _binned(
    values: Mapping[str, Sequence[float]], low: float, high: float
) -> dict[str, dict[str, float]]:
    width = (high - low) / BINS or 1.0
    names = [f"{low + k * width:.2g}" for k in range(BINS)]
    # two bins may round to one name; the place keeps them apart
    names = [name + "\u200b" * k for k, name in enumerate(names)]
    return {
        arm: {
            name: sum(min(BINS - 1, int((v - low) / width)) == k for v in found)
            / max(1, len(found))
            for k, name in enumerate(names)
        }
        for arm, found in values.items()
    }


def _terms(report: Report) -> str:
    counted = {arm.name: _recalled(arm, report.terms) for arm in report.arms}
    (asked, ours), (_, theirs) = counted[report.candidate.name], counted[report.baseline.name]
    if not asked:
        return "<p>no answer under noise holds a term</p>"
    # candidate and baseline answer the same prompts, so their references are the same
    ranked = sorted(asked, key=lambda t: (-abs(ours[t] - theirs[t]), -asked[t], t))[:TERM_ROWS]
    rows = [
        [
            escape(term), str(asked[term]),
            *(number(got[term] / of[term] if of[term] else None) for of, got in counted.values()),
        ]
        for term in ranked
    ]  # fmt: skip
    heads = ("term", "references", *map(escape, counted))
    said = f"<p>The {len(ranked)} of {len(asked)} terms whose recall differs most.</p>"
    return said + _table(heads, rows)


def _recalled(arm: Arm, terms: Terms) -> tuple[Counter[str], Counter[str]]:
    """References under noise that hold each term, and how many of their answers have it."""
    asked: Counter[str] = Counter()
    got: Counter[str] = Counter()
    for row in arm.final_rows(NOISE):
        for term in {term for _, term in terms.find(row.reference)}:
            asked[term] += 1
            got[term] += term in row.output
    return asked, got


def _answers(report: Report) -> str:
    theirs = report.baseline.runs[0].final(NOISE)
    ranked = sorted(
        report.candidate.runs[0].final(NOISE).items(),
        key=lambda item: (item[1].kpis.get("rouge_l") or 0.0, item[0]),
    )
    chosen = (
        ranked if len(ranked) <= 2 * ANSWER_ROWS else ranked[:ANSWER_ROWS] + ranked[-ANSWER_ROWS:]
    )
    rows = [
        [
            escape(row.prompt), escape(row.reference), escape(row.output),
            number(row.kpis.get("rouge_l")), _output(theirs.get(prompt)),
        ]
        for prompt, row in chosen
    ]  # fmt: skip
    heads = (
        "question",
        "teacher",
        escape(report.candidate.name),
        "ROUGE-L",
        escape(report.baseline.name),
    )
    return _table(heads, rows, text_from=1)


def _output(row: Row | None) -> str:
    return "-" if row is None else escape(row.output)


def _runs(report: Report) -> str:
    rows = [
        [
            escape(arm.name), str(run.config.seed), escape(run.folder.path.name),
            run.folder.config_sha256[:8], run.folder.corpus_sha256[:8],
            ", ".join(sha[:8] for sha in run.folder.catalogs), *_size(run), f"{run.last_step:,}",
        ]
        for arm in report.arms
        for run in arm.runs
    ]  # fmt: skip
    heads = (
        "arm", "seed", "run", "config", "corpus", "catalogs", "records", "hidden",
        "clone + dagger + critics + sac", "steps",
    )  # fmt: skip
    return _table(heads, rows)


def _size(run: Run) -> tuple[str, str, str]:
    """How large the run was: records (0: all), width of the heads, steps of each phase."""
    train = run.config.train
    steps = (train.clone_steps, train.dagger_steps, train.warmup_steps, train.sac_steps)
    return (
        str(run.config.corpus.records or "all"),
        str(run.config.agent.hidden),
        " + ".join(map(str, steps)),
    )


# ---- parts -----------------------------------------------------------------------------


def number(value: float | None) -> str:
    """A figure with four digits; "-" where there is none."""
    return "-" if value is None or not math.isfinite(value) else f"{value:.4g}"


def _share(part: float | None, whole: float | None) -> str:
    return "-" if part is None or not whole else f"{100 * part / whole:.0f} %"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], text_from: int = 99) -> str:
    def cells(values: Sequence[str], tag: str) -> str:
        return "".join(
            f"<{tag}{' class=text' if n >= text_from else ''}>{value}</{tag}>"
            for n, value in enumerate(values)
        )

    body = "".join(f"<tr>{cells(row, 'td')}</tr>" for row in rows)
    return f'<div class="wide"><table><tr>{cells(heads, "th")}</tr>{body}</table></div>'
