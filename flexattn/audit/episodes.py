"""A run's episodes as values, sound or not; what is out of place is passed over."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson

from flexattn.audit.folder import RunFolder
from flexattn.audit.reader import segments
from flexattn.audit.schema import defect
from flexattn.audit.story import Story, Told


def episodes_of(folder: RunFolder, ep: int | None = None) -> Iterator[tuple[Told, list[Any]]]:
    """Each episode, with the values of its step lines; lines that are no steps are left out.

    Args:
      folder: the run.
      ep: number of the only episode that is wanted; all where None.
    """
    for told in _told(folder):
        if ep is None or told.header["ep"] == ep:
            yield told, [step for line in told.lines if (step := _step(line)) is not None]


def _told(folder: RunFolder) -> Iterator[Told]:
    story = Story(folder.run_fields(), every_episode=False)
    for segment in segments(folder.step_files()):
        yield from story.follow(segment)
    yield from story.close(False)


def _step(line: bytes) -> dict[str, Any] | None:
    """The values of a step line that keeps to its schema, else None."""
    try:
        value = orjson.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) and defect(value) is None else None
