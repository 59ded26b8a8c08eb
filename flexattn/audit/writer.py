"""Every step of a run becomes a line, in the order of finished episodes, and gets sealed.

The caller hands over steps and goes on; a thread turns them into bytes, hashes, writes and seals.
Its queue is bounded, its errors are raised at the next call, and `close` waits for the thread.
"""

from __future__ import annotations

import atexit
import contextlib
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import orjson

from flexattn.audit.chain import Chain, sha256_hex
from flexattn.audit.files import StepFiles, step_file_name
from flexattn.audit.folder import HEAD, RunFolder, write_file
from flexattn.audit.lines import ColumnSteps, StepLines, Steps, event_line
from flexattn.audit.merkle import Frontier
from flexattn.audit.recover import START, recover
from flexattn.audit.schema import StepColumns
from flexattn.config import LogSection
from flexattn.errors import AuditError

FLUSH_BYTES = 1 << 18
FLUSH_S = 1.0
HEAD_EVERY_S = 1.0


@dataclass(frozen=True)
class Resumed:
    """What a resume found.

    `kept_lines` stand in the log and will be compared with what the resumed run writes
    (`exact`) or are superseded by it; `cut_bytes` of a torn line were removed.
    """

    kept_lines: int
    cut_bytes: int
    exact: bool

    def __str__(self) -> str:
        torn = f"a torn line of {self.cut_bytes} bytes was cut from the log; "
        cut = torn if self.cut_bytes else ""
        fate = "will be compared with the run's" if self.exact else "are superseded"
        return f"{cut}{self.kept_lines} lines after the checkpoint {fate}"


def sampled(ep: int, share: float) -> bool:
    """Whether episode `ep` is logged where a share of all episodes is: a stable hash decides."""
    return share >= 1.0 or int(sha256_hex(b"%d" % ep)[:13], 16) < share * 16**13


