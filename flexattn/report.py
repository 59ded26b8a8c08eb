"""Compare the runs of two arms and say whether the candidate is accepted; needs no torch."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import orjson

from flexattn.audit.folder import write_file
from flexattn.corpus import parse_corpus
from flexattn.errors import FlexAttnError, command
from flexattn.evaluation import acceptance, arms, page
from flexattn.evaluation.arms import Run
from flexattn.evaluation.compare import DRAWS
from flexattn.evaluation.metrics import Terms
from flexattn.evaluation.optimum import Rules, fixed_pairs, optimum_of
from flexattn.evaluation.page import Optimum, Report, number
from flexattn.evaluation.rows import REGIMES, summary
from flexattn.evaluation.throughput import Rounds, read_bench
from flexattn.lexicon.entries import Catalog, parse_catalog
from flexattn.lexicon.weights import term_weights

EPILOG = """example:
  python -m flexattn.report --baseline logs/base-* --candidate logs/flex-* --out reports/flex

exit code: 0 accepted, 1 rejected (a KPI is FAIL or ERROR), 3 inconclusive, 2 bad input
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="python -m flexattn.report",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--baseline", nargs="+", required=True, metavar="RUN", help="run folders")
    made.add_argument("--candidate", nargs="+", required=True, metavar="RUN", help="run folders")
    made.add_argument(
        "--arm", nargs="+", action="append", default=[], metavar="RUN",
        help="run folders of a further arm, shown but not judged; may be given again",
    )  # fmt: skip
    made.add_argument(
        "--bench", nargs="+", default=[], metavar="FILE",
        help="what bench train|log --json wrote: throughput and the log's cost",
    )  # fmt: skip
    made.add_argument("--out", metavar="DIR", help="folder for report.json and index.html")
    made.add_argument("--seed", type=int, default=7, help="of the bootstrap; default 7")
    made.add_argument("--draws", type=int, default=DRAWS, help=f"default {DRAWS}")
    return made


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Read, compare, print, write.

    Returns: exit code, 0 accepted, 1 rejected, 3 inconclusive.
    """
    given = parser().parse_args(argv)
    if given.draws < 100 or given.seed < 0:
        raise FlexAttnError(
            f"--draws {given.draws} --seed {given.seed}: expected 100 or more and 0 or more"
        )
    rounds = read_bench(given.bench)
    report = compare(given.candidate, given.baseline, given.arm, rounds, given.seed, given.draws)
    show(report)
    if given.out:
        _write(report, Path(given.out))
    return report.acceptance.exit_code


def compare(
    candidate: Sequence[str],
    baseline: Sequence[str],
    others: Sequence[Sequence[str]],
    rounds: Rounds,
    seed: int,
    draws: int,
) -> Report:
    """Read the arms from their folders and judge them."""
    ours = arms.read_arm(f"candidate ({_common(candidate)})", candidate)
    theirs = arms.read_arm(f"baseline ({_common(baseline)})", baseline)
    more = tuple(arms.read_arm(_common(paths), paths) for paths in others)
    arms.check_comparable(ours, theirs)
    rng = np.random.default_rng(seed)
    return Report(
        acceptance=acceptance.judge(ours, theirs, rng, draws, rounds),
        candidate=ours,
        baseline=theirs,
        others=more,
        optimum={arm.name: _optimum(arm.runs[0]) for arm in (ours, theirs, *more)},
        terms=Terms.of(entry.term for entry in _catalog(ours.runs[0]).entries),
        seed=seed,
        draws=draws,
    )


def show(report: Report) -> None:
    """The verdicts, what keeps a KPI from passing, and each policy beside its optimum."""
    print(f"{report.candidate.name} against {report.baseline.name}\n")
    heads = ("baseline", "candidate", "estimate", "lower", "upper")
    print(f"{'KPI':18} {'regime':16} {'verdict':12}" + "".join(f" {head:>9}" for head in heads))
    for kpi in report.acceptance.kpis:
        figures = (kpi.baseline, kpi.candidate, kpi.estimate, kpi.lower, kpi.upper)
        shown = "".join(f" {'-' if value is None else f'{value:.3g}':>9}" for value in figures)
        print(f"{kpi.name:18} {kpi.regime or '-':16} {kpi.verdict:12}{shown}")
    print()
    for kpi in report.acceptance.kpis:
        if kpi.verdict != "PASS":
            needed = f"about {kpi.needed} seeds would decide it" if kpi.needed else ""
            where = f"{kpi.name} {kpi.regime}".rstrip()
            said = "; ".join(filter(None, (kpi.rule, kpi.note, needed)))
            print(f"{kpi.verdict} {where}: {said}")
    print()
    for arm in report.arms:
        found, best = summary(arm.final_rows("greedy")), report.optimum[arm.name]
        print(
            f"{arm.name}: net_lexical {number(found['net_lexical'])} of at best "
            f"{number(best.net_lexical)} (best fixed pair {number(best.fixed)}: "
            f"{best.fixed_name}), lp_selectivity {number(found['lp_selectivity'])} of "
            f"{number(best.lp_selectivity)}"
        )
    print(f"verdict: {report.acceptance.verdict}")


def as_dict(report: Report) -> dict[str, object]:
    """The report's JSON: verdicts, arms and what they were made of."""
    return {
        **report.acceptance.as_dict(),
        "bootstrap": {"seed": report.seed, "draws": report.draws, "level": 0.95},
        "arms": [
            {
                "name": arm.name,
                "runs": [
                    {
                        "folder": run.folder.path.name,
                        "seed": run.config.seed,
                        "config": run.folder.config_sha256,
                        "manifest": run.folder.manifest_sha256,
                        "evaluations": run.folder.evaluations_sha256(),
                    }
                    for run in arm.runs
                ],
                "optimum": {
                    "net_lexical": report.optimum[arm.name].net_lexical,
                    "lp_selectivity": report.optimum[arm.name].lp_selectivity,
                    "fixed_net_lexical": report.optimum[arm.name].fixed,
                    "fixed_pair": report.optimum[arm.name].fixed_pair,
                },
                "regimes": {regime: summary(arm.final_rows(regime)) for regime in REGIMES},
            }
            for arm in report.arms
        ],
    }


