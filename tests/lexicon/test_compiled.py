from __future__ import annotations

from pathlib import Path

import pytest

import flexattn
from flexattn.env.kernel import step_all
from flexattn.lexicon import compiled as module
from flexattn.lexicon.compiled import MARK, SOURCES, compiled

PACKAGE = Path(flexattn.__file__).parent


def test_the_cache_of_a_step_knows_every_file_with_compiled_functions() -> None:
    marked = {
        file.name for part in ("env", "lexicon") for file in (PACKAGE / part).glob("*.py")
        if MARK in file.read_bytes()
    }  # fmt: skip
    assert {"kernel.py", "mask.py", "reward.py", "gate.py", "bits.py"} <= marked
    assert step_all._cache._cache_file._source_stamp[1] == SOURCES


def test_without_a_folder_to_cache_in_it_compiles_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain = module.njit

    def refusing(*args: object, **options: object) -> object:
        if options.get("cache"):
            raise RuntimeError("no locator available")
        return plain(*args, **options)

    monkeypatch.setattr(module, "njit", refusing)

    @compiled()
    def double(n: int) -> int:
        return 2 * n

    assert double(21) == 42
