"""A run as one HTML page that needs nothing else: no network, no server, no other file.

The page holds the chosen episodes as columns in a JSON block; what it shows is made from text nodes
alone, so that nothing logged can become markup.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

import orjson

from flexattn.audit.schema import GENERATION_FIELDS, TRAIN_FIELDS
from flexattn.audit.verify import Report

MAX_STEPS = 20_000
_MARK = "/*DATA*/null"
_DROPPED = ("ep", "env", "cat")  # the episode's header has them


def page_episode(
    header: Mapping[str, Any],
    steps: Sequence[Mapping[str, Any]],
    place: tuple[str, int],
    teacher: str,
    gains: Sequence[Sequence[float]] | None,
) -> dict[str, Any]:
    """One episode for the page.

    Args:
      header: fields of its event `episode`.
      steps: its step lines, parsed.
      place: file and line number of its first step.
      teacher: the teacher's answer, empty where there is none.
      gains: of each step the credited gain under each cap, None where there is no teacher.
    """
    names = [f.name for f in (GENERATION_FIELDS if header["record"] is None else TRAIN_FIELDS)]
    columns = {name: [step.get(name) for step in steps] for name in names if name not in _DROPPED}
    return {
        "header": dict(header),
        "file": place[0],
        "line": place[1],
        "teacher": teacher,
        "columns": {
            name: column for name, column in columns.items() if any(v is not None for v in column)
        },
        "gains": gains,
    }


def page(
    report: Report,
    episodes: Sequence[Mapping[str, Any]],
    catalogs: Mapping[str, Mapping[str, Any]],
    settings: Mapping[str, Any],
) -> str:
    """The page's text.

    Args:
      report: what the verification found.
      episodes: from `page_episode`, at most MAX_STEPS steps of them.
      catalogs: catalog hash -> term -> its entry.
      settings: numbers of the run that the page shows beside the steps.
    """
    fields = {f.name: {"unit": f.unit, "text": f.text} for f in (*TRAIN_FIELDS, *GENERATION_FIELDS)}
    data = orjson.dumps(
        {
            "report": report.as_dict(),
            "episodes": list(episodes),
            "catalogs": catalogs,
            "settings": settings,
            "fields": fields,
        }
    ).decode("utf-8")
    template = resources.files("flexattn.audit").joinpath("page.html").read_text(encoding="utf-8")
    safe = data.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    return template.replace(_MARK, safe)
