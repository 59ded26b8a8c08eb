"""Segments are hashed in other threads while this one reads on; the order stays.

Hashing holds no interpreter lock. Only a few segments are under way at a time, so that memory stays
bounded.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from flexattn.audit.chain import Seal, break_in, read_seal
from flexattn.audit.reader import Segment


def hashed_aside(parts: Iterator[Segment], workers: int) -> Iterator[Segment]:
    """The same segments, `holds` set on those that have a seal.

    Args:
      parts: from `reader.segments`.
      workers: threads that hash.
    """
    waiting: deque[tuple[Segment, Future[bool] | None]] = deque()
    with ThreadPoolExecutor(workers, "flexattn-hash") as pool:
        for segment in parts:
            job = pool.submit(_holds, segment.data, segment.seal) if segment.seal else None
            waiting.append((segment, job))
            if len(waiting) > 2 * workers:
                yield _answered(*waiting.popleft())
        while waiting:
            yield _answered(*waiting.popleft())


def _answered(segment: Segment, job: Future[bool] | None) -> Segment:
    segment.holds = job.result() if job else None
    return segment


def _holds(data: bytes, seal_line: bytes) -> bool:
    seal = read_seal(seal_line)
    return isinstance(seal, Seal) and break_in(data, seal) is None
