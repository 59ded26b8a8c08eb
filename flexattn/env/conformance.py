"""A conformance case is derived by the core, and every value beyond the tolerance is named.

Cases have the form of the specification's oracle: terms, answers, actions, and each step's numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from flexattn.env.core import Core
from flexattn.env.world import World

TOLERANCE = 1e-9
_NUMBERS = ("idf", "sim", "delta", "ler", "len_cost", "base", "chi_soft", "reward")


def derive_case(case: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every step of a case."""
    world = World.from_case(case)
    core = Core(world, 1)
    core.reset([0], [case["answer"]])
    settings = world.settings
    out: list[dict[str, Any]] = []
    for lh, lp, char, written in world.case_actions(case):
        steps = core.step([lh], [lp], [char], [written], enforce=False)
        term = int(steps.term[0])
        out.append(
            {
                "step": len(out) + 1,
                "Lh": settings.history_chars[lh],
                "Lp": settings.hit_cap_chars[lp],
                "a": world.vocabulary.char(char),
                "seg": world.term_list[term] if term >= 0 else "",
                "len": int(steps.length[0]),
                **{name: float(getattr(steps, name)[0]) for name in _NUMBERS},
            }
        )
    return out


def differences(
    derived: Sequence[Mapping[str, Any]], expected: Sequence[Mapping[str, Any]]
) -> Iterator[str]:
    """In words, each value of `expected` that `derived` does not have."""
    if len(derived) != len(expected):
        yield f"has {len(expected)} expected steps, derived {len(derived)}"
    for ours, theirs in zip(derived, expected):
        for name, want in theirs.items():
            got = ours.get(name)
            if isinstance(want, float) and isinstance(got, float):
                apart = abs(got - want) > TOLERANCE
            else:
                apart = got != want
            if apart:
                yield f"step {theirs.get('step')}: {name} is {want!r}, derived {got!r}"
