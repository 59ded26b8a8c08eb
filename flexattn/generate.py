"""Ask a trained student; every character of the answer is logged and can be replayed."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from flexattn.audit.alone import claim
from flexattn.audit.folder import RunFolder
from flexattn.domain import Domain
from flexattn.errors import FlexAttnError, command
from flexattn.generation.choosing import SCORES
from flexattn.generation.ledger import Ledger
from flexattn.generation.request import Request, in_batches, read_requests
from flexattn.generation.strategy import NAMES, Strategy, answer
from flexattn.generation.trace import Answer
from flexattn.stages.served import keep, look
from flexattn.stages.serving import ANSWERS, STAGES, Serving
from flexattn.stages.share import goes_newer
from flexattn.stages.voice import newest_checkpoint, voice_of

EPILOG = """example:
  python -m flexattn.generate --run logs/medical --question "请问什么是‘奥司他韦’？"
  python -m flexattn.generate --run logs/medical --question "什么是肝素？" --strategy beam --explain
  python -m flexattn.generate --run logs/medical --questions asked.jsonl --json > answers.jsonl
  python -m flexattn.generate --run logs/medical --question "请问什么是‘奥司他韦’？" --values
"""
BATCH = 256  # requests answered side by side
ALTERNATIVES = 5  # characters a step that --explain shows


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="python -m flexattn.generate",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add, standard = made.add_argument, Strategy()
    add("--run", metavar="RUN", help="run folder of a training")
    add(
        "--stages", metavar="FOLDER",
        help="serving folder, in place of --run: a stable share of the requests goes to the newer "
        "stage, and back where a guard KPI is breached",
    )  # fmt: skip
    add("--question", action="append", default=[], metavar="TEXT", help="may be given again")
    add(
        "--questions",
        metavar="FILE",
        help='JSONL, {"id": .., "question": ..} a line; id may be left away',
    )
    add("--strategy", default=standard.name, metavar="NAME", help=", ".join(NAMES))
    add(
        "--top-p", type=float, default=standard.top_p, metavar="SHARE",
        help="mass kept by top_p, joint, best_of and majority, (0, 1]; default %(default)s",
    )  # fmt: skip
    add(
        "--top-k", type=int, default=standard.top_k, metavar="N",
        help="characters kept by top_k, joint, best_of and majority; default %(default)s",
    )  # fmt: skip
    add(
        "--temperature", type=float, default=standard.temperature, metavar="T",
        help="of temperature, joint, best_of and majority, > 0; default %(default)s",
    )  # fmt: skip
    add(
        "--beams", type=int, default=standard.beams, metavar="N",
        help="answers that beam carries on side by side; default %(default)s",
    )  # fmt: skip
    add(
        "--samples", type=int, default=standard.samples, metavar="N",
        help="answers that best_of and majority choose from; default %(default)s",
    )  # fmt: skip
    add(
        "--score", default=standard.score, metavar="NAME",
        help=f"what best_of prefers: {', '.join(SCORES)}; default %(default)s",
    )  # fmt: skip
    add("--seed", type=int, default=0, metavar="N", help="of the sampling strategies")
    add(
        "--out", metavar="FOLDER",
        help="folder of the log; default: the next free one in RUN/generations",
    )  # fmt: skip
    add("--explain", action="store_true", help="show segments, caps and alternatives of each step")
    add(
        "--values", action="store_true",
        help="show instead what the critics hold of every choice, step by step; for questions of "
        "the corpus, since critics look at the teacher's answer",
    )  # fmt: skip
    add("--json", action="store_true", help="print one JSON object a question (--values: a step)")
    return made


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Print each answer, and where its log is."""
    given = parser().parse_args(argv)
    strategy = Strategy(
        given.strategy, given.top_k, given.top_p, given.temperature,
        given.beams, given.samples, given.score,
    )  # fmt: skip
    if given.seed < 0:
        raise FlexAttnError(f"--seed is {given.seed}, expected 0 or more")
    if given.explain and given.json:
        raise FlexAttnError("--explain and --json exclude each other; leave one away")
    requests = asked(given.question, given.questions)
    if (given.run is None) == (given.stages is None):
        raise FlexAttnError("--run or --stages: expected one of them, such as --run logs/medical")
    others = given.stages or given.out or given.explain or strategy.name != Strategy().name
    if given.values and others:
        raise FlexAttnError("--values: goes with --run, --question and --json; leave others away")
    if given.stages:
        return serve(given, requests, strategy)
    run = RunFolder.open(given.run)
    if given.values:
        weigh(run, requests, given)
        return 0
    speak(run, requests, run.path / "generations", given, strategy)
    return 0


