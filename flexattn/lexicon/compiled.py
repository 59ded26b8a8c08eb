"""Compiled functions are cached on disk until any file that holds one changes.

Numba looks at a function's own file alone: a log could then be derived with yesterday's reward
behind today's step. What is compiled here carries a hash of all such files besides.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numba import njit

MARK = b"@compiled("


def _sources() -> str:
    """Hash of every file of the lexicon and the environment that holds a compiled function."""
    here = Path(__file__).parent
    digest = hashlib.sha256()
    for file in sorted([*here.glob("*.py"), *(here.parent / "env").glob("*.py")]):
        data = file.read_bytes()
        if MARK in data:
            digest.update(file.name.encode() + b"\0" + data)
    return digest.hexdigest()


SOURCES = _sources()


def compiled(*, allocates: bool = False, **options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Compile with Numba, without the interpreter lock.

    Args:
      allocates: whether the function makes arrays. One that doesn't does without Numba's reference
        counts, which cost a step more than its arithmetic where many arrays are passed down.
      options: further ones of `numba.njit`.
    """
    options = {"nogil": True, "_nrt": allocates, **options}

    def decorate(function: Callable[..., Any]) -> Any:
        try:
            dispatcher = njit(cache=True, **options)(function)
        except RuntimeError:  # no folder to cache in: compile in every process
            return njit(**options)(function)
        index = dispatcher._cache._cache_file
        index._source_stamp = (index._source_stamp, SOURCES)
        return dispatcher

    return decorate
