"""A run's numbers derived again: by the compiled step, and on request by the slow definition too.

A run folder holds all that is needed; that config, corpus and catalogs are the run's own is checked
before anything is derived from them.
"""

from __future__ import annotations

from pathlib import Path

from rich.progress import track

from flexattn import jsontext
from flexattn.audit.episodes import episodes_of
from flexattn.audit.folder import RunFolder
from flexattn.domain import Domain
from flexattn.env.conformance import TOLERANCE, derive_case, differences
from flexattn.env.pool import Derivers
from flexattn.env.reference import Domain as ReferenceDomain
from flexattn.env.reference import second_opinion
from flexattn.errors import AuditError, CatalogError
from flexattn.lexicon.entries import Catalog, parse_catalog

_SHOWN = 20  # differences of a conformance file that are printed


def derivers_of(folder: RunFolder) -> Derivers:
    """What derives a run's episodes.

    Raises: AuditError where config, corpus or a catalog is not what the run used.
    """
    world = Domain.of_run(folder).world
    for sha in folder.catalogs:
        folder.catalog_bytes(sha)

    def catalog_of(sha: str) -> Catalog:
        name = folder.catalogs.get(sha, world.catalog_file)
        data = folder.catalog_bytes(sha)
        return parse_catalog(jsontext.parse(data, name, CatalogError), name)

    return Derivers(world, catalog_of, folder.kind == "generate")


def definition_agrees(
    folder: RunFolder, derivers: Derivers, episodes: int, ep: int | None = None
) -> bool:
    """Derive a training a second time by the definition, and print where it parts from the log.

    Args:
      folder: the run.
      derivers: what derived it.
      episodes: how many there are, to show how far it is.
      ep: one episode alone; all where None.

    Returns: whether they agree everywhere.
    Raises: AuditError where the run is a generation.
    """
    if folder.kind != "train":
        raise AuditError("--oracle: asks about rewards, which a generation does not have")
    domains: dict[str, ReferenceDomain] = {}
    parted = asked = 0
    total = episodes if ep is None else 1
    for told, steps in track(episodes_of(folder, ep), "definition", total, transient=True):
        sha = told.header["catalog"]
        if sha not in domains:
            world = derivers.world
            domains[sha] = ReferenceDomain(world.records, derivers.catalog_of(sha), world.settings)
        bans: dict[int, list[str]] = {}
        for step, other in told.header.get("bans", []):
            bans.setdefault(step, []).extend(derivers.catalog_of(other).banned)
        found = second_opinion(domains[sha], told.header["record"], steps, bans=bans)
        if found:
            file, line = told.place(found[0])
            print(f"{file}:{line}: {found[1]}")
        parted += found is not None
        asked += len(steps)
    if parted:
        print(f"{folder.path}: the definition parts from the log in {parted} episodes")
    else:
        print(f"{folder.path}: the definition agrees on {asked:,} steps")
    return parted == 0


def cases_agree(file: Path) -> bool:
    """Derive the cases of a conformance file and print where they differ; says whether none do.

    Raises: AuditError where the file holds no cases.
    """
    cases = jsontext.parse(jsontext.read_bytes(file, AuditError), str(file), AuditError)
    if not isinstance(cases, list) or not cases:
        raise AuditError(f"{file}: holds no cases, expected a list of objects with case and expect")
    apart = 0
    for n, item in enumerate(cases):
        try:
            case, expected = item["case"], item["expect"]
            found = derive_case(case)
        except (KeyError, TypeError, IndexError) as error:
            raise AuditError(f"{file}: case {n} lacks or garbles {error}") from None
        for line in differences(found, expected):
            apart += 1
            if apart <= _SHOWN:
                print(f"{file}: case {n} {line}")
    print(f"{file}: {len(cases)} cases, {apart} differences beyond {TOLERANCE:g}")
    return apart == 0
