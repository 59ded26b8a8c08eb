"""Compare the runs of two arms and say whether the candidate is accepted; needs no torch."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import orjson

from flexattn.audit.folder import MANIFEST, write_file
from flexattn.corpus import parse_corpus
from flexattn.domain import Domain
from flexattn.errors import FlexAttnError, command
from flexattn.evaluation import acceptance, arms, beside, page, pairs
from flexattn.evaluation.acceptance import Verdict
from flexattn.evaluation.arms import Arm, Run
from flexattn.evaluation.compare import DRAWS
from flexattn.evaluation.metrics import Terms
from flexattn.evaluation.optimum import Rules, fixed_pairs, optimum_of
from flexattn.evaluation.overlap import corpus_scores
from flexattn.evaluation.page import Optimum, Report, number
from flexattn.evaluation.rows import REGIMES, summary
from flexattn.evaluation.throughput import Rounds, read_bench
from flexattn.lexicon.entries import Catalog, parse_catalog
from flexattn.lexicon.weights import term_weights
from flexattn.stages import guard
from flexattn.stages.serving import Serving

EPILOG = """example:
  python -m flexattn.report --baseline logs/base-* --candidate logs/flex-* --out reports/flex
  python -m flexattn.report --baseline logs/stage_a* --candidate logs/stage_b* --promote serving
  python -m flexattn.report --rollback serving

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
    made.add_argument("--baseline", nargs="+", default=[], metavar="RUN", help="run folders")
    made.add_argument("--candidate", nargs="+", default=[], metavar="RUN", help="run folders")
    made.add_argument(
        "--arm", nargs="+", action="append", default=[], metavar="RUN",
        help="run folders of a further arm, shown beside the others; may be given again. Those "
        "without reinforcement learning are what the goals are judged by",
    )  # fmt: skip
    made.add_argument(
        "--bench", nargs="+", default=[], metavar="FILE",
        help="what bench train|log --json wrote: throughput and the log's cost",
    )  # fmt: skip
    made.add_argument("--out", metavar="DIR", help="folder for report.json and index.html")
    made.add_argument(
        "--promote", metavar="FOLDER",
        help="serving folder, made where there is none: the candidate's stage gets a share of the "
        "requests, then all of them, if its guard KPIs pass; goes back if they fail",
    )  # fmt: skip
    made.add_argument(
        "--rollback", metavar="FOLDER", help="the older stage answers everything again, at once"
    )
    made.add_argument("--actor", default="report", help="who decides, for the serving folder's log")
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
    if given.rollback:
        return _roll_back(given)
    if not given.baseline or not given.candidate:
        raise FlexAttnError("--baseline and --candidate: expected run folders, such as logs/base-*")
    if given.promote:
        if given.arm or given.bench or given.out:
            raise FlexAttnError(
                "--promote: goes with --baseline and --candidate alone and keeps its own report; "
                "leave --arm, --bench and --out away"
            )
        return _promote(given)
    rounds = read_bench(given.bench)
    report = compare(given.candidate, given.baseline, given.arm, rounds, given.seed, given.draws)
    show(report)
    if given.out:
        _write(report, Path(given.out))
    return report.acceptance.exit_code


def _roll_back(given: argparse.Namespace) -> int:
    if given.baseline or given.candidate or given.promote:
        raise FlexAttnError("--rollback: compares nothing; leave the other folders away")
    serving = Serving.open(given.rollback)
    serving.change("rollback", "", given.actor)
    print(f"{given.rollback}: stage {serving.stage('older')} answers everything again")
    return 0


def _promote(given: argparse.Namespace) -> int:
    """Judge the guard KPIs and log what follows from them.

    Returns: exit code, 0 promoted, 1 gone back, 3 held.
    """
    older = arms.read_arm(f"older ({_common(given.baseline)})", given.baseline)
    newer = arms.read_arm(f"newer ({_common(given.candidate)})", given.candidate)
    arms.check_comparable(newer, older)
    asked = newer.runs[0].config.stages
    rng = np.random.default_rng(given.seed)
    judged = guard.judge_runs(newer, older, asked.guards, asked.margin, rng, given.draws)
    if (Path(given.promote) / MANIFEST).exists():
        serving = Serving.open(given.promote)
    else:
        folders = older.runs[0].folder, newer.runs[0].folder
        serving = Serving.create(given.promote, *folders, given.actor)
    for arm, run in ((older, serving.older), (newer, serving.newer)):
        if run.manifest_sha256 not in {own.folder.manifest_sha256 for own in arm.runs}:
            raise FlexAttnError(
                f"{given.promote}: serves {run.path}, which is not among the runs of {arm.name}; "
                f"compare its runs, or make another serving folder"
            )
    print(f"{newer.name} against {older.name}\n")
    _show_verdicts("guard", "older", judged.kpis)
    more = {
        "bootstrap": {"seed": given.seed, "draws": given.draws, "level": 0.95},
        "runs": {
            arm.name: [[run.folder.manifest_sha256, run.folder.evaluations_sha256()]
                       for run in arm.runs]
            for arm in (older, newer)
        },
    }  # fmt: skip
    state = serving.decide(judged, more, given.actor)
    print(
        f"{given.promote}: {state.last}; stage {serving.stage('newer')} gets "
        f"{state.share:.0%} of the requests\nverdict: {judged.verdict}"
    )
    return judged.exit_code


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
    judged = acceptance.judge(ours, theirs, rng, draws, rounds)
    optimum = {arm.name: _optimum(arm.runs[0]) for arm in (ours, theirs, *more)}
    best, plain = optimum[ours.name], [arm for arm in more if not arm.reinforced]
    possible = (best.net_lexical, best.lp_selectivity, best.fixed)
    goals = beside.goals(ours, plain, _pairs(ours, plain), possible, rng, draws) if plain else []
    return Report(
        acceptance=judged,
        candidate=ours,
        baseline=theirs,
        others=more,
        optimum=optimum,
        goals=tuple(goals),
        differences=tuple(beside.differences(ours, (theirs, *more), rng, draws)),
        overlap={
            (arm.name, regime): _overlap(arm, regime)
            for arm in (ours, theirs)
            for regime in REGIMES
        },
        terms=Terms.of(entry.term for entry in _catalog(ours.runs[0]).entries),
        seed=seed,
        draws=draws,
    )