def serve(given: argparse.Namespace, requests: Iterator[Request], strategy: Strategy) -> int:
    """Let each request's stage answer it, score what has a reference, look at the guards."""
    if given.out:
        raise FlexAttnError("--out: a serving folder keeps its own logs; leave it away")
    serving = Serving.open(given.stages)
    state = serving.state()
    # a question of the command line has no id, so its own text says where it goes
    named = [
        replace(request, id=request.question) if place < len(given.question) else request
        for place, request in enumerate(requests)
    ]
    for name in STAGES:
        chosen = [r for r in named if goes_newer(r.id, state.share) == (name == "newer")]
        if not chosen:
            continue
        run = serving.newer if name == "newer" else serving.older
        stage = serving.stage(name)
        base = serving.folder.path / ANSWERS / stage
        domain, answers = speak(run, iter(chosen), base, given, strategy)
        scored = keep(serving, stage, domain, answers)
        print(f"stage {stage}: {len(answers)} answers, {scored} scored", file=sys.stderr)
    judged, after = look(serving)
    for kpi in judged.kpis:
        print(f"guard {kpi.name}: {kpi.verdict} {kpi.note}".rstrip(), file=sys.stderr)
    if after.changes != state.changes:
        print(
            f"{given.stages}: stage {serving.stage('older')} answers everything again, since a "
            f"guard KPI was breached",
            file=sys.stderr,
        )
    return 0


def speak(
    run: RunFolder, requests: Iterator[Request], base: Path, given: argparse.Namespace,
    strategy: Strategy,
) -> tuple[Domain, list[Answer]]:  # fmt: skip
    """Let a run's student answer, print and log each answer.

    The log lies where `--out` says, else in the first free one of base/0001, base/0002, ...

    Returns: the domain it answered under, and the answers that were given.
    """
    domain = Domain.of_run(run)
    saved = newest_checkpoint(run)
    domain = domain.under(run, saved.state.get("catalog"))
    voice = voice_of(domain, saved)
    trained = {
        "manifest": run.manifest_sha256,
        "step": saved.step,
        "tensors": saved.state["sha256"],
    }
    done = 0
    chosen: list[Answer] = []
    path = Path(given.out) if given.out else claim(lambda number: base / f"{number:04d}")
    with Ledger(path, domain, trained, strategy, given.seed) as ledger:
        for batch in in_batches(requests, BATCH):
            answers = answer(
                domain.world,
                voice,
                batch,
                strategy,
                given.seed,
                ALTERNATIVES if given.explain else 0,
            )
            for several in answers:
                ledger.write(several)
                show(domain, several, path, given)
                chosen += several[:1] if given.stages else []
            done += len(batch)
            if given.questions and not given.json:
                print(f"{done} questions answered", file=sys.stderr)
    if not given.json:
        print(f"\nlog: {path}; verify it: python -m flexattn.replay {path}", file=sys.stderr)
    return domain, chosen


def weigh(run: RunFolder, requests: Iterator[Request], given: argparse.Namespace) -> None:
    """Print what every choice of a greedy answer was worth to the critics; nothing is logged."""
    from rich.console import Console

    from flexattn.values import answer_values, load_learner, table

    domain = Domain.of_run(run)
    saved = newest_checkpoint(run)
    domain = domain.under(run, saved.state.get("catalog"))
    learner = load_learner(domain, saved)
    console = Console(width=None if sys.stdout.isatty() else 160)
    for request in requests:
        rows = answer_values(domain.world, learner, request.question)
        if given.json:
            for row in rows:
                line = {"question": request.question, **row.row()}
                print(json.dumps(line, ensure_ascii=False))
        else:
            console.print(table(request.question, rows))


def asked(questions: Sequence[str], file: str | None) -> Iterator[Request]:
    """What is asked on the command line, then what a file asks.

    Raises: FlexAttnError where nothing is, or a question is empty.
    """
    if not questions and file is None:
        raise FlexAttnError("--question or --questions is missing; try --question 什么是奥司他韦？")
    for question in questions:
        if not question.strip():
            raise FlexAttnError(
                "--question is empty, expected a question such as 请问什么是‘奥司他韦’？"
            )
    # read to its end before anything is written, so that a bad line leaves nothing half done
    from_file = list(read_requests(file)) if file is not None else []
    return chain((Request(str(n), text) for n, text in enumerate(questions)), from_file)


def show(domain: Domain, answers: Sequence[Answer], log: Path, given: argparse.Namespace) -> None:
    """Print the answer that is given, as text, as JSON or explained."""
    chosen = answers[0]
    if given.json:
        line: dict[str, Any] = {
            "id": chosen.request.id,
            "question": chosen.request.question,
            "answer": chosen.text,
            "terms": chosen.subjects,
            "log_likelihood": round(chosen.log_likelihood, 6),
            "log": str(log),
        }
        if chosen.score is not None:
            line |= {"score": round(chosen.score, 6), "answers": len(answers)}
        print(json.dumps(line, ensure_ascii=False))
        return
    if not chosen.subjects:
        print(
            f"note: 「{chosen.request.question}」 names no term that the student knows",
            file=sys.stderr,
        )
    if given.explain:
        from rich.console import Console

        from flexattn.generation.explain import explain

        Console(width=None if sys.stdout.isatty() else 120).print(explain(domain.world, chosen))
    else:
        print(chosen.text)


if __name__ == "__main__":
    sys.exit(main())
