"""Served answers whose teacher is known are scored, and a newer stage that does worse goes back.

A question that names exactly one record's term has a reference: that record's answer. Each look
compares all such answers of the older stage with those that the newer one gave since the last
change of stage; FAIL or ERROR is a rollback in the serving folder's log, with its evidence.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from flexattn import jsontext
from flexattn.domain import Domain
from flexattn.errors import AuditError
from flexattn.evaluation import metrics
from flexattn.evaluation.acceptance import Acceptance
from flexattn.evaluation.rows import Scorer
from flexattn.generation.trace import Answer
from flexattn.lexicon.entries import PUNCTUATION
from flexattn.stages.guard import judge_served
from flexattn.stages.serving import MOVES, SERVED, Serving, State

GUARD = "guard of served answers"
KEYS = {"request", "stage", "changes", "kpis"}  # of a line of served.jsonl


def keep(serving: Serving, stage: str, domain: Domain, answers: Sequence[Answer]) -> int:
    """Append a line for each answer that has a reference; returns how many had one.

    Args:
      serving: the folder.
      stage: A, B or C, who answered.
      domain: what that stage was trained on.
      answers: those that were given.
    """
    world = domain.world
    references: dict[str, list[str]] = {}
    for record in world.records:
        references.setdefault(record.term, []).append(record.answer)
    frequency = {entry.term: entry.df for entry in domain.catalog.entries}
    train = [world.records[record].answer for record in world.train]
    scorer = Scorer.of(train, frequency, world.settings.lengths, world.settings.hit_cap_chars)
    changes = serving.state().changes
    lines = []
    for answer in answers:
        known = references.get(answer.subjects[0], []) if len(answer.subjects) == 1 else []
        if len(known) != 1:
            continue
        row: dict[str, Any] = {
            "request": answer.request.id,
            "stage": stage,
            "changes": changes,
            "kpis": _kpis(scorer, answer.text, known[0]),
        }
        lines.append(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))
    with serving.alone():
        append(serving.folder.path / SERVED, lines)
    return len(lines)


def append(path: Path, lines: Sequence[bytes]) -> None:
    """Add lines to a file; what a crash tore off at its end is cut first."""
    with path.open("a+b") as file:
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)
        file.writelines(lines)


def scored(path: Path) -> list[dict[str, Any]]:
    """The whole lines of served.jsonl; none where there is no such file.

    Raises: AuditError naming a line that is not one of ours.
    """
    rows = []
    data = path.read_bytes() if path.exists() else b""
    for number, line in enumerate(data[: data.rfind(b"\n") + 1].splitlines(), 1):
        row = jsontext.parse(line, str(path), AuditError, number)
        if (
            not isinstance(row, dict)
            or not row.keys() >= KEYS
            or not isinstance(row.get("kpis"), dict)
        ):
            raise AuditError(f"{path}:{number}: is no scored answer; cut the line out")
        rows.append(row)
    return rows


def look(serving: Serving) -> tuple[Acceptance, State]:
    """Judge what was served; goes back by itself where the newer stage fails.

    Returns: the verdicts, and the state after them.
    """
    state, asked = serving.state(), serving.config.stages
    values: dict[str, dict[str, list[float]]] = {"newer": {}, "older": {}}
    older = serving.stage("older")
    with serving.alone():
        rows = scored(serving.folder.path / SERVED)
    for row in rows:
        side = "older" if row["stage"] == older else "newer"
        if side == "newer" and row["changes"] != state.changes:
            continue
        for name, value in row["kpis"].items():
            if value is not None:
                values[side].setdefault(name, []).append(value)
    newer, before = (
        {name: np.array(found) for name, found in values[side].items()}
        for side in ("newer", "older")
    )
    judged = judge_served(newer, before, asked.guards, asked.margin, asked.least_answers)
    if state.share > 0.0 and MOVES[judged.verdict] == "rollback":
        more = {"judged": "served answers"}
        state = serving.decide(judged, more, GUARD, after=state.changes)
    return judged, state


def _kpis(scorer: Scorer, output: str, reference: str) -> dict[str, float | None]:
    return {
        "term_recall": metrics.term_recall(output, reference, scorer.terms),
        "rouge_l": metrics.rouge_l(output, reference),
        "word_noncompliance": metrics.word_noncompliance(
            output, scorer.bigrams, scorer.chars, PUNCTUATION
        ),
        "typo_rate": metrics.typo_rate(output, reference, scorer.terms),
    }
