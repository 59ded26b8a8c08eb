"""One episode on a terminal: the answer with its hits in colour, Lh and Lp under each character.

Takes parsed lines and gives rich objects; prints and opens nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from flexattn.audit.findings import Finding

CHARS_A_ROW = 32
HIT_STYLES = ("black on cyan", "black on green", "black on yellow", "white on magenta")
_SUMS = ("base", "chi_soft", "ler", "len_cost", "reward")

Step = Mapping[str, Any]


def episode_view(
    header: Mapping[str, Any], steps: Sequence[Step], findings: Sequence[Finding], teacher: str = ""
) -> RenderableType:
    """The episode as one renderable.

    Args:
      header: fields of its event `episode`.
      steps: its step lines, parsed.
      findings: those that lie in it.
      teacher: the teacher's answer, empty where there is none.
    """
    parts: list[RenderableType] = [_title(header, steps), *_answer(steps)]
    if teacher:
        parts.append(Text.assemble(("teacher  ", "dim"), teacher))
    parts.append(_hits(steps))
    if steps and "reward" in steps[0]:
        parts.append(_ledger(steps))
    if findings:
        parts += [Text(str(finding), style="red") for finding in findings]
    else:
        parts.append(Text("no finding in this episode", style="green"))
    return Group(*parts)


def _title(header: Mapping[str, Any], steps: Sequence[Step]) -> Text:
    return Text.assemble(
        (f"episode {header['ep']}", "bold"),
        f"  record {header['record'] or '-'} ({header['split'] or 'no teacher'})  environment "
        f"{header['env']}  catalog {header['catalog'][:8]}  {len(steps)} steps\n",
        ("question ", "dim"),
        header["question"],
    )


def _styles(steps: Sequence[Step]) -> list[str]:
    """Style of each character: a hit's segment from its first to its last step."""
    styles, hits = [""] * len(steps), 0
    for t, step in enumerate(steps):
        if step["len"]:
            for u in range(t, min(len(steps), t + step["len"])):
                styles[u] = HIT_STYLES[hits % len(HIT_STYLES)]
            hits += 1
    return styles


def _answer(steps: Sequence[Step]) -> Iterator[Text]:
    styles = _styles(steps)
    for start in range(0, len(steps), CHARS_A_ROW):
        rows = {name: Text(f"{name:>3s} ", style="dim") for name in ("", "Lh", "Lp", "w")}
        for t in range(start, min(len(steps), start + CHARS_A_ROW)):
            step = steps[t]
            rows[""].append(_wide(step["a"] or "⏎"), style=styles[t] or "default")
            rows["Lh"].append(f"{step['Lh']:<2d}", style="blue")
            rows["Lp"].append(f"{step['Lp']:<2d}", style="magenta")
            rows["w"].append(_wide(step.get("w", "")), style="red")
        if not any("w" in step for step in steps[start : start + CHARS_A_ROW]):
            del rows["w"]
        yield from rows.values()


def _wide(char: str) -> str:
    """`char` on two columns of a terminal."""
    text = Text(char)
    return char + " " * max(0, 2 - text.cell_len)


def _hits(steps: Sequence[Step]) -> Table:
    reward = bool(steps) and "reward" in steps[0]
    table = Table(title="hits", title_justify="left", box=None, pad_edge=False)
    names = ("pos", "seg", "file", "Lp", "idf", *(("sim", "delta", "ler") if reward else ("p",)))
    for name in names:
        table.add_column(name, justify="left" if name in ("seg", "file", "pos") else "right")
    for step in steps:
        if step["len"]:
            table.add_row(*(_figure(step[name]) for name in names))
    return table


def _figure(value: Any) -> str:
    return f"{value:.6f}" if isinstance(value, float) else str(value)


def _ledger(steps: Sequence[Step]) -> Table:
    table = Table(title="ledger", title_justify="left", box=None, pad_edge=False)
    for name in ("", *_SUMS):
        table.add_column(name, justify="right")
    for label, scale in (("sum", 1), ("mean", max(1, len(steps)))):
        table.add_row(label, *(f"{sum(s[name] for s in steps) / scale:.6f}" for name in _SUMS))
    return table
