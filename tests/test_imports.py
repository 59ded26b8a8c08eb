"""What a command loads, seen in a fresh interpreter; import-linter checks the same in the text."""

from __future__ import annotations

import subprocess
import sys

import pytest


def loaded(code: str) -> set[str]:
    """Top-level modules that a fresh interpreter has after `code`."""
    code += "\nimport sys; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("verb", ["replay", "report", "catalog"])
def test_an_auditors_verb_never_loads_torch(verb: str) -> None:
    assert "torch" not in loaded(f"import flexattn.{verb}")


def test_importing_the_package_registers_the_environment_and_loads_nothing_heavy() -> None:
    found = loaded("import flexattn, gymnasium; assert 'flexattn/Lexical-v0' in gymnasium.registry")
    assert found.isdisjoint({"torch", "numba", "pydantic", "rich"})


def test_no_optional_library_is_loaded_before_it_is_used() -> None:
    found = loaded("import flexattn.train, flexattn.generate, flexattn.replay, flexattn.catalog")
    optional = {"triton", "tensorboard", "ray", "bert_score", "duckdb", "watchfiles"}
    assert found.isdisjoint(optional | {"ahocorasick", "pytest"})
