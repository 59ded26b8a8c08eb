"""A new catalog version takes effect by one reference switch, after everything that can fail.

In this order: read, check the signature, validate, build aside, keep on disk, switch. If one fails,
the version in force stays in force, the reason stands in `status`, and nothing is half applied.
Readers take `store.current` without a lock: one immutable version, catalog and what was built from
it. An environment that takes it at an episode's start sees one version for the whole episode.

All versions go by the file name of the first one, since a log names an entry `medical.json#3112`
and the id keeps its meaning.

On disk, a folder: `<sha256>.json`, the canonical JSON of every version ever in force, and
`versions.jsonl`, a line for each switch, the last one in force. Nothing there is ever rewritten.
"""

from __future__ import annotations

import enum
import hashlib
import os
import re
import stat
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, TypeVar

from flexattn import jsontext
from flexattn.errors import CatalogError, FlexAttnError
from flexattn.lexicon.aside import load_aside
from flexattn.lexicon.entries import Catalog, load_catalog, parse_catalog
from flexattn.lexicon.meaning import Meaning
from flexattn.lexicon.signature import check_signature, signature_path
from flexattn.lexicon.switches import Switch, Switches

Built = TypeVar("Built")

SETTLED_NS = 1_000_000_000
Stamps = tuple[tuple[int, ...] | None, ...]
_ENTRY = re.compile(r"entry (?:at position )?\d+|banned \d+")


class State(enum.Enum):
    """Of a store: nothing in force yet; the last attempt took effect; the last attempt failed."""

    NOT_READY = "NOT_READY"
    OK = "OK"
    ERROR = "ERROR"


@dataclass(frozen=True)
class Status:
    """What a caller can read at any moment.

    Attributes:
      state: see `State`; ERROR leaves the version in force untouched.
      active_revision: number of the switch that put the version in force; None: nothing is.
      active_sha256: its hash.
      last_attempt: when a version was last tried, seconds since 1970.
      last_success: when a version last took effect.
      error: the reason of the last failure, one line; None after a success.
      error_file: the file that was refused.
      error_entry: the entry in it, such as "entry 3112", where one is to blame.
    """

    state: State = State.NOT_READY
    active_revision: int | None = None
    active_sha256: str | None = None
    last_attempt: float | None = None
    last_success: float | None = None
    error: str | None = None
    error_file: str | None = None
    error_entry: str | None = None


@dataclass(frozen=True)
class Version(Generic[Built]):
    """A catalog in force: its revision, itself, and what was built from it."""

    revision: int
    catalog: Catalog
    built: Built


