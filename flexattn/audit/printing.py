"""A verification's report and a run's counts, printed for people."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from flexattn.audit.chain import GENESIS
from flexattn.audit.verify import Report

SHOWN = 20  # findings that are printed
_LEFT = ("catalog", "place", "term", "file", "note")


def print_report(report: Report) -> None:
    """The report for people: the first findings, one line each, and the sum of it."""
    console = Console(soft_wrap=True, highlight=False)
    for finding in report.findings[:SHOWN]:
        console.print(str(finding), markup=False, style="red" if sys.stdout.isatty() else None)
    hidden = len(report.findings) - SHOWN + report.more
    if hidden > 0:
        console.print(f"and {hidden} more findings; --json lists the first 1000")
    what = (
        f"{report.lines:,} lines, {report.steps:,} steps, {_counted(report.episodes, 'episode')}, "
        f"{_counted(report.seals, 'seal')} in {_counted(report.files, 'file')}"
    )
    if report.sound:
        done = "every number derived again" if report.numbers else "numbers not derived (--chain)"
        console.print(f"{report.run}: sound; {what}; every line sealed, {done}")
    else:
        count = len(report.findings) + report.more
        console.print(
            f"{report.run}: NOT sound; {count} finding{'s' * (count != 1)}; {what}; "
            f"sealed and whole up to line {report.sealed:,} of the log"
        )
    if report.head != GENESIS:
        console.print(f"head {report.head} (keep it elsewhere: only it shows a log written anew)")


def print_statistics(tables: Mapping[str, tuple[str, list[str], list[tuple[Any, ...]]]]) -> None:
    """Counts over a run as tables."""
    console = Console(soft_wrap=True, highlight=False)
    for title, columns, rows in tables.values():
        table = Table(title=title, title_justify="left", box=None, pad_edge=False)
        for column in columns:
            table.add_column(column, justify="left" if column in _LEFT else "right")
        for row in rows:
            table.add_row(*(f"{v:,.6g}" if isinstance(v, float) else str(v) for v in row))
        console.print(table, "")


def _counted(number: int, name: str) -> str:
    return f"{number:,} {name}{'s' * (number != 1)}"