class RunLog:
    """The log of one run, open for writing.

    Fresh folder: the first call writes the `run` event. Existing log: `resume` comes first.
    Use as a context manager, or call `close`; a log that ended with the event `end` is sealed.
    """

    def __init__(self, folder: RunFolder, log: LogSection) -> None:
        """Open the log of `folder` with the settings of the config's section `log`."""
        self.folder = folder
        self.settings = log
        self.next_episode = 0
        self.steps = 0
        self._lines = StepLines()
        self._chain = Chain(form=folder.form)
        self._tree = Frontier()
        self._files = StepFiles(folder.path)
        self._buffer: list[bytes] = []
        self._buffered = 0
        self._flushed_at = time.monotonic()
        self._head_at = 0.0
        self._last_seal: dict[str, Any] | None = None
        self._sync_seal: dict[str, Any] | None = None
        self._syncer = ThreadPoolExecutor(1, "flexattn-sync")
        self._syncing: Future[None] | None = None
        self._queue: deque[tuple[int, Callable[[], None]]] = deque()
        self._waiting = 0
        self._idle = True
        self._state = threading.Condition()
        self._error: BaseException | None = None
        self._told = False
        self._closing = False
        self._thread: threading.Thread | None = None
        self._ended = False

    # ---- the caller's side

    def event(self, kind: str, **fields: Any) -> None:
        """Log an event; the fields are those of `schema.EVENTS[kind]`.

        `end` needs none: steps, episodes and the hash of evaluations.jsonl are filled in, and a
        seal closes the log behind it.
        """
        if kind == "end":
            fields = {
                "steps": self.steps,
                "episodes": self.next_episode,
                "evaluations": self.folder.evaluations_sha256(),
                **fields,
            }
        line = event_line(kind, fields)
        self._put(1, lambda: self._take(line, 1))
        if kind == "end":
            self.seal()
            self._ended = True

    def episode(self, header: Mapping[str, Any], steps: Steps | StepColumns) -> int:
        """Log an episode: its header and all its steps, which then stand together.

        Args:
          header: fields of the event `episode`; `ep` is the next number where it is missing.
          steps: what gives its own lines; or columns, key of the step line -> a value for each
            step, in which `ep` is the header's.

        Returns: the number of the episode.
        """
        taken = ColumnSteps(self._lines, steps) if isinstance(steps, Mapping) else steps
        count = len(taken)
        ep = int(header.get("ep", self.next_episode))
        self.next_episode = max(self.next_episode, ep + 1)
        self.steps += count
        if not sampled(ep, self.settings.sample):
            return ep
        first = event_line("episode", {**header, "ep": ep})
        self._put(count + 1, lambda: self._take(first + taken.lines(ep), count + 1))
        return ep

    def seal(self) -> None:
        """Close the open segment now; nothing happens where it is empty."""
        self._put(0, self._seal)

    def position(self) -> dict[str, Any]:
        """Where the log stands, for a checkpoint; all before it is on the disk then."""
        self._put(0, self._settle)
        self._wait()
        return {
            "file": self._files.index,
            "offset": self._files.offset,
            "file_line": self._files.line,
            "line": self._chain.next_line,
            "seals": self._chain.seals,
            "head": self._chain.prev,
            "open_lines": self._chain.open_lines,
            "episodes": self.next_episode,
            "steps": self.steps,
        }

    def resume(self, position: Mapping[str, Any] | None, exact: bool = True) -> Resumed:
        """Go on after `position`, or from the start where it is None.

        Args:
          position: what `position()` gave when the checkpoint was made.
          exact: the run will write the same lines again, and they are compared with what the log
            holds; else a line `resume` says that they are superseded.

        Raises: AuditError where the log is not sound up to the last seal, is shorter than the
          position, or belongs to another one.
        """
        if self._thread is not None:
            raise AuditError("log: resume comes before the first line")
        place = START if position is None else position
        found = recover(self.folder, place)
        end = found.end
        start = found.at if exact else end
        self._tree = Frontier(found.hashes[: start.seals])
        self._files = StepFiles(self.folder.path, start.file, start.offset, start.file_line)
        self._chain = Chain(start.seals, start.first, start.prev, self.folder.form)
        self._chain.add(b"".join(start.open), len(start.open))
        if not exact and end.seals and not end.open and self._full():
            self._files.next_file()
        self.next_episode, self.steps = place["episodes"], place["steps"]
        self._launch()
        if not exact and end.next_line > 1:
            self.event("resume", line=place["line"], ep=self.next_episode)
        return Resumed(end.next_line - place["line"], found.cut_bytes, exact)

    def close(self) -> None:
        """Write what is waiting, join the thread, close the files; raises what went wrong there.

        Without an `end` event the open segment stays unsealed, so that a resume can go on in it.
        """
        if self._thread is not None:
            with self._state:
                self._closing = True
                self._state.notify_all()
            self._thread.join()
            self._thread = None
            try:
                if self._error is None:
                    self._settle()
            finally:
                self._syncer.shutdown()
                atexit.unregister(self._close_at_exit)
                self._files.close()
        self._raise()

    def _close_at_exit(self) -> None:
        """What nobody closed is written; an error that nobody saw becomes one line."""
        told = self._error is not None and self._told
        try:
            self.close()
        except AuditError as error:
            if not told:
                print(f"error: {error}", file=sys.stderr)

    def __enter__(self) -> RunLog:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.close()
        else:
            with contextlib.suppress(AuditError):
                self.close()

    @property
    def head(self) -> str:
        """Hash of the last seal, 64 hex digits; it is final once the log is closed."""
        return self._chain.prev

    # ---- between the two sides

    def _start(self) -> None:
        """Begin a fresh log, unless one was begun or resumed."""
        if self._thread is None:
            if self._closing:
                raise AuditError("log: it is closed, nothing can be logged any more")
            if self.folder.step_files():
                raise AuditError(
                    f"{self.folder.path}: holds a log already; resume it, or choose another "
                    "run.name"
                )
            self._launch()

    def _launch(self) -> None:
        self._thread = threading.Thread(target=self._work, name="flexattn-log", daemon=True)
        self._thread.start()
        atexit.register(self._close_at_exit)
        if self._chain.next_line == 1:
            line = event_line("run", self.folder.run_fields())
            self._put(1, lambda: self._take(line, 1))

    def _put(self, records: int, job: Callable[[], None]) -> None:
        self._start()
        self._raise()
        if self._ended:
            raise AuditError("log: the event end was logged, nothing can follow it")
        limit = self.settings.queue_records
        with self._state:
            while self._waiting and self._waiting + records > limit and self._error is None:
                self._state.wait()
            self._queue.append((records, job))
            self._waiting += records
            self._idle = False
            self._state.notify_all()

    def _wait(self) -> None:
        with self._state:
            while not self._idle and self._error is None:
                self._state.wait()
        self._raise()

    def _raise(self) -> None:
        if self._error is not None:
            self._told = True
            raise self._error

    # ---- the thread's side

    def _work(self) -> None:
        try:
            while True:
                with self._state:
                    while not self._queue and not self._closing:
                        self._idle = True
                        self._state.notify_all()
                        if not self._state.wait(FLUSH_S) and self._buffer:
                            break
                    if not self._queue and self._closing:
                        return
                    jobs, self._queue = self._queue, deque()
                for records, job in jobs:
                    job()
                    with self._state:
                        self._waiting -= records
                        self._state.notify_all()
                if self._buffered >= FLUSH_BYTES or time.monotonic() - self._flushed_at > FLUSH_S:
                    self._flush()
        except BaseException as error:  # the caller raises it, whatever it is
            with self._state:
                self._error = error
                self._idle = True
                self._state.notify_all()

    def _take(self, data: bytes, count: int) -> None:
        self._chain.add(data, count)
        self._buffer.append(data)
        self._buffered += len(data)
        if self._chain.open_lines >= self.settings.seal_lines:
            self._seal()

    def _seal(self) -> None:
        if not self._chain.open_lines:
            return
        line = self._chain.seal()
        self._tree.add(bytes.fromhex(self._chain.prev))
        self._buffer.append(line)
        self._flush()
        self._last_seal = {
            "schema": self.folder.form,
            "file": step_file_name(self._files.index),
            "line": self._files.line,
            "lines": self._chain.next_line - 1,
            "seals": self._chain.seals,
            "head": self._chain.prev,
            "root": self._tree.root().hex(),
        }
        self._sync_aside()
        if self._full():
            self._settle()
            self._files.next_file()

    def _full(self) -> bool:
        return self._files.offset >= self.settings.segment_mb * 1e6

    def _flush(self) -> None:
        if self._buffer:
            self._files.write(b"".join(self._buffer))
            self._buffer.clear()
            self._buffered = 0
        self._flushed_at = time.monotonic()

    def _sync_aside(self) -> None:
        """Begin to bring the seal to the disk, unless the seal before still is on its way.

        One sync at a time, aside: a disk that is slow then syncs several seals at once.
        """
        if self._syncing is not None:
            if not self._syncing.done():
                return
            self._syncing.result()
            if time.monotonic() - self._head_at > HEAD_EVERY_S:
                self._write_head()
        self._sync_seal = self._last_seal
        try:
            self._syncing = self._syncer.submit(self._files.sync)
        except RuntimeError:  # the interpreter is going down and takes no work any more
            self._files.sync()

    def _settle(self) -> None:
        """Bring all that was taken to the disk."""
        self._flush()
        if self._syncing is not None:
            self._syncing.result()
        self._files.sync()
        self._sync_seal = self._last_seal
        self._write_head()

    def _write_head(self) -> None:
        """head.json names a seal only once that is on the disk."""
        if self._sync_seal is not None and not self._files.comparing:
            text = orjson.dumps(self._sync_seal, option=orjson.OPT_INDENT_2)
            write_file(self.folder.path / HEAD, text + b"\n")
            self._head_at = time.monotonic()
