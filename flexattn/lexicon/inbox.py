"""New versions come in through a folder; a file is tried once, and again only after it changes.

`deliver` puts a validated file into the inbox of a run, whole. `Inbox.poll` hands what is new to a
store, whenever the caller likes; `Inbox.watch` does so by itself where the extra `watch` is
installed. The inbox never leaves its folder: no links, no sub-folders, plain *.json files only.
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flexattn import jsontext
from flexattn.errors import CatalogError, FlexAttnError, MissingExtraError
from flexattn.lexicon.entries import Catalog, load_catalog
from flexattn.lexicon.signature import check_signature, signature_path
from flexattn.lexicon.store import CatalogStore

INBOX = "inbox"
Stamp = tuple[int, int, int]  # device's file number, size, time of change


def inbox_of(run: str | Path) -> Path:
    """The inbox of a run folder, logs/RUN/catalogs/inbox."""
    return Path(run) / "catalogs" / INBOX


def deliver(path: str | Path, run: str | Path, public_key: bytes | None = None) -> Catalog:
    """Check a catalog file and put it into a run's inbox, with its signature.

    Raises: CatalogError where the file is no catalog, or the folder no run's.
    """
    folder = Path(run)
    if not (folder / "manifest.json").is_file() or not (folder / "catalogs").is_dir():
        raise CatalogError(f"{run}: is no run folder, expected manifest.json and catalogs/ in it")
    data = jsontext.read_bytes(path, CatalogError)
    check_signature(path, data, public_key)
    catalog = load_catalog(path)
    inbox = inbox_of(folder)
    inbox.mkdir(exist_ok=True)
    name = Path(path).name
    if not _is_plain(name):
        raise CatalogError(f"{path}: expected a plain file name that ends in .json")
    beside = signature_path(path)
    if beside.is_file():
        jsontext.write_whole(
            signature_path(inbox / name), jsontext.read_bytes(beside, CatalogError)
        )
    jsontext.write_whole(inbox / name, data)
    return catalog


class Inbox:
    """A folder whose new catalogs go to a store."""

    def __init__(
        self,
        folder: str | Path,
        store: CatalogStore[Any],
        refused: Callable[[str], object] | None = None,
    ) -> None:
        """Watch nothing yet.

        Args:
          folder: the inbox; made where it doesn't exist.
          store: takes what comes in.
          refused: is told the reason, one line, of each refusal; from the thread that tried.
        """
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._store = store
        self._tell = refused
        self._refused: dict[str, tuple[Stamp, Stamp | None]] = {}
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._busy = threading.Lock()

    def poll(self) -> int:
        """Try every file that is new or changed, the oldest first.

        A file that took effect is taken out of the inbox (its version is kept by the store); a
        refused one stays, is reported in `store.status`, and isn't tried again until it changes.

        Returns: how many versions took effect.
        """
        with self._busy:
            done = 0
            for name, stamp in self._waiting():
                path = self.folder / name
                signed = self._stamp(signature_path(name).name)
                if self._refused.get(name) == (stamp, signed):
                    continue
                try:
                    self._store.swap(path, follow_links=False)
                except (FlexAttnError, OSError) as error:
                    self._refused[name] = (stamp, signed)
                    if self._tell is not None:
                        self._tell(str(error).partition("\n")[0])
                    continue
                done += 1
                self._refused.pop(name, None)
                if self._stamp(name) == stamp:  # else a newer one has come in meanwhile
                    path.unlink(missing_ok=True)
                    signature_path(path).unlink(missing_ok=True)
            return done

    def watch(self) -> None:
        """Poll in a thread whenever something changes in the folder, until `close`.

        Raises: MissingExtraError where `watchfiles` isn't installed.
        """
        try:
            import watchfiles
        except ImportError:
            raise MissingExtraError("watching a folder", "watch") from None
        if self._thread is not None:
            return

        def run() -> None:
            # a pass a second without news: what came before the watching began is found too
            for _ in watchfiles.watch(
                self.folder,
                stop_event=self._stop,
                recursive=False,
                debounce=200,
                step=50,
                rust_timeout=1000,
                yield_on_timeout=True,
            ):
                self.poll()

        self._thread = threading.Thread(target=run, name="catalog-inbox", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the watching thread."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self._stop.clear()

    def _waiting(self) -> list[tuple[str, Stamp]]:
        try:
            names = [entry.name for entry in os.scandir(self.folder)]
        except OSError:
            return []
        found = [(name, self._stamp(name)) for name in names if _is_plain(name)]
        waiting = [(name, stamp) for name, stamp in found if stamp is not None]
        return sorted(waiting, key=lambda item: (item[1][2], item[0]))

    def _stamp(self, name: str) -> Stamp | None:
        """None for what isn't a plain file of this very folder."""
        try:
            status = os.lstat(self.folder / name)
        except OSError:
            return None
        if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
            return None  # a link could lead out of the folder
        return status.st_ino, status.st_size, status.st_mtime_ns


def _is_plain(name: str) -> bool:
    return name.endswith(".json") and not name.startswith(".") and Path(name).name == name
