"""A training takes new catalog versions from its inbox, and at the same places when it is resumed.

A version comes into force between two rollouts, so that every answer is written under one version;
with `ban_immediately` its bans hold from the next step on in answers begun before it, too. The log
says where that was: episodes ended by then, and batched steps of the rollout. A resumed run takes
each version where the log has it, and looks into the inbox again only past the log's last episode.
A refused file is a line of warning, and training goes on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from flexattn.audit.folder import CATALOGS, RunFolder
from flexattn.audit.writer import RunLog
from flexattn.config import LexiconSection
from flexattn.domain import Domain
from flexattn.env.world import World
from flexattn.errors import EnvironmentSpecError
from flexattn.lexicon.entries import Catalog
from flexattn.lexicon.inbox import Inbox, inbox_of
from flexattn.lexicon.store import CatalogStore
from flexattn.lexicon.switches import VERSIONS

_CATALOG, _EPISODE = b'{"event":"catalog"', b'{"event":"episode"'


@dataclass(frozen=True)
class Newer:
    """A version that came into force.

    Attributes:
      world: the run's tables under it.
      before: those that were in force till then.
    """

    world: World
    before: World

    @property
    def added_bans(self) -> tuple[str, ...]:
        """What it bans and the version before did not."""
        known = set(self.before.banned)
        return tuple(text for text in self.world.banned if text not in known)

    def __str__(self) -> str:
        catalog = self.world.catalog
        assert catalog is not None
        return (
            f"catalog version {catalog.version} ({catalog.short}) is in force: "
            f"{len(catalog.entries):,} terms, {len(catalog.banned)} banned"
        )


@dataclass(frozen=True)
class _Place:
    """Where the log has a version: episodes ended before it, batched steps of the rollout."""

    sha256: str
    ep: int
    moment: int


class LiveCatalogs:
    """The catalog versions of one run, the one in force among them."""

    def __init__(
        self,
        domain: Domain,
        folder: RunFolder,
        log: RunLog,
        section: LexiconSection,
        say: Callable[[str], None],
    ) -> None:
        """Begin with the domain's catalog; nothing is read or written yet.

        Args:
          domain: what the run is about.
          folder: its run folder.
          log: its log, which says where each version came into force.
          section: the config's section `lexicon`.
          say: prints a line.
        """
        self.world = domain.world
        self.ban_immediately = section.ban_immediately
        self._domain, self._folder, self._log, self._say = domain, folder, log, say
        self._watch = section.watch
        self._store: CatalogStore[World] | None = None
        self._inbox: Inbox | None = None
        self._expected: deque[_Place] = deque()
        self._last_episode = -1
        self._refused: deque[str] = deque()

    def open(self) -> None:
        """Begin to watch the inbox, where `lexicon.watch` asks for it.

        Raises: MissingExtraError where `watchfiles` isn't installed.
        """
        if self._watch:
            self._opened()[1].watch()

    def resume(self, sha256: str | None, position: Mapping[str, Any] | None) -> World:
        """Go back to a checkpoint's version, and expect those that the log has behind it.

        Args:
          sha256: the version in force at the checkpoint; None: the run's first.
          position: the log's position there; None: its start.

        Raises: AuditError where a version's file is missing or was changed.
        """
        if sha256 is not None:
            self.world = self._under(sha256)
        places, self._last_episode = _behind(self._folder, position)
        self._expected = deque(places)
        return self.world

    def newer(self, after: int, moment: int = 0) -> Newer | None:
        """The version that comes into force at this place, None where none does; logged.

        Args:
          after: training steps done.
          moment: batched steps that the rollout has taken, 0 between two rollouts.
        """
        while self._refused:
            self._say(f"warning: {self._refused.popleft()}; training goes on as it was")
        if self._expected:
            place = self._expected[0]
            if (self._log.next_episode, moment) < (place.ep, place.moment):
                return None
            self._expected.popleft()
            world = self._under(place.sha256)
        elif self._log.next_episode <= self._last_episode:
            return None  # the log holds answers from here on that were written without another one
        else:
            world = self._delivered()
        if world.catalog_sha256 == self.world.catalog_sha256 or world.catalog is None:
            return None
        newer = Newer(world, self.world)
        self.world = world
        self._log.event(
            "catalog",
            catalog=world.catalog_sha256,
            file=world.catalog_file,
            version=world.catalog.version,
            after=after,
            ep=self._log.next_episode,
            moment=moment,
        )
        self._say(f"step {after}: {newer}")
        return newer

    def close(self) -> None:
        """End the watching."""
        if self._inbox is not None:
            self._inbox.close()
        if self._store is not None:
            self._store.close()

    def _delivered(self) -> World:
        """The newest version that was delivered and is sound; the one in force where none was."""
        if self._store is None and not self._anything():
            return self.world
        store, inbox = self._opened()
        if not self._watch:
            inbox.poll()
            while self._refused:
                self._say(f"warning: {self._refused.popleft()}; training goes on as it was")
        return store.current.built

    def _anything(self) -> bool:
        """Whether there is an inbox, or a version that was taken out of it and never used."""
        return inbox_of(self._folder.path).is_dir() or (self._kept / VERSIONS).exists()

    @property
    def _kept(self) -> Path:
        return self._folder.path / CATALOGS

    def _opened(self) -> tuple[CatalogStore[World], Inbox]:
        """The store and the inbox, opened when first needed: most runs never get a new version."""
        if self._store is None or self._inbox is None:
            store = CatalogStore(self._kept, self._build, ban_immediately=self.ban_immediately)
            if store.restore() is None:
                store.adopt(self._domain.catalog)
            if store.status.error is not None:
                self._refused.append(store.status.error)
            self._store = store
            self._inbox = Inbox(inbox_of(self._folder.path), store, refused=self._refused.append)
        return self._store, self._inbox

    def _build(self, catalog: Catalog) -> World:
        if catalog.sha256 == self.world.catalog_sha256:
            return self.world
        world = self._domain.world.with_catalog(catalog)
        if not (world.terms.target >= 0).any():
            raise EnvironmentSpecError(
                f"{catalog.file}: no answer of the corpus holds one of its terms with a length in "
                f"{list(world.settings.lengths)}; use a catalog of the corpus's domain"
            )
        return world

    def _under(self, sha256: str) -> World:
        if sha256 == self.world.catalog_sha256:
            return self.world
        return self._domain.under(self._folder, sha256).world


def _behind(folder: RunFolder, position: Mapping[str, Any] | None) -> tuple[list[_Place], int]:
    """Versions that the log has behind a position, and its last episode's number, -1 for none."""
    places: list[_Place] = []
    last = -1
    first, offset = (position["file"], position["offset"]) if position else (0, 0)
    for number, file in enumerate(folder.step_files()[first:]):
        with file.open("rb") as stream:
            stream.seek(0 if number else offset)
            for line in stream:
                if line.startswith(_EPISODE):
                    last = orjson.loads(line)["ep"]
                elif line.startswith(_CATALOG):
                    event = orjson.loads(line)
                    places.append(_Place(event["catalog"], event["ep"], event["moment"]))
    return places, last
