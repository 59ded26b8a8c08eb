"""Ask a trained student; every character of the answer is logged and can be replayed."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from flexattn import __version__
from flexattn.agents import checkpoint as checkpoints
from flexattn.agents.checkpoint import Checkpoint
from flexattn.agents.networks import Actor, Sizes
from flexattn.agents.policy import Student
from flexattn.audit.folder import RunFolder
from flexattn.audit.writer import RunLog
from flexattn.config import dump_config
from flexattn.domain import Domain
from flexattn.env.freehand import Freehand, generated_columns
from flexattn.errors import CheckpointError, FlexAttnError, command
from flexattn.evaluation.decoding import STRATEGIES, Decoding, choose

EPILOG = """example:
  python -m flexattn.generate --run logs/medical --question "请问什么是‘奥司他韦’？"
  python -m flexattn.generate --run logs/medical --question "什么是胰岛素？" --strategy top_p
"""
CUTTING = ("top_k", "top_p", "joint")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="flexattn.generate",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--run", required=True, metavar="RUN", help="run folder of a training")
    made.add_argument(
        "--question", required=True, action="append", metavar="TEXT", help="may be given again"
    )
    made.add_argument("--strategy", default="greedy", metavar="NAME", help=", ".join(STRATEGIES))
    made.add_argument(
        "--top-p",
        type=float,
        default=0.9,
        metavar="SHARE",
        help="mass kept by top_p and joint, (0, 1]",
    )
    made.add_argument(
        "--top-k", type=int, default=20, metavar="N", help="characters kept by top_k and joint"
    )
    made.add_argument(
        "--temperature", type=float, default=1.0, metavar="T", help="of temperature and joint, > 0"
    )
    made.add_argument("--seed", type=int, default=0, metavar="N", help="of the sampling strategies")
    made.add_argument(
        "--out",
        metavar="FOLDER",
        help="folder of the log; default: the next free one in RUN/generations",
    )
    made.add_argument("--json", action="store_true", help="print one JSON object a question")
    return made


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Print each answer, and where its log is."""
    given = parser().parse_args(argv)
    decoding = Decoding(given.strategy, given.top_k, given.top_p, given.temperature)
    for question in given.question:
        if not question.strip():
            raise FlexAttnError(
                "--question is empty, expected a question such as 请问什么是‘奥司他韦’？"
            )
    if given.seed < 0:
        raise FlexAttnError(f"--seed is {given.seed}, expected 0 or more")
    run = RunFolder.open(given.run)
    domain = Domain.of_run(run)
    saved = newest_checkpoint(run)
    actor = load_actor(domain, saved)
    answers = write_answers(domain, actor, given.question, decoding, given.seed)
    folder = log_answers(run, domain, saved, answers, decoding, given.seed, given.out)
    for answer in answers:
        if given.json:
            print(
                json.dumps(
                    {
                        "question": answer.question,
                        "answer": answer.text,
                        "terms": answer.subjects,
                        "log": str(folder),
                    },
                    ensure_ascii=False,
                )
            )
        else:
            if not answer.subjects:
                print(
                    f"note: 「{answer.question}」 names no term that the student knows",
                    file=sys.stderr,
                )
            print(answer.text)
    if not given.json:
        print(f"\nlog: {folder}; verify it: python -m flexattn.replay {folder}", file=sys.stderr)
    return 0


@dataclass(frozen=True)
class Answer:
    """One written answer and every decision behind it, T steps."""

    question: str
    subjects: list[str]
    text: str
    ended: bool
    history_chars: list[int]
    cap_chars: list[int]
    n_legal: list[int]
    probability: list[float]
    kept: list[float]


def newest_checkpoint(run: RunFolder) -> Checkpoint:
    """The newest sound checkpoint of a training.

    Raises: CheckpointError where there is none.
    """
    saved, skipped = checkpoints.load_newest(run.path / "checkpoints")
    for line in skipped:
        print(f"warning: {line}", file=sys.stderr)
    if saved is None:
        raise CheckpointError(
            f"{run.path}: holds no checkpoint; train it first, or go on with --resume"
        )
    return saved


