"""Questions with a name: one, or a file of them, one JSON object a line.

What is drawn for a request depends on its name, its text and the seed alone, never on what else is
asked beside it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from flexattn.errors import FlexAttnError
from flexattn.jsontext import clip, parse, unknown_key

MAX_LINE_BYTES = 1 << 16
KEYS = ("id", "question")


@dataclass(frozen=True)
class Request:
    """One question as it was asked.

    Attributes:
      id: the asker's name for it; unique within a file.
      question: the text.
    """

    id: str
    question: str

    def uniforms(self, seed: int, draw: int, steps: int) -> npt.NDArray[np.float64]:
        """The random numbers of one answer, [steps] within [0, 1).

        Args:
          seed: of the whole generation.
          draw: which of several answers to this request.
          steps: how many.
        """
        name = hashlib.sha256(f"{self.id}\0{self.question}".encode()).digest()
        return np.random.default_rng([seed, draw, *np.frombuffer(name, "<u4")]).random(steps)


def read_requests(path: str) -> Iterator[Request]:
    """The requests of a JSONL file, `{"id"?, "question"}` a line; without id the line's number.

    Raises: FlexAttnError naming file and line.
    """
    seen: set[str] = set()
    file = Path(path)
    if not file.is_file():
        found = "is a folder" if file.is_dir() else "no such file"
        raise FlexAttnError(f"{path}: {found}, expected one JSON object a line")
    with file.open("rb") as stream:
        for number, line in enumerate(iter(lambda: stream.readline(MAX_LINE_BYTES + 1), b""), 1):
            where = f"{path}:{number}"
            if len(line) > MAX_LINE_BYTES:
                raise FlexAttnError(f"{where}: is longer than {MAX_LINE_BYTES} bytes; shorten it")
            if not line.strip():
                continue
            request = _request(
                parse(line.rstrip(b"\r\n"), path, FlexAttnError, number), where, number
            )
            if request.id in seen:
                raise FlexAttnError(f"{where}: id {request.id!r} stands twice; give it once")
            seen.add(request.id)
            yield request
    if not seen:
        raise FlexAttnError(f'{path}: holds no question, expected lines such as {{"question": ..}}')


def in_batches(requests: Iterator[Request], size: int) -> Iterator[Sequence[Request]]:
    """Requests by the `size`, in their order."""
    while batch := list(islice(requests, size)):
        yield batch


def _request(line: object, where: str, number: int) -> Request:
    if not isinstance(line, dict):
        raise FlexAttnError(f"{where}: is {clip(line)}, expected an object with a question")
    for key in line:
        if key not in KEYS:
            raise FlexAttnError(f"{where}: {unknown_key(key, KEYS)}")
    question, name = line.get("question"), line.get("id", number)
    if not isinstance(question, str) or not question.strip():
        raise FlexAttnError(
            f"{where}: question is {clip(question)}, expected a text that is not empty"
        )
    if not isinstance(name, str | int) or isinstance(name, bool):
        raise FlexAttnError(f"{where}: id is {clip(name)}, expected a text or a whole number")
    return Request(str(name), question)