class CatalogStore(Generic[Built]):
    """All versions of one catalog, one of them in force."""

    def __init__(
        self,
        folder: str | Path,
        build: Callable[[Catalog], Built],
        *,
        public_key: bytes | None = None,
        ban_immediately: bool = False,
        keep_built: int = 4,
        aside_above_bytes: int = 2_000_000,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Open a folder; what was in force last is read by `restore`, not here.

        Args:
          folder: where versions are kept; made where it doesn't exist.
          build: makes what readers use from a catalog, such as `World.with_catalog`; may raise a
            FlexAttnError to refuse it.
          public_key: 32 bytes of an Ed25519 key; then every file must be signed.
          ban_immediately: whether `bans` holds what a new version adds, for running episodes.
          keep_built: how many versions stay built, the one in force among them.
          aside_above_bytes: a larger file is read and checked in a process of its own.
          clock: seconds since 1970.
        """
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.ban_immediately = ban_immediately
        self._build = build
        self._public_key = public_key
        self._keep_built = max(1, keep_built)
        self._aside_above_bytes = aside_above_bytes
        self._clock = clock
        self._lock = threading.RLock()
        self._current: Version[Built] | None = None
        self._status = Status()
        self._bans: tuple[str, ...] = ()
        self._ready: OrderedDict[str, tuple[Catalog, Built]] = OrderedDict()
        self._seen: OrderedDict[str, str] = OrderedDict()  # hash of a file's bytes -> of its JSON
        self._read: dict[str, tuple[Stamps, str]] = {}  # path -> when it was read, hash of its JSON
        self._meaning: Meaning | None = None  # of every version that was in force
        self._remembered: set[str] = set()
        self._worker: ThreadPoolExecutor | None = None
        self._switches = Switches(self.folder)
        self._kept_here: set[str] = set()  # versions that this store has found or put on disk

    # ---- reading, without a lock -------------------------------------------------------

    @property
    def current(self) -> Version[Built]:
        """The version in force.

        Raises: CatalogError where there is none yet.
        """
        version = self._current
        if version is None:
            reason = self._status.error or "no catalog was given"
            raise CatalogError(f"{self.folder}: no version is in force: {reason}")
        return version

    @property
    def status(self) -> Status:
        """State, revision, times and the last error, all of one moment."""
        return self._status

    @property
    def bans(self) -> tuple[str, ...]:
        """Strings that running episodes must not write from now on, beside their own catalog's.

        Empty unless `ban_immediately`; grows only, so that a changed length says that it changed.
        """
        return self._bans

    @property
    def switches(self) -> tuple[Switch, ...]:
        """Every switch there ever was in this folder, oldest first."""
        return tuple(self._switches.made)

    # ---- changing ----------------------------------------------------------------------

    def swap(self, path: str | Path, *, follow_links: bool = True) -> Version[Built]:
        """Put the catalog of a file in force, or leave everything as it is.

        Args:
          path: the file; its signature, if any, lies beside it.
          follow_links: whether the path may be a symbolic link.

        Raises: FlexAttnError with file, entry and reason; it stands in `status` too.
        """
        with self._lock:
            return self._attempt(str(path), lambda: self._from_file(path, follow_links))

    def submit(self, path: str | Path) -> Future[Version[Built]]:
        """`swap` in a thread of the store's own; attempts run one after the other."""
        with self._lock:
            if self._worker is None:
                self._worker = ThreadPoolExecutor(1, thread_name_prefix="catalog-store")
            return self._worker.submit(self.swap, path)

    def adopt(self, catalog: Catalog) -> Version[Built]:
        """Put a catalog that is loaded already in force, such as the one a run starts with."""
        with self._lock:
            return self._attempt(catalog.file, lambda: self._made(catalog))

    def rollback(self, revision: int | None = None) -> Version[Built]:
        """Put an earlier version in force again, as a new revision.

        Args:
          revision: of the version wanted; the one before the one in force where None.

        Raises: CatalogError where there is no such revision.
        """
        with self._lock:
            return self._attempt(f"revision {revision}", lambda: self._earlier(revision))

    def restore(self) -> Version[Built] | None:
        """Put in force what was so when the folder was last used; None where it is empty.

        A version whose file is damaged is passed over for the one before it, and `status` says so.
        """
        with self._lock:
            problem: FlexAttnError | None = None
            for switch in reversed(self._switches.made):
                try:
                    catalog, built = self._made(self._kept(switch))
                except FlexAttnError as error:
                    problem = problem or error
                    continue
                self._put_in_force(Version(switch.revision, catalog, built))
                if problem is not None:
                    self._fail(str(self.folder), problem)
                return self._current
            if problem is not None:
                self._fail(str(self.folder), problem)
                raise problem
            return None

    def close(self) -> None:
        """Wait for submitted attempts and end the store's thread."""
        if self._worker is not None:
            self._worker.shutdown(wait=True)
            self._worker = None
        self._switches.close()

    # ---- one attempt -------------------------------------------------------------------

    def _attempt(self, file: str, prepare: Callable[[], tuple[Catalog, Built]]) -> Version[Built]:
        self._status = replace(self._status, last_attempt=self._clock())
        try:
            catalog, built = prepare()
            active = self._current
            if active is None or active.catalog.sha256 != catalog.sha256:
                self._persist(catalog)
                self._put_in_force(Version(self._switches.made[-1].revision, catalog, built))
            else:
                self._put_in_force(active)
        except Exception as error:
            self._fail(file, error)
            raise
        return self.current

    def _put_in_force(self, version: Version[Built]) -> None:
        before = self._current
        self._remember(version.catalog)
        if self.ban_immediately and before is not None:
            known = {*before.catalog.banned, *self._bans}
            self._bans += tuple(text for text in version.catalog.banned if text not in known)
        self._current = version  # the switch
        now = self._clock()
        self._status = Status(
            State.OK, version.revision, version.catalog.sha256, now, now, None, None, None
        )

    def _fail(self, file: str, error: Exception) -> None:
        text = str(error).splitlines()[0] if str(error) else type(error).__name__
        blamed = _ENTRY.search(text)
        self._status = replace(
            self._status,
            state=State.ERROR,
            last_attempt=self._clock(),
            error=text,
            error_file=file,
            error_entry=blamed.group(0) if blamed else None,
        )

    def _from_file(self, path: str | Path, follow_links: bool) -> tuple[Catalog, Built]:
        stamps = _stamps(path)
        read = self._read.get(str(path))
        if read is not None and stamps == read[0] and read[1] in self._ready:
            return self._made(self._ready[read[1]][0])  # nothing was written to it since
        data = jsontext.read_bytes(path, CatalogError, follow_links=follow_links)
        check_signature(path, data, self._public_key)
        key = hashlib.sha256(data).hexdigest()
        known = self._seen.get(key)
        if known is not None and known in self._ready:
            self._remember_read(path, stamps, known)
            return self._made(self._ready[known][0])
        if len(data) > self._aside_above_bytes:
            catalog = self._load_aside(path, data)
        else:
            catalog = parse_catalog(jsontext.parse(data, str(path), CatalogError), str(path))
        made = self._made(catalog)
        self._remember_read(path, stamps, catalog.sha256)
        self._seen[key] = catalog.sha256
        while len(self._seen) > 16 * self._keep_built:
            self._seen.popitem(last=False)
        return made

    def _remember_read(self, path: str | Path, stamps: Stamps | None, sha256: str) -> None:
        if stamps is not None:
            self._read.pop(str(path), None)
            self._read[str(path)] = (stamps, sha256)
            if len(self._read) > 4 * self._keep_built:
                self._read.pop(next(iter(self._read)))

    def _load_aside(self, path: str | Path, data: bytes) -> Catalog:
        """The very bytes that were read and verified go to the other process, not the file."""
        with tempfile.TemporaryDirectory(prefix=".checked-", dir=self.folder) as place:
            checked = Path(place) / Path(path).name
            checked.write_bytes(data)
            try:
                return load_aside(checked, self.folder)
            except CatalogError as error:
                raise CatalogError(str(error).replace(str(checked), str(path))) from None

    def _made(self, catalog: Catalog) -> tuple[Catalog, Built]:
        ready = self._ready.get(catalog.sha256)
        if ready is not None:
            self._ready.move_to_end(catalog.sha256)
            return ready
        self._check_meaning(catalog)
        if self._switches.made and catalog.file != self._switches.made[0].file:
            catalog = replace(catalog, file=self._switches.made[0].file)
        made = (catalog, self._build(catalog))
        self._ready[catalog.sha256] = made
        while len(self._ready) > self._keep_built:
            oldest = next(iter(self._ready))
            self._ready.pop(oldest)
        return made

    def _check_meaning(self, catalog: Catalog) -> None:
        """An id names one term in all versions; what a log says must not change its sense."""
        if catalog.sha256 in self._remembered or self._meaning is None:
            return
        parted = self._meaning.parts_from(Meaning.of(catalog))
        if parted is not None:
            number, was, term = parted
            raise CatalogError(
                f"{catalog.file}: entry {number}, term '{term}' was '{was}' in an earlier version; "
                f"ids keep their meaning, build with --previous"
            )

    def _remember(self, catalog: Catalog) -> None:
        if catalog.sha256 not in self._remembered:
            self._remembered.add(catalog.sha256)
            new = Meaning.of(catalog)
            self._meaning = self._meaning.joined(new) if self._meaning else new

    def _persist(self, catalog: Catalog) -> None:
        if catalog.sha256 not in self._kept_here:
            kept = self.folder / f"{catalog.sha256}.json"
            if not kept.exists():
                jsontext.write_whole(kept, catalog.canonical_bytes())
            self._kept_here.add(catalog.sha256)
        self._switches.append(catalog.sha256, catalog.file)

    def _earlier(self, revision: int | None) -> tuple[Catalog, Built]:
        active = self._current
        if revision is None:
            before = [s for s in self._switches.made if active and s.revision < active.revision]
            switch = before[-1] if before else None
        else:
            switch = next((s for s in self._switches.made if s.revision == revision), None)
        if switch is None:
            known = f"1..{self._switches.made[-1].revision}" if self._switches.made else "none yet"
            wanted = "an earlier revision" if revision is None else f"revision {revision}"
            raise CatalogError(f"{self.folder}: there is no {wanted}, expected one of {known}")
        ready = self._ready.get(switch.sha256)
        return self._made(ready[0] if ready else self._kept(switch))

    def _kept(self, switch: Switch) -> Catalog:
        path = self.folder / f"{switch.sha256}.json"
        catalog = replace(load_catalog(path), file=switch.file)
        if catalog.sha256 != switch.sha256:
            raise CatalogError(
                f"{path}: holds catalog {catalog.sha256[:8]}, expected {switch.sha256[:8]}; it was "
                f"changed after it was kept"
            )
        return catalog


def _stamps(path: str | Path) -> Stamps | None:
    """Of a file and of its signature: written to, it gets another.

    None for a link, and for a file written within the last second: the clock of a file system may
    be too coarse to tell two writings apart.
    """
    found: list[tuple[int, ...] | None] = []
    for file in (Path(path), signature_path(path)):
        try:
            status = os.lstat(file)
        except OSError:
            found.append(None)
            continue
        if not stat.S_ISREG(status.st_mode) or time.time_ns() - status.st_ctime_ns < SETTLED_NS:
            return None
        found.append(
            (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        )
    return tuple(found)