def load_actor(domain: Domain, saved: Checkpoint) -> Actor:
    """The actor with a checkpoint's weights."""
    config, world = domain.config, domain.world
    torch.set_num_threads(config.train.threads)
    sizes = Sizes.of(world)
    actor = Actor(sizes, config.env, config.agent, config.attention)
    try:
        actor.load_state_dict(saved.module("actor"))
    except RuntimeError:
        raise CheckpointError(
            f"checkpoint step {saved.step}: its network has another shape than this version "
            f"builds from config.yaml; use the version that trained it, or train again"
        ) from None
    return actor.eval()


def write_answers(
    domain: Domain, actor: Actor, questions: Sequence[str], decoding: Decoding, seed: int
) -> list[Answer]:
    """Let the student answer all questions side by side."""
    world = domain.world
    settings = world.settings
    rng = np.random.default_rng(seed)
    student = Student(actor, choose=lambda pi: choose(pi, decoding, rng))
    paper = Freehand(world, questions, limit=world.longest_answer + settings.slack)
    steps: list[list[tuple[int, int, int, float, float]]] = [[] for _ in questions]
    ended = np.zeros(len(questions), np.bool_)
    while not paper.done.all():
        active = ~paper.done
        decision = student(paper.observe(), paper.legal, active)
        for i in np.flatnonzero(active).tolist():
            steps[i].append((
                settings.history_chars[decision.history[i]],
                settings.hit_cap_chars[decision.cap[i]],
                int(paper.n_legal[i]), float(decision.probability[i]), float(decision.kept[i]),
            ))  # fmt: skip
        written = paper.t.copy()
        paper.write(decision.char)
        ended |= active & (paper.t == written)
    answers = []
    for i, question in enumerate(questions):
        histories, caps, n_legal, probability, kept = (list(column) for column in zip(*steps[i]))
        answers.append(Answer(
            question, world.questions.find(question), paper.text(i), bool(ended[i]),
            histories, caps, n_legal, probability, kept,
        ))  # fmt: skip
    return answers


def log_answers(
    run: RunFolder,
    domain: Domain,
    saved: Checkpoint,
    answers: Sequence[Answer],
    decoding: Decoding,
    seed: int,
    out: str | None,
) -> Path:
    """Write a run folder of kind `generate` with one episode an answer."""
    config, world = domain.config, domain.world
    base = run.path / "generations"
    path = (
        Path(out)
        if out
        else next(p for n in range(1, 10**6) if not (p := base / f"{n:04d}").exists())
    )
    manifest: dict[str, Any] = {
        "flexattn": __version__,
        "seed": seed,
        "decoding": {k: str(v) if isinstance(v, float) else v for k, v in asdict(decoding).items()},
        "trained": {
            "manifest": run.manifest_sha256,
            "step": saved.step,
            "tensors": saved.state["sha256"],
        },
    }
    folder = RunFolder.create(
        path,
        config=dump_config(config).encode(),
        corpus=domain.corpus_bytes,
        corpus_path=str(domain.corpus_path),
        catalogs={domain.catalog.file: domain.catalog.canonical_bytes()},
        manifest=manifest,
        kind="generate",
    )
    with RunLog(folder, config.log) as log:
        for env, answer in enumerate(answers):
            header = {
                "env": env,
                "record": None,
                "question": answer.question,
                "catalog": world.catalog_sha256,
                "split": None,
                "start": 0,
                "align": world.settings.align,
                "slack": world.settings.slack,
                "limit": world.longest_answer + world.settings.slack,
            }
            log.episode(
                header,
                generated_columns(
                    world,
                    answer.text,
                    answer.ended,
                    (answer.history_chars, answer.cap_chars),
                    answer.n_legal,
                    answer.probability,
                    answer.kept if decoding.strategy in CUTTING else None,
                    env,
                ),
            )
        log.event("end")
    return path


if __name__ == "__main__":
    sys.exit(main())
