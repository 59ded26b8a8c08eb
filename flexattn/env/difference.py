"""An episode as the log has it, and where it is not what its decisions give; no file, no table."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from flexattn.audit.schema import defect
from flexattn.env.records import FLOATS

_NUMBERS = frozenset((*FLOATS, "n_legal"))
_HIT = frozenset(("seg", "len", "file", "pos"))


@dataclass(frozen=True)
class Logged:
    """An episode as the log has it: the values of its header, and its step lines' bytes.

    `whole` is False where the log ends within it.
    """

    header: Mapping[str, Any]
    data: bytes
    whole: bool = True

    @property
    def lines(self) -> list[bytes]:
        """Its step lines, newlines in them; cut anew each time that they are asked for."""
        return io.BytesIO(self.data).readlines()


@dataclass(frozen=True)
class Difference:
    """Where an episode is not what its decisions give.

    `episode` counts within the batch; `step` is the step line's index from 0, -1 for the header.
    """

    episode: int
    step: int
    code: str
    text: str
    field: str = ""
    logged: Any = None
    derived: Any = None


def header_difference(
    n: int, header: Mapping[str, Any], derived: Mapping[str, Any]
) -> Difference | None:
    """The first field of an episode's header that is not the derived one."""
    for name, value in derived.items():
        if header[name] != value:
            text = f"{name} is {header[name]!r}, derived {value!r}"
            return Difference(n, -1, "number", text, name, header[name], value)
    return None


def compare(n: int, t: int, line: bytes, derived: Mapping[str, Any]) -> Difference:
    """The difference between a logged line and the values derived for it.

    Args:
      n: number of the episode, for the answer.
      t: index of the step, likewise.
      line: its bytes.
      derived: key -> value, None where a line has no such key.
    """
    try:
        step = orjson.loads(line)
    except ValueError as error:
        return Difference(n, t, "not-json", f"the line is no JSON: {error}")
    wrong = defect(step) if isinstance(step, dict) else ("line", "no object", "an object")
    if wrong:
        return schema_difference(n, t, wrong)
    for name, value in derived.items():
        found = step.get(name)
        if found != value:
            code = "number" if name in _NUMBERS else "hit" if name in _HIT else "episode-header"
            code = "step-order" if name == "step" else "number" if name == "note" else code
            text = f"{name} is {_shown(found)}, derived {_shown(value)}"
            return Difference(n, t, code, text, name, found, value)
    text = "the line holds the right values in other bytes than a writer's"
    return Difference(n, t, "not-canonical", text)


def schema_difference(n: int, t: int, wrong: tuple[str, str, str]) -> Difference:
    """What `schema.defect` says of a step line."""
    name, found, expected = wrong
    return Difference(n, t, "schema", f"{name} is {found}, expected {expected}", name, found)


def _shown(value: Any) -> str:
    return "nothing" if value is None else repr(value) if isinstance(value, float) else str(value)
