"""One process at a time in a folder; what it holds goes with the process, however it ends."""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from flexattn.errors import AuditError

LOCK = ".lock"


@contextmanager
def alone_in(folder: Path, *, wait: bool) -> Iterator[None]:
    """Hold the folder's lock; it is not reentrant.

    Args:
      folder: must exist.
      wait: whether to wait for whoever holds it.

    Raises: BlockingIOError where another one holds it and `wait` is false.
    """
    with (folder / LOCK).open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield


def claim(names: Callable[[int], Path]) -> Path:
    """Make the first folder of names(1), names(2), ... that nobody has made yet.

    Two processes that ask at once get two folders.

    Raises: AuditError where none can be made.
    """
    number = 1
    while True:
        path = names(number)
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            number += 1
        except OSError as error:
            raise AuditError(f"{path}: cannot be made: {error.strerror}") from None
        else:
            return path