def _write(report: Report, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    options = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
    write_file(folder / "report.json", orjson.dumps(as_dict(report), option=options))
    write_file(folder / "index.html", page.render(report).encode())
    print(f"written: {folder / 'report.json'}, {folder / 'index.html'}")


def _optimum(run: Run) -> Optimum:
    """The exact optimum over the train answers, under the run's own configuration."""
    catalog = _catalog(run)
    weights = term_weights(catalog.entries, catalog.documents, run.config.lexicon.two_char)
    corpus = parse_corpus(run.folder.corpus_bytes(), f"{run.name}/corpus.jsonl")
    answers = [record.answer for record in corpus.train]
    known = dict(zip((entry.term for entry in catalog.entries), weights.tolist(), strict=True))
    rules = Rules.of(known, answers, run.config)
    pairs = fixed_pairs(answers, rules)
    pair = max(pairs, key=lambda pair: pairs[pair], default=None)
    return Optimum(*optimum_of(answers, rules), pairs[pair] if pair else None, pair)


def _catalog(run: Run) -> Catalog:
    sha, name = next(iter(run.folder.catalogs.items()))
    return parse_catalog(orjson.loads(run.folder.catalog_bytes(sha)), name)


def _common(paths: Sequence[str]) -> str:
    """What the folders' names have in common, with a star for the rest."""
    folders = [Path(path).absolute() for path in paths]
    parents = {folder.parent for folder in folders}
    if len(parents) == 1 and all(folder.name.startswith("seed-") for folder in folders):
        return parents.pop().name  # the seeds of one arm, gathered in a folder
    names = [folder.name for folder in folders]
    start = names[0]
    for name in names[1:]:
        while not name.startswith(start):
            start = start[:-1]
    return start if len(set(names)) == 1 else f"{start}*"


if __name__ == "__main__":
    sys.exit(main())
