"""Worlds to step in: random conformance cases, and the medical default."""

from __future__ import annotations

import importlib.util
import json
import random
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from flexattn.env.core import Core
from flexattn.env.lexical import open_world
from flexattn.env.records import FLOATS
from flexattn.env.world import World

ROOT = Path(__file__).parents[2]
ORACLE = ROOT.parent / "shared" / "oracle"

SYLLABLES = "肝肺肾脾胃热寒湿风痰虚实"
MARKS = "，。；"
REWARDS: list[dict[str, Any]] = [
    {},
    {"nested": True},
    {"resync": True},
    {"resync": True, "radius": 3},
    {"tau": 0.3},
    {"tau": 0.6, "repeat": 0.9, "lambda_lex": 0.5},
    {"progress": 25.0, "eta1": 0.2, "eta2": 1.5},
    {"alpha_h": 1.5, "alpha_p": 0.5, "lambda_h": 0.02},
    {"lengths": [2, 4, 7]},
    {"near": 0.1, "p_repeat": 0.2, "p_punct": 0.03, "p_noncompliant": 0.07},
]


def make_case(seed: int) -> dict[str, Any]:
    """A random case in the form of the conformance files."""
    rng = random.Random(seed)
    alphabet = SYLLABLES[: rng.randint(3, len(SYLLABLES))]
    lengths = [rng.randint(2, 8) for _ in range(rng.randint(2, 16))]
    terms = sorted({"".join(rng.choices(alphabet, k=n)) for n in lengths})
    pieces = 3 * rng.sample(terms, rng.randint(1, len(terms))) + list(MARKS) + list(alphabet[:2])
    answers = [
        "".join(rng.choices(pieces, k=rng.randint(1, 16)))[: rng.choice((3, 40, 90))]
        for _ in range(rng.randint(1, 9))
    ]
    which = rng.randrange(len(answers))
    answer = answers[which]
    faithful = rng.choice((0.5, 0.9, 1.0))
    actions: list[list[Any]] = []
    for t in range(min(60, len(answer) + rng.randint(0, 4))):
        target = answer[t] if t < len(answer) else ""
        char = target if rng.random() < faithful else rng.choice(alphabet + MARKS + "外")
        if not char:
            break
        action: list[Any] = [rng.choice((1, 2, 4, 6)), rng.choice((2, 3, 5, 7)), char]
        if rng.random() < 0.15:
            action.append(rng.choice(alphabet + MARKS))
        actions.append(action)
    actions.append([1, 2, ""])
    return {
        "terms": [
            {"term": term, "zipf": rng.choice((None, None, round(rng.uniform(1.0, 8.0), 2)))}
            for term in terms
        ],
        "answers": answers,
        "answer": which,
        "actions": actions,
        "reward": rng.choice(REWARDS),
    }


def run_case(case: dict[str, Any]) -> list[dict[str, Any]]:
    """Every number of the case's steps, as a conformance file holds them."""
    world = World.from_case(case)
    core = Core(world, 1)
    core.reset([0], [case["answer"]])
    rows = []
    for (lh, lp, char, written), action in zip(world.case_actions(case), case["actions"]):
        steps = core.step([lh], [lp], [char], [written], enforce=False)
        term = int(steps.term[0])
        rows.append(
            {
                "step": len(rows) + 1,
                "Lh": action[0],
                "Lp": action[1],
                "a": action[2],
                "seg": world.term_list[term] if term >= 0 else "",
                "len": int(steps.length[0]),
                **{name: float(getattr(steps, name)[0]) for name in FLOATS},
            }
        )
    return rows


@pytest.fixture(scope="session")
def random_case() -> Callable[[int], dict[str, Any]]:
    return make_case


@pytest.fixture(scope="session")
def derive_case() -> Callable[[dict[str, Any]], list[dict[str, Any]]]:
    return run_case


@pytest.fixture(scope="session")
def golden() -> list[dict[str, Any]]:
    cases = json.loads((ROOT / "tests" / "golden" / "cases.json").read_text(encoding="utf-8"))
    if (ORACLE / "golden.json").exists():
        cases += json.loads((ORACLE / "golden.json").read_text(encoding="utf-8"))
    return cases


@pytest.fixture(scope="session")
def oracle() -> ModuleType:
    """The executable statement of the arithmetic; tests that need it are skipped without it."""
    if not (ORACLE / "oracle.py").exists():
        pytest.skip("the oracle stands beside the founders' checkout only")
    spec = importlib.util.spec_from_file_location("flexattn_oracle", ORACLE / "oracle.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # a dataclass looks its module up by name
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def world() -> World:
    """The medical default."""
    return open_world()
