"""A finished log can be kept compressed: steps-00000.jsonl.zst, read as if it were not.

What is hashed are the lines, so that compressing changes no seal. Reading unpacks a piece at a time
with a bounded window; a bomb ends where any log does that has no seal for too long. Needs the extra
`zstd`.
"""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

from flexattn.audit.folder import RunFolder
from flexattn.errors import AuditError, MissingExtraError

SUFFIX = ".zst"
LEVEL = 10
MAX_WINDOW_BYTES = 1 << 27

Stream = io.RawIOBase | io.BufferedIOBase


def _library() -> Any:
    try:
        import zstandard
    except ImportError:
        raise MissingExtraError("a compressed log", "zstd") from None
    return zstandard


def open_step_file(path: Path) -> Stream:
    """A step file's bytes, whether it is compressed or not.

    What can't be unpacked raises OSError when it is read.
    """
    if path.suffix != SUFFIX:
        return open(path, "rb")
    library = _library()
    stream = library.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES).stream_reader(
        open(path, "rb"),  # noqa: SIM115 - the stream closes it
        read_across_frames=True,
        closefd=True,
    )
    return _Unpacked(stream, library.ZstdError)


class _Unpacked(io.RawIOBase):
    """A reader whose errors are OSError, as those of a file are."""

    def __init__(self, stream: Any, error: type[Exception]) -> None:
        self._stream = stream
        self._error = error

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, room: Any) -> int:
        """Fill `room` as far as there is something; 0 at the end."""
        try:
            return int(self._stream.readinto(room))
        except self._error as error:
            raise OSError(str(error)) from None

    def close(self) -> None:
        """Close the file too."""
        self._stream.close()
        super().close()


def compress(folder: RunFolder) -> tuple[int, int]:
    """Compress the step files of a finished run, one after the other; the plain ones go.

    A file is removed only once its compressed form was read back and found equal.

    Returns: bytes before, bytes after.
    """
    before = after = 0
    for path in folder.step_files():
        if path.suffix == SUFFIX:
            continue
        packed = path.with_name(path.name + SUFFIX)
        aside = path.with_name(f".{packed.name}.{os.getpid()}.part")
        writer = _library().ZstdCompressor(level=LEVEL, write_checksum=True)
        with open(path, "rb") as source, open(aside, "wb") as target:
            writer.copy_stream(source, target)
            target.flush()
            os.fsync(target.fileno())
        aside.replace(packed)
        if not _same(path, packed):
            raise AuditError(f"{packed}: does not unpack to {path.name}, which was kept")
        before, after = before + path.stat().st_size, after + packed.stat().st_size
        path.unlink()
    return before, after


def _same(path: Path, packed: Path) -> bool:
    with open(path, "rb") as plain, open_step_file(packed) as unpacked:
        while True:
            one, two = plain.read(1 << 20), unpacked.read(1 << 20)
            while len(two) < len(one) and (more := unpacked.read(len(one) - len(two))):
                two += more
            if one != two:
                return False
            if not one:
                return True
