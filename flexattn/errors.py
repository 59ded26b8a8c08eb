"""Errors a user can cause: one line that says where, what was found, what was expected, what to do.

Every command runs inside `command`, so that such an error ends with exit code 2 and no traceback.
Anything else is a defect of ours and keeps its traceback.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from typing import Protocol


class FlexAttnError(ValueError):
    """Base of every error that names something a user can change."""


class ConfigError(FlexAttnError):
    """A configuration file or an override that can't be used."""


class CorpusError(FlexAttnError):
    """A file of teacher answers that can't be used."""


class CatalogError(FlexAttnError):
    """A catalog that can't be used."""


class EnvironmentSpecError(FlexAttnError):
    """An environment asked for something that its corpus, catalog or action space doesn't have."""


class MaskError(FlexAttnError):
    """A state without a legal action, or an action outside the legal set."""


class AuditError(FlexAttnError):
    """A run folder or log that can't be opened, or a line that can't be written."""


class CheckpointError(FlexAttnError):
    """A checkpoint that is missing, damaged or of another run."""


class MissingExtraError(FlexAttnError):
    """An optional library that a chosen option needs and that isn't installed."""

    def __init__(self, what: str, extra: str) -> None:
        """Say which extra brings it: MissingExtraError("--parquet", "query")."""
        super().__init__(
            f"{what} needs an optional library; install it with: pip install 'flexattn[{extra}]'"
        )


class Main(Protocol):
    """A verb: takes the words after its name, by default those of the process."""

    def __call__(self, argv: Sequence[str] | None = None) -> int:
        """Run and return the exit code."""


def command(main: Callable[[Sequence[str] | None], int]) -> Main:
    """Make a command end with one line on stderr and exit code 2 for what a user can mend.

    Ctrl-C ends with 130, a closed pipe with 141, as shells expect.
    """

    @functools.wraps(main)
    def run(argv: Sequence[str] | None = None) -> int:
        try:
            return main(argv)
        except FlexAttnError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        except OSError as error:
            if isinstance(error, BrokenPipeError):
                sys.stderr.close()
                return 141
            print(
                f"error: {error.filename or 'system'}: {error.strerror or error}", file=sys.stderr
            )
            return 2
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return 130

    return run
