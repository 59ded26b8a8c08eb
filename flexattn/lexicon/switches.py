"""The journal of a store: which version was put in force when, a line for each switch.

Each line is on the disk before its switch takes effect; one that a crash tore off is cut away when
the file is read again, and none is ever rewritten.
"""

from __future__ import annotations

import errno
import os
import re
import weakref
from dataclasses import asdict, dataclass
from pathlib import Path

import orjson

from flexattn import jsontext
from flexattn.errors import CatalogError

VERSIONS = "versions.jsonl"


@dataclass(frozen=True)
class Switch:
    """One line of versions.jsonl."""

    revision: int
    sha256: str
    file: str


class Switches:
    """All switches there ever were, oldest first, on the disk and in `made`.

    The file stays open, and one call writes and syncs a line: whenever a system call ends, the
    calling thread takes the interpreter lock back from a thread that steps environments, which
    costs that one more than the call itself.
    """

    def __init__(self, folder: Path) -> None:
        """Read what the folder has.

        Raises: CatalogError where the file is damaged before its last line.
        """
        self._path = folder / VERSIONS
        self.made = _read(self._path)
        self._descriptor: int | None = None
        self._close: weakref.finalize[[int], Switches] | None = None

    def append(self, sha256: str, file: str) -> Switch:
        """Write the next switch; it is on the disk when this returns.

        Raises: OSError where the disk is full; the file is as it was.
        """
        if self._descriptor is None:
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_DSYNC | os.O_CLOEXEC
            self._descriptor = os.open(self._path, flags, 0o666)
            self._close = weakref.finalize(self, os.close, self._descriptor)
        switch = Switch(self.made[-1].revision + 1 if self.made else 1, sha256, file)
        line = orjson.dumps(asdict(switch), option=orjson.OPT_APPEND_NEWLINE)
        if (wrote := os.write(self._descriptor, line)) < len(line):
            os.ftruncate(self._descriptor, os.fstat(self._descriptor).st_size - wrote)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))
        self.made.append(switch)
        return switch

    def close(self) -> None:
        """Close the file; `append` opens it again."""
        if self._close is not None:
            self._close()
        self._descriptor = self._close = None


def _read(path: Path) -> list[Switch]:
    if not path.exists():
        return []
    data = jsontext.read_bytes(path, CatalogError)
    switches: list[Switch] = []
    whole, _, torn = data.rpartition(b"\n")
    for number, line in enumerate(whole.split(b"\n") if whole else [], 1):
        value = jsontext.parse(line, str(path), CatalogError, number)
        try:
            switch = Switch(int(value["revision"]), str(value["sha256"]), str(value["file"]))
        except (KeyError, TypeError, ValueError):
            switch = Switch(0, "", "")
        expected = switches[-1].revision + 1 if switches else 1
        name_is_plain = Path(switch.file).name == switch.file
        if switch.revision != expected or not re.fullmatch("[0-9a-f]{64}", switch.sha256):
            name_is_plain = False
        if not name_is_plain:
            raise CatalogError(
                f"{path}:{number}: is no switch to revision {expected}; restore or remove the file"
            )
        switches.append(switch)
    if torn:
        with path.open("r+b") as file:
            file.truncate(len(data) - len(torn))
    return switches
