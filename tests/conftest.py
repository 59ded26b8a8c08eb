"""What tests of several rooms use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from flexattn import train

Interrupt = Callable[[type[Any], int, Sequence[str]], int]


@pytest.fixture
def interrupt(monkeypatch: pytest.MonkeyPatch) -> Interrupt:
    """Runs `train` with these words and presses Ctrl-C behind a step; returns the exit code."""

    def interrupted(training: type[Any], stop_at: int, words: Sequence[str]) -> int:
        steps = training.run

        def stopped(self: Any):  # type: ignore[no-untyped-def]
            for step in steps(self):
                if step == stop_at:
                    raise KeyboardInterrupt
                yield step

        with monkeypatch.context() as patch:
            patch.setattr(training, "run", stopped)
            return train.main(words)

    return interrupted
