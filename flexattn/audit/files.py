"""Step files grow at their end only; after a resume, what they hold is compared, not written.

`StepFiles.write` takes whole lines. Where the file holds bytes at this place they must be equal;
past its end they are appended. A file ends with a seal, and the next one begins.
"""

from __future__ import annotations

import os
from pathlib import Path

from flexattn.errors import AuditError


def step_file_name(index: int) -> str:
    """steps-00000.jsonl and on."""
    return f"steps-{index:05d}.jsonl"


class StepFiles:
    """The step files of one run folder, open at one place.

    Attributes:
      index: number of the file, from 0.
      offset: bytes from its start.
      line: lines before that place in this file.
    """

    def __init__(self, folder: Path, index: int = 0, offset: int = 0, line: int = 0) -> None:
        self.folder = folder
        self.index = index
        self.offset = offset
        self.line = line
        self._fd = -1
        self._there = 0  # bytes the open file has had since before it was opened

    @property
    def path(self) -> Path:
        """The file that is being written."""
        return self.folder / step_file_name(self.index)

    @property
    def comparing(self) -> bool:
        """Whether the open file holds more than was written or compared so far."""
        return self._fd >= 0 and self._there > self.offset

    def write(self, data: bytes) -> None:
        """Compare or append whole lines.

        Raises: AuditError naming the line where `data` differs from what the file holds, or where
          the file can't be written.
        """
        try:
            self._open()
            overlap = min(len(data), self._there - self.offset)
            if overlap > 0:
                self._compare(data[:overlap])
            rest = memoryview(data)[max(0, overlap) :]
            while rest:
                rest = rest[os.write(self._fd, rest) :]
        except OSError as error:
            raise AuditError(
                f"{self.path}: cannot be written: {error.strerror}; what stands in it up to line "
                f"{self.line} can be replayed"
            ) from None
        self.offset += len(data)
        self.line += data.count(b"\n")

    def sync(self) -> None:
        """Bring what was written to the disk itself."""
        if self._fd >= 0:
            try:
                os.fsync(self._fd)
            except OSError as error:
                raise AuditError(f"{self.path}: cannot be synced: {error.strerror}") from None

    def next_file(self) -> None:
        """Close this file and go on in the next one."""
        self.close()
        self.index, self.offset, self.line = self.index + 1, 0, 0

    def close(self) -> None:
        """Close the open file, if one is."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _open(self) -> None:
        if self._fd < 0:
            self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            self._there = os.fstat(self._fd).st_size

    def _compare(self, data: bytes) -> None:
        held = os.pread(self._fd, len(data), self.offset)
        if held == data:
            return
        same = next((i for i, (a, b) in enumerate(zip(held, data)) if a != b), len(held))
        line = self.line + data.count(b"\n", 0, same) + 1
        start = data.rfind(b"\n", 0, same) + 1
        now = data[start : data.find(b"\n", start) + 1 or None]
        was = held[start : held.find(b"\n", start) + 1 or None]
        raise AuditError(
            f"{self.path}:{line}: the resumed run writes another line than the log holds: "
            f"{_excerpt(was)} was, {_excerpt(now)} is now; the log was left as it is"
        )


def _excerpt(line: bytes) -> str:
    text = line.decode("utf-8", "replace").rstrip("\n")
    return text if len(text) <= 200 else text[:199] + "…"
