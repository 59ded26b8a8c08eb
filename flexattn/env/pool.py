"""A whole run derived in batches: a deriver for each catalog version, in several threads.

What a deriver does is compiled and holds no interpreter lock. Tables are shared; what an episode
changes, each thread has for itself.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from threading import Lock, local

from flexattn.audit.story import Told
from flexattn.audit.verify import Check
from flexattn.env.derive import Deriver
from flexattn.env.derive_generation import GenerationDeriver
from flexattn.env.difference import Difference, Logged
from flexattn.env.world import World
from flexattn.errors import FlexAttnError
from flexattn.lexicon.entries import Catalog


class Derivers:
    """A deriver for each catalog version of a run, made when first needed."""

    def __init__(
        self, world: World, catalog_of: Callable[[str], Catalog], generation: bool = False
    ) -> None:
        """Begin with the catalog that the run began with.

        Args:
          world: the run's tables under it.
          catalog_of: SHA-256 -> that catalog version; raises FlexAttnError where there is none.
          generation: whether the run is of kind `generate`.
        """
        self.world = world
        self.catalog_of = catalog_of
        self._generation = generation
        self._worlds: dict[str, World | FlexAttnError] = {world.catalog_sha256: world}
        self._bans: dict[str, tuple[str, ...]] = {}
        self._lock = Lock()
        self._here = local()

    def of(self, sha: str) -> Deriver | GenerationDeriver | None:
        """This thread's deriver under a catalog version, None where the run does not have it."""
        mine: dict[str, Deriver | GenerationDeriver] = self._here.__dict__
        if sha not in mine:
            world = self._world_of(sha)
            if isinstance(world, FlexAttnError):
                return None
            mine[sha] = (
                GenerationDeriver(world)
                if self._generation
                else Deriver(world, bans_of=self._bans_of)
            )
        return mine[sha]

    def _world_of(self, sha: str) -> World | FlexAttnError:
        with self._lock:
            if sha not in self._worlds:
                try:
                    self._worlds[sha] = self.world.with_catalog(self.catalog_of(sha))
                except FlexAttnError as error:
                    self._worlds[sha] = error
            return self._worlds[sha]

    def _bans_of(self, sha: str) -> tuple[str, ...]:
        if sha not in self._bans:
            self._bans[sha] = self.catalog_of(sha).banned
        return self._bans[sha]

    def check(self, batch: Sequence[Logged]) -> list[Difference]:
        """The first difference of each episode that has one.

        Episodes whose catalog the run does not have, or not any more, can't be derived.
        """
        found: list[Difference] = []
        by_catalog: dict[str, list[int]] = {}
        for n, episode in enumerate(batch):
            by_catalog.setdefault(episode.header["catalog"], []).append(n)
        for sha, places in by_catalog.items():
            deriver = self.of(sha)
            if deriver is not None:
                differences = deriver.check([batch[n] for n in places])
                found += [replace(d, episode=places[d.episode]) for d in differences]
            else:
                text = str(self._world_of(sha))
                found += [
                    Difference(n, -1, "catalog-unknown", text, "catalog", sha) for n in places
                ]
        return found

    def over(self, workers: int) -> Check:
        """`check` for a whole run in so many threads, this one among them."""
        if workers < 2:
            return self.check_all
        return lambda batches: self.check_aside(batches, workers - 1)

    def check_all(self, batches: Iterator[list[Told]]) -> Iterator[list[Difference]]:
        """`check` for one batch after the other."""
        for batch in batches:
            yield self.check(logged(batch))

    def check_aside(
        self, batches: Iterator[list[Told]], threads: int
    ) -> Iterator[list[Difference]]:
        """The same in threads besides; answers in the batches' order, few batches waiting."""
        running: deque[Future[list[Difference]]] = deque()
        with ThreadPoolExecutor(threads, "flexattn-derive") as pool:
            for batch in batches:
                running.append(pool.submit(self.check, logged(batch)))
                while len(running) > 2 * threads:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()


def logged(batch: Sequence[Told]) -> list[Logged]:
    """What a deriver needs of episodes."""
    return [Logged(told.header, told.data, told.whole) for told in batch]
