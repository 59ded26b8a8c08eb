"""Episodes of a run as people look at them: on a terminal, and as a page for a browser."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from rich.console import Console

from flexattn import jsontext
from flexattn.audit.episodes import episodes_of
from flexattn.audit.folder import RunFolder
from flexattn.audit.page import MAX_STEPS, page, page_episode
from flexattn.audit.verify import Report
from flexattn.audit.view import episode_view
from flexattn.env.derive import Deriver
from flexattn.env.difference import Logged
from flexattn.env.pool import Derivers
from flexattn.errors import AuditError


def show_episode(folder: RunFolder, derivers: Derivers | None, report: Report, ep: int) -> None:
    """Print one episode, step by step, with what was found in it.

    Raises: AuditError where the run has no such episode.
    """
    for told, steps in episodes_of(folder, ep):
        lines = {told.place(t) for t in range(-1, told.count)}
        findings = [f for f in report.findings if (f.file, f.line) in lines]
        teacher = _teacher(derivers, told.header["record"])
        Console().print(episode_view(told.header, steps, findings, teacher))
        return
    raise AuditError(f"{folder.path}: has no episode {ep}, expected one of its {report.episodes}")


def write_page(
    folder: RunFolder, derivers: Derivers, report: Report, out: Path, ep: int | None = None
) -> None:
    """Write as many whole episodes as the page takes, from the first on, or episode `ep` alone."""
    chosen, room = [], MAX_STEPS
    catalogs: dict[str, Any] = {}
    for told, steps in episodes_of(folder, ep):
        room -= len(steps)
        if room < 0:
            break
        deriver = derivers.of(told.header["catalog"])
        gains = None
        if isinstance(deriver, Deriver) and len(steps) == told.count:
            gains = deriver.gain_by_cap(Logged(told.header, told.data))
        teacher = _teacher(derivers, told.header["record"])
        chosen.append(page_episode(told.header, steps, told.place(0), teacher, gains))
        if deriver:
            entries = catalogs.setdefault(told.header["catalog"], {})
            entries.update(_entries(folder, told.header["catalog"], {s["seg"] for s in steps}))
    settings = asdict(derivers.world.settings)
    jsontext.write_whole(out, page(report, chosen, catalogs, settings).encode("utf-8"))
    print(f"{out}: {len(chosen)} of {report.episodes} episodes; open it in a browser")


def _teacher(derivers: Derivers | None, record: object) -> str:
    records = derivers.world.records if derivers else ()
    return next((r.answer for r in records if r.id == record), "")


@cache
def _catalog_entries(file: Path) -> dict[str, Any]:
    return {entry["term"]: entry for entry in json.loads(file.read_bytes())["entries"]}


def _entries(folder: RunFolder, sha: str, terms: set[str]) -> dict[str, Any]:
    known = _catalog_entries(folder.path / "catalogs" / f"{sha}.json")
    return {term: known[term] for term in terms if term in known}
