"""What a long training shows: a live panel on a terminal, one plain line at a time elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType

import numpy as np
from rich.console import Console, Group
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

PLAIN_EVERY_S = 10.0
BLOCKS = " ▁▂▃▄▅▆▇█"


@dataclass
class Figures:
    """The newest value of everything that is shown."""

    values: dict[str, float] = field(default_factory=dict)
    histories: dict[int, float] = field(default_factory=dict)
    caps: dict[int, float] = field(default_factory=dict)


class Display:
    """Progress of phases with return, hit rate, recall, histograms, characters a second and ETA."""

    def __init__(self, *, plain: bool | None = None, quiet: bool = False) -> None:
        """Plain lines where stdout is no terminal, or on request; `quiet`: nothing at all."""
        self.console = Console(quiet=quiet)
        self.plain = quiet or (not sys.stdout.isatty() if plain is None else plain)
        self.figures = Figures()
        self.phase, self.total, self.done = "", 0, 0
        self.characters, self.started, self.shown = 0, time.monotonic(), 0.0
        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.console,
        )
        self._live = Live(console=self.console, refresh_per_second=4) if not self.plain else None
        self._task: TaskID | None = None

    def __enter__(self) -> Display:
        """Start drawing."""
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop drawing, leave the terminal as it was."""
        if self._live:
            self._draw()
            self._live.stop()

    def begin(self, phase: str, total: int, done: int = 0) -> None:
        """A phase of `total` steps starts, `done` of them behind it already."""
        self.phase, self.total, self.done = phase, total, done
        self.characters, self.started = 0, time.monotonic()
        if self._task is not None:
            self._progress.remove_task(self._task)
        self._task = self._progress.add_task(phase, total=total, completed=done)
        self.say(f"{phase}: {total - done} steps") if self.plain else self._draw()

    def advance(self, characters: int, values: Mapping[str, float]) -> None:
        """One step is done, over so many characters."""
        self.done += 1
        self.characters += characters
        self.figures.values.update(values)
        if self._task is not None:
            self._progress.update(self._task, completed=self.done)
        now = time.monotonic()
        if now - self.shown >= (PLAIN_EVERY_S if self.plain else 0.25):
            self.shown = now
            self._print_line() if self.plain else self._draw()

    def reached(self, step: int, steps: int) -> None:
        """The run has done `step` of its steps; a display of phases counts by itself."""

    def shares(self) -> dict[str, float]:
        """The histograms of Lh and Lp by one name a bar, such as `Lp_4`."""
        figures = self.figures
        return {
            f"{name}_{choice}": share
            for name, shares in (("Lh", figures.histories), ("Lp", figures.caps))
            for choice, share in shares.items()
        }

    def choices(self, histories: Mapping[int, float], caps: Mapping[int, float]) -> None:
        """Shares of Lh and Lp in the newest rollout."""
        self.figures.histories, self.figures.caps = dict(histories), dict(caps)

    def say(self, line: str) -> None:
        """One line that stays."""
        self.console.print(line, highlight=False, soft_wrap=True, markup=False)

    def _rate(self) -> float:
        return self.characters / max(1e-9, time.monotonic() - self.started)

    def _print_line(self) -> None:
        elapsed = time.monotonic() - self.started
        left = elapsed / max(1, self.done) * (self.total - self.done)
        shown = " ".join(f"{name} {value:.4g}" for name, value in self.figures.values.items())
        self.say(
            f"{self.phase} {self.done}/{self.total} {shown} "
            f"{self._rate():,.0f} characters/s, {left:.0f} s left"
        )

    def _draw(self) -> None:
        if not self._live:
            return
        table = Table.grid(padding=(0, 2))
        row: list[str] = []
        for name, value in self.figures.values.items():
            row.append(f"{name} [bold]{value:.4g}[/bold]")
            if len(row) == 4:
                table.add_row(*row)
                row = []
        if row:
            table.add_row(*row)
        bars = Text(
            f"Lh {_bars(self.figures.histories)}   Lp {_bars(self.figures.caps)}   "
            f"{self._rate():,.0f} characters/s"
        )
        self._live.update(Group(self._progress, table, bars))


class Together:
    """Progress of many runs as one line, drawn again on a terminal, each 10 s elsewhere."""

    def __init__(self, *, plain: bool | None = None) -> None:
        """Plain lines where stdout is no terminal, or on request."""
        self.console = Console()
        self.plain = not sys.stdout.isatty() if plain is None else plain
        self.steps: dict[str, tuple[int, int]] = {}  # name -> steps done, and all of them
        self.now: dict[str, int] = {}  # name -> characters, of runs that go on just now
        self.characters, self.first = 0, 0
        self.started, self.shown = time.monotonic(), time.monotonic()
        self._live = Live(console=self.console, refresh_per_second=4) if not self.plain else None

    def __enter__(self) -> Together:
        """Start drawing."""
        self.started = time.monotonic()
        self.first = sum(done for done, _ in self.steps.values())
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop drawing, leave the terminal as it was."""
        if self._live:
            self._live.update(Text(self._line()))
            self._live.stop()

    def expect(self, name: str, done: int, steps: int) -> None:
        """A run is still to come, or to go on with."""
        self.steps[name] = (done, steps)

    def begun(self, name: str) -> None:
        """A run has got a process."""
        self.now[name] = 0

    def reached(self, name: str, step: int, characters: int) -> None:
        """A run has done `step` steps, its process so many characters."""
        self.steps[name] = (step, self.steps[name][1])
        before = self.now.get(name, 0)
        self.characters += characters - before if characters >= before else characters
        self.now[name] = characters

    def finished(self, name: str, steps: int, *, before: bool = False) -> None:
        """A run has come to its end, in an earlier call where `before`."""
        self.steps[name] = (steps, steps)
        self.gone(name)
        self.say(f"{name}: was finished before" if before else f"{name}: is finished")

    def gone(self, name: str) -> None:
        """A run goes on no more."""
        self.now.pop(name, None)

    def say(self, line: str) -> None:
        """One line that stays."""
        self.console.print(line, highlight=False, soft_wrap=True, markup=False)

    def show(self) -> None:
        """Draw, where it is time."""
        now = time.monotonic()
        if self._live:
            self._live.update(Text(self._line()))
        elif now - self.shown >= PLAIN_EVERY_S:
            self.shown = now
            self.say(self._line())

    def _line(self) -> str:
        done = sum(done for done, _ in self.steps.values())
        total = sum(steps for _, steps in self.steps.values())
        ended = sum(
            done == steps and name not in self.now for name, (done, steps) in self.steps.items()
        )
        elapsed = max(1e-9, time.monotonic() - self.started)
        share = (done - self.first) / elapsed
        left = f"{(total - done) / share:,.0f} s left" if share > 0 else "starting"
        running = ", ".join(f"{n} {self.steps[n][0]}/{self.steps[n][1]}" for n in self.now)
        return (
            f"{ended} of {len(self.steps)} runs finished, {done / max(1, total):.0%} of all steps; "
            f"{running or 'none runs'}; {self.characters / elapsed:,.0f} characters/s, {left}"
        )


def _bars(shares: Mapping[int, float]) -> str:
    """Shares as one block each: "2▇ 3▂ 4▁ 6▁"."""
    top = max(shares.values(), default=0.0) or 1.0
    return " ".join(
        f"{choice}{BLOCKS[int(np.ceil(share / top * 8))]}" for choice, share in shares.items()
    )
