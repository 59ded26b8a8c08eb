"""Segments are judged in other threads while this one reads on; the order stays.

Hashing holds no interpreter lock. Only a few segments are under way at a time, so that memory stays
bounded.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from flexattn.audit.reader import Judged, Segment, judge


def judged_aside(parts: Iterator[Segment], threads: int) -> Iterator[Segment]:
    """The same segments, `judged` set on those that have a seal.

    Args:
      parts: from `reader.segments`.
      threads: how many there are besides this one.
    """
    waiting: deque[tuple[Segment, Future[Judged] | None]] = deque()
    with ThreadPoolExecutor(threads, "flexattn-hash") as pool:
        for segment in parts:
            waiting.append(
                (
                    segment,
                    pool.submit(judge, segment) if segment.seal and not segment.stopped else None,
                )
            )
            if len(waiting) > 2 * threads:
                yield _answered(*waiting.popleft())
        while waiting:
            yield _answered(*waiting.popleft())


def _answered(segment: Segment, job: Future[Judged] | None) -> Segment:
    segment.judged = job.result() if job else None
    return segment
