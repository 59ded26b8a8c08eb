"""JSON from outside is read strictly: at most 1 GB, 100 levels, UTF-8, no key twice in an object.

What doesn't fit becomes one line with file, line and column. The parser itself stops at 1,024
levels, so that no text can exhaust the stack. A file is written whole or not at all.
"""

from __future__ import annotations

import difflib
import errno
import json
import os
import re
import tempfile
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from flexattn.errors import FlexAttnError

MAX_BYTES = 1_000_000_000
MAX_DEPTH = 100
_CHUNK = 1 << 22

# a whole string literal, or one that the end of the text cuts off; linear, no backtracking
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)', re.DOTALL)
_NESTED = frozenset((dict, list))
_NOT_STRUCTURE = bytes(byte for byte in range(256) if byte not in b"[]{}:")


def read_bytes(path: str | Path, error: type[FlexAttnError], *, follow_links: bool = True) -> bytes:
    """The bytes of a file of at most `MAX_BYTES`.

    Args:
      path: the file.
      error: class to raise.
      follow_links: whether the path may be a symbolic link.

    Raises: `error` where the file is missing, a folder, unreadable or too large.
    """
    file = Path(path)
    try:
        if file.is_dir():
            raise error(f"{path}: is a folder, expected a file")
        size = file.stat().st_size
        if size > MAX_BYTES:
            raise error(f"{path}: has {size:,} bytes, expected at most {MAX_BYTES:,}; split it")
        flags = os.O_RDONLY | (0 if follow_links else getattr(os, "O_NOFOLLOW", 0))
        with open(os.open(file, flags), "rb") as opened:
            return opened.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise error(f"{path}: no such file; check the path") from None
    except (OSError, ValueError) as problem:
        if isinstance(problem, FlexAttnError):
            raise
        reason = getattr(problem, "strerror", None) or problem
        raise error(f"{path}: can't be read: {reason}") from None


def parse(data: bytes, where: str, error: type[FlexAttnError], first_line: int = 1) -> Any:
    """The value of one JSON text.

    Args:
      data: the text, UTF-8.
      where: stands in front of every message, such as a file name.
      error: class to raise.
      first_line: number of the text's first line in its file.

    Raises: `error` where the text is no UTF-8, no JSON, too deep, or repeats a key in one object.
    """
    data = data.removeprefix(b"\xef\xbb\xbf")
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError as problem:
        depth = _depth(_structure(data))
        if depth > MAX_DEPTH:
            raise _too_deep(where, depth, error) from None
        line = first_line + problem.lineno - 1
        what = problem.msg.partition(": line ")[0]
        raise error(f"{where}:{line}: column {problem.colno} is no valid JSON: {what}") from None
    pairs, depth = _pairs_and_depth(value)
    if depth > MAX_DEPTH:
        raise _too_deep(where, depth, error)
    # as many colons as pairs: no text holds one and no key is lost; else count outside the texts
    if data.count(b":") != pairs and _structure(data).count(b":") != pairs:
        raise error(f"{where}:{first_line}: {_repeated_key(data)}; keep one of them")
    return value


def write_whole(path: str | Path, data: bytes) -> None:
    """Write a file by way of a temporary one beside it, so that nobody ever sees half of it.

    Raises: OSError where the folder can't be written.
    """
    if Path(path).is_dir():
        raise IsADirectoryError(errno.EISDIR, "is a folder, expected a file", str(path))
    try:
        _write_whole(Path(path), data)
    except OSError as problem:
        # the temporary file's name would say nothing to who asked for `path`
        raise OSError(problem.errno, problem.strerror, str(path)) from None


def _write_whole(target: Path, data: bytes) -> None:
    descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(target.stat().st_mode & 0o777 if target.exists() else 0o644)
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def unknown_key(key: str, known: Iterable[str]) -> str:
    """The sentence about a key that nobody knows, with the nearest known one."""
    near = difflib.get_close_matches(key, list(known), n=1, cutoff=0.6)
    advice = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(known)}"
    return f"{clip(key)} is not a known key; {advice}"


def clip(value: object, limit: int = 40) -> str:
    """`value` as one short line for a message."""
    text = value if isinstance(value, str) else repr(value)
    text = text if text.isprintable() else ascii(text)[1:-1]
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _too_deep(where: str, depth: int, error: type[FlexAttnError]) -> FlexAttnError:
    return error(f"{where}: is nested {depth} levels deep, expected at most {MAX_DEPTH}")


def _structure(data: bytes) -> bytes:
    """The brackets and colons of a text that stand outside its strings."""
    return _STRING.sub(b"", data).translate(None, _NOT_STRUCTURE)


def _depth(structure: bytes) -> int:
    """The deepest nesting, in chunks so that a file of brackets alone costs little memory."""
    level = deepest = 0
    for start in range(0, len(structure), _CHUNK):
        part = np.frombuffer(structure[start : start + _CHUNK].replace(b":", b""), dtype=np.uint8)
        if part.size:
            opening = (part == ord("[")) | (part == ord("{"))
            levels = level + np.cumsum(np.where(opening, 1, -1))
            level, deepest = int(levels[-1]), max(deepest, int(levels.max()))
    return deepest


def _pairs_and_depth(value: object) -> tuple[int, int]:
    """Key-value pairs of a value at any depth, and its deepest nesting."""
    pairs = depth = 0
    level: list[Any] = [value] if isinstance(value, dict | list) else []
    while level:
        depth += 1
        dicts = [item for item in level if type(item) is dict]
        lists = [item for item in level if type(item) is list]
        pairs += sum(map(len, dicts))
        inside = [*map(dict.values, dicts), *lists]
        level = []
        if not _NESTED.isdisjoint(map(type, chain.from_iterable(inside))):
            level = [x for x in chain.from_iterable(inside) if type(x) in _NESTED]
    return pairs, depth


def _repeated_key(data: bytes) -> str:
    found: list[str] = []

    def look(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        seen = dict(pairs)
        if len(seen) < len(pairs) and not found:
            keys = [key for key, _ in pairs]
            found.append(next(key for key in keys if keys.count(key) > 1))
        return seen

    json.loads(data, object_pairs_hook=look)
    return f"key {clip(found[0])} stands twice in one object" if found else "repeats a key"
