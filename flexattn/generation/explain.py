"""An answer as a reader sees it: segments, and at each step the choices and what else stood open.

Takes answers and gives rich objects; prints nothing.
"""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from flexattn.env.freehand import own_hits
from flexattn.env.world import World
from flexattn.generation.trace import Answer

HIT_STYLES = ("black on cyan", "black on green", "black on yellow", "white on magenta")
END_MARK = "(end)"


def explain(world: World, answer: Answer) -> RenderableType:
    """The answer with its catalog segments in colour, then a table with a row a step."""
    settings = world.settings
    terms = dict(zip(world.term_list, world.terms.weight.tolist()))
    hits = own_hits(answer.text, answer.cap_chars, terms, settings.lengths, settings.nested)
    styles = _styles(hits)
    text = Text()
    for char, style in zip(answer.text, styles):
        text.append(char, style)
    table = Table(show_edge=False, pad_edge=False)
    for name in ("step", "a", "Lh", "Lp", "segment", "weight", "p", "legal", "alternatives"):
        table.add_column(name, justify="left" if name in ("a", "segment", "alternatives")
                         else "right")  # fmt: skip
    for t, char in enumerate([*answer.text, *[END_MARK] * answer.ended]):
        hit = hits[t] if t < len(hits) else ""
        table.add_row(
            str(t + 1), Text(char, styles[t] if t < len(styles) else ""),
            str(answer.history_chars[t]), str(answer.cap_chars[t]),
            Text(hit or "-", styles[t] if hit else "dim"), f"{terms[hit]:.3f}" if hit else "",
            f"{answer.probability[t]:.4f}", str(answer.n_legal[t]), _others(answer, t, char),
        )  # fmt: skip
    head = Text.assemble(
        ("question  ", "dim"), answer.request.question, "\n",
        ("terms     ", "dim"), "、".join(answer.subjects) or "-", "\n", ("answer    ", "dim"),
    )  # fmt: skip
    return Group(head + text, Text(), table)


def _styles(hits: list[str]) -> list[str]:
    """Style of each character: a segment from its first to its last step."""
    styles, number = [""] * len(hits), 0
    for t, hit in enumerate(hits):
        if hit:
            styles[t : t + len(hit)] = [HIT_STYLES[number % len(HIT_STYLES)]] * len(hit)
            number += 1
    return styles[: len(hits)]


def _others(answer: Answer, t: int, char: str) -> str:
    if answer.options is None:
        return ""
    return "  ".join(
        f"{other or END_MARK} {p:.4f}"
        for other, p in answer.options[t]
        if (other or END_MARK) != char
    )