def show(report: Report) -> None:
    """The verdicts, what keeps a KPI from passing, and each policy beside its optimum."""
    print(f"{report.candidate.name} against {report.baseline.name}\n")
    _show_verdicts("KPI", "baseline", report.acceptance.kpis)
    if report.goals:
        print("beside the arms without reinforcement learning (goals, no part of the verdict)\n")
        _show_verdicts("goal", "other", report.goals)
    for arm in report.arms:
        found, best = summary(arm.final_rows("greedy")), report.optimum[arm.name]
        print(
            f"{arm.name}: net_lexical {number(found['net_lexical'])} of at best "
            f"{number(best.net_lexical)} (best fixed pair {number(best.fixed)}: "
            f"{best.fixed_name}), lp_selectivity {number(found['lp_selectivity'])} of "
            f"{number(best.lp_selectivity)}"
        )
    print(f"verdict: {report.acceptance.verdict}")


def _show_verdicts(title: str, other: str, kpis: Sequence[Verdict]) -> None:
    heads = (other, "candidate", "estimate", "lower", "upper")
    print(f"{title:18} {'regime':16} {'verdict':12}" + "".join(f" {head:>9}" for head in heads))
    for kpi in kpis:
        figures = (kpi.baseline, kpi.candidate, kpi.estimate, kpi.lower, kpi.upper)
        shown = "".join(f" {'-' if value is None else f'{value:.3g}':>9}" for value in figures)
        print(f"{kpi.name:18} {kpi.regime or '-':16} {kpi.verdict:12}{shown}")
    print()
    for kpi in kpis:
        if kpi.verdict != "PASS":
            needed = f"about {kpi.needed} seeds would decide it" if kpi.needed else ""
            where = f"{kpi.name} {kpi.regime}".rstrip()
            said = "; ".join(filter(None, (kpi.rule, kpi.note, needed)))
            print(f"{kpi.verdict} {where}: {said}")
    print()


def as_dict(report: Report) -> dict[str, object]:
    """The report's JSON: verdicts, arms and what they were made of."""
    return {
        **report.acceptance.as_dict(),
        "bootstrap": {"seed": report.seed, "draws": report.draws, "level": 0.95},
        "goals": [asdict(goal) for goal in report.goals],
        "differences": [asdict(difference) for difference in report.differences],
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
                "regimes": {
                    regime: summary(arm.final_rows(regime))
                    | dict(report.overlap.get((arm.name, regime), {}))
                    for regime in REGIMES
                },
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
    weights = term_weights(catalog.columns, catalog.documents, run.config.lexicon.two_char)
    corpus = parse_corpus(run.folder.corpus_bytes(), f"{run.name}/corpus.jsonl")
    answers = [record.answer for record in corpus.train]
    known = dict(zip((entry.term for entry in catalog.entries), weights.tolist(), strict=True))
    rules = Rules.of(known, answers, run.config)
    pairs = fixed_pairs(answers, rules)
    pair = max(pairs, key=lambda pair: pairs[pair], default=None)
    return Optimum(*optimum_of(answers, rules), pairs[pair] if pair else None, pair)


def _pairs(candidate: Arm, others: Sequence[Arm]) -> dict[str, list[tuple[int, beside.Values]]]:
    """What the greedy answers of arms with one Lh earn under each cap of the candidate."""
    config = candidate.runs[0].config
    world = Domain.of_run(candidate.runs[0].folder).world
    found: dict[str, list[tuple[int, beside.Values]]] = {}
    for arm in others:
        own = arm.runs[0].config
        one = len(own.env.history_chars) == 1 and own.lexicon == config.lexicon
        if not one or own.env.history_chars[0] not in config.env.history_chars:
            continue
        found[arm.name] = []
        for run in arm.runs:
            rows = run.final("greedy")
            earned = pairs.net_lexical(world, list(rows.values()))
            values = {
                pair: dict(zip(rows, made.tolist(), strict=True))
                for pair, made in earned.items()
                if pair[0] == own.env.history_chars[0]
            }
            found[arm.name].append((run.config.seed, values))
    return found


def _overlap(arm: Arm, regime: str) -> dict[str, float | None]:
    rows = [row for row in arm.final_rows(regime) if row.reference.strip()]
    return corpus_scores([row.output for row in rows], [row.reference for row in rows])


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
