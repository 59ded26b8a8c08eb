"""Small SVG pictures as text: no script, no font, no file beside them; every label is escaped.

Colours come from the page's style sheet by class (`s0`, `s1`, ..), so that they follow its theme.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 460, 220
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 12, 34
COLOURS = 6

Point = tuple[float, float]


@dataclass(frozen=True)
class Line:
    """One curve, and the band that its runs span; x ascending."""

    name: str
    middle: Sequence[Point]
    low: Sequence[Point]
    high: Sequence[Point]


def curves(lines: Sequence[Line], x_name: str, y_name: str) -> str:
    """Curves with bands.

    Args:
      lines: at least one point in one of them.
      x_name: what the horizontal axis counts, with its unit.
      y_name: likewise for the vertical axis.
    """
    points = [p for line in lines for p in (*line.middle, *line.low, *line.high)]
    if not points:
        return _empty(y_name)
    # both axes start at 0, so that a small difference doesn't look like a large one
    xs, ys = [x for x, _ in points], [y for _, y in points]
    frame = _Frame(0.0, max(xs) or 1.0, min(0.0, *ys), max(0.0, *ys))
    parts = [frame.axes(x_name, y_name)]
    for n, line in enumerate(lines):
        band = " ".join(frame.at(p) for p in (*line.high, *reversed(line.low)))
        parts.append(f'<polygon class="band s{n % COLOURS}" points="{band}"/>')
        path = " ".join(frame.at(p) for p in line.middle)
        parts.append(f'<polyline class="line s{n % COLOURS}" points="{path}"/>')
    return _figure(parts, [line.name for line in lines], f"{y_name} over {x_name}")


def bars(groups: Mapping[str, Mapping[str, float]], x_name: str, y_name: str) -> str:
    """Bars side by side: group (an arm) -> category -> share.

    Args:
      groups: every group has the same categories, in order.
      x_name: what a category is.
      y_name: what a bar's height is.
    """
    names = list(groups)
    categories = list(next(iter(groups.values()), {}))
    highest = max((v for group in groups.values() for v in group.values()), default=0.0)
    if not categories or highest <= 0.0:
        return _empty(y_name)
    frame = _Frame(0.0, float(len(categories)), 0.0, highest)
    parts = [frame.axes("", y_name)]
    width = 0.8 / len(names)
    every = max(1, math.ceil(len(categories) / 10))
    for c, category in enumerate(categories):
        for n, name in enumerate(names):
            x0, y0 = frame.place(c + 0.1 + n * width, groups[name].get(category, 0.0))
            x1, y1 = frame.place(c + 0.1 + (n + 1) * width, 0.0)
            parts.append(
                f'<rect class="bar s{n % COLOURS}" x="{x0:.1f}" y="{y0:.1f}" '
                f'width="{max(0.5, x1 - x0):.1f}" height="{max(0.0, y1 - y0):.1f}"/>'
            )
        if c % every == 0:
            x, y = frame.place(c + 0.5, 0.0)
            parts.append(
                f'<text x="{x:.1f}" y="{y + 14:.1f}" class="mid">{escape(category)}</text>'
            )
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 4}" class="mid">{escape(x_name)}</text>')
    return _figure(parts, names, f"{y_name} by {x_name}")


@dataclass(frozen=True)
class _Frame:
    """Maps values to places in the picture."""

    left: float
    right: float
    bottom: float
    top: float

    def place(self, x: float, y: float) -> Point:
        """Place of a value, in pixels from the upper left corner."""
        across = (x - self.left) / ((self.right - self.left) or 1.0)
        up = (y - self.bottom) / ((self.top - self.bottom) or 1.0)
        return (
            LEFT + across * (WIDTH - LEFT - RIGHT),
            HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM),
        )

    def at(self, point: Point) -> str:
        """The place as SVG text."""
        x, y = self.place(*point)
        return f"{x:.1f},{y:.1f}"

    def axes(self, x_name: str, y_name: str) -> str:
        """Grid, ticks and names."""
        parts = []
        for k in range(5):
            value = self.bottom + (self.top - self.bottom) * k / 4
            x, y = self.place(self.left, value)
            parts.append(
                f'<path class="grid" d="M{x:.1f} {y:.1f}H{WIDTH - RIGHT}"/>'
                f'<text x="{x - 5:.1f}" y="{y + 4:.1f}" class="end">{_short(value)}</text>'
            )
        if x_name:
            for k in range(0, 5, 2):
                value = self.left + (self.right - self.left) * k / 4
                x, y = self.place(value, self.bottom)
                place = ("start", "mid", "end")[k // 2]
                parts.append(
                    f'<text x="{x:.1f}" y="{y + 14:.1f}" class="{place}">{_short(value)}</text>'
                )
            middle = (LEFT + WIDTH - RIGHT) / 2
            parts.append(f'<text x="{middle}" y="{HEIGHT - 4}" class="mid">{escape(x_name)}</text>')
        return "".join(parts)


def _figure(parts: Sequence[str], names: Sequence[str], title: str) -> str:
    legend = "".join(
        f'<span><i class="s{n % COLOURS}"></i>{escape(name)}</span>' for n, name in enumerate(names)
    )
    return (
        f'<figure><figcaption>{escape(title)}</figcaption><svg viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'role="img" aria-label="{escape(title)}">{"".join(parts)}</svg>'
        f'<p class="legend">{legend}</p></figure>'
    )


def _empty(title: str) -> str:
    return f"<figure><figcaption>{escape(title)}</figcaption><p>nothing to draw</p></figure>"


def _short(value: float) -> str:
    if abs(value) >= 1e6:
        return f"{value / 1e6:.3g}M"
    return f"{value / 1e3:.3g}k" if abs(value) >= 1e4 else f"{value:.3g}"
