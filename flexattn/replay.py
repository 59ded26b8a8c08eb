"""Verify a run's log: its chain, and every number derived again; needs no torch.

python -m flexattn.replay logs/smoke
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from rich.console import Console

from flexattn import jsontext
from flexattn.audit.chain import GENESIS
from flexattn.audit.folder import CONFIG, RunFolder
from flexattn.audit.schema import json_schema
from flexattn.audit.story import Told
from flexattn.audit.verify import Check, Report, verify
from flexattn.config import Config, parse_config
from flexattn.corpus import parse_corpus
from flexattn.env.core import Core
from flexattn.env.derive import Deriver, Difference, GenerationDeriver, Logged
from flexattn.env.world import World
from flexattn.errors import AuditError, CatalogError, command
from flexattn.lexicon.entries import Catalog, parse_catalog

SHOWN = 20
POOL_FROM_BYTES = 64_000_000  # below that, starting workers costs more than it saves
TOLERANCE = 1e-9

EXAMPLES = """examples:
  python -m flexattn.replay logs/smoke                  verify everything; exit 0 if it is sound
  python -m flexattn.replay logs/smoke --episode 12     verify, then show one answer step by step
  python -m flexattn.replay logs/smoke --chain          hashes alone, without catalog and corpus
  python -m flexattn.replay logs/smoke --head 9f3c21aa  compare with a head hash kept elsewhere
  python -m flexattn.replay --cases tests/golden/cases.json

exit codes: 0 sound, 1 something differs or is missing, 2 no run folder, or changed inputs"""


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Verify, print what was found.

    Returns: exit code, 0 sound, 1 findings; 2 where the folder or an argument can't be used.
    """
    args = _parser().parse_args(argv)
    if args.schema:
        print(json.dumps(json_schema(), ensure_ascii=False, indent=2))
        return 0
    if args.cases:
        return _cases(Path(args.cases))
    if not args.run:
        raise AuditError("replay: no run folder given, expected one such as logs/smoke; see --help")
    folder = RunFolder.open(args.run)
    check = None if args.chain else checker(folder, args.workers)
    report = verify(folder, check, args.head)
    if args.json:
        print(json.dumps(report.as_dict(), ensure_ascii=False, indent=2))
    else:
        _print(report)
    return 0 if report.sound else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="flexattn replay",
        description=(__doc__ or "").partition("\n\n")[0],
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", nargs="?", help="run folder, such as logs/smoke")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument("--chain", action="store_true", help="verify hashes and form alone")
    parser.add_argument("--head", metavar="HASH", help="the last seal's hash as kept elsewhere")
    parser.add_argument("--cases", metavar="FILE", help="derive the cases of a conformance file")
    parser.add_argument("--schema", action="store_true", help="print the JSON Schema of a line")
    parser.add_argument(
        "--workers", type=int, default=2, help="processes that derive numbers (default: 2)"
    )
    return parser


# ---- the numbers


def worlds(folder: RunFolder) -> tuple[Config, dict[str, World]]:
    """The run's config, and a world for each catalog that it began with.

    Raises: AuditError where config, corpus or a catalog is not what the run used.
    """
    config = parse_config(folder.config_text(), str(folder.path / CONFIG))
    corpus = parse_corpus(folder.corpus_bytes(), str(folder.path / "corpus.jsonl"))
    made: dict[str, World] = {}
    base: World | None = None
    for sha in folder.catalogs:
        catalog = _catalog(folder, sha, folder.catalogs[sha])
        base = World.build(corpus, catalog, config) if base is None else base.with_catalog(catalog)
        made[sha] = base
    if base is None:
        raise AuditError(f"{folder.path}: its manifest names no catalog, expected at least one")
    return config, made


def _catalog(folder: RunFolder, sha: str, name: str) -> Catalog:
    data = folder.catalog_bytes(sha)
    return parse_catalog(jsontext.parse(data, name, CatalogError), name)


def checker(folder: RunFolder, workers: int = 1) -> Check:
    """What derives the run's episodes, in this process or, for a long log, in several."""
    _, made = worlds(folder)
    derivers = Derivers(folder, made)
    size = sum(file.stat().st_size for file in folder.step_files())
    if workers < 2 or size < POOL_FROM_BYTES:
        return derivers.check_all
    return lambda batches: _pooled(derivers, batches, workers)


class Derivers:
    """A deriver for each catalog version of a run, made when first needed."""

    def __init__(self, folder: RunFolder, made: dict[str, World]) -> None:
        self._folder = folder
        self._worlds = made
        self._derivers: dict[str, Deriver | GenerationDeriver] = {}

    def check(self, batch: Sequence[Logged]) -> list[Difference]:
        """The first difference of each episode that has one."""
        found: list[Difference] = []
        by_catalog: dict[str, list[int]] = {}
        for n, episode in enumerate(batch):
            by_catalog.setdefault(episode.header["catalog"], []).append(n)
        for sha, places in by_catalog.items():
            deriver = self._deriver(sha)
            if deriver is None:
                continue  # the story names it: catalog-unknown
            differences = deriver.check([batch[n] for n in places])
            found += [replace(d, episode=places[d.episode]) for d in differences]
        return found

    def check_all(self, batches: Iterator[list[Told]]) -> Iterator[list[Difference]]:
        """`check` for one batch after the other."""
        for batch in batches:
            yield self.check(_logged(batch))

    def _deriver(self, sha: str) -> Deriver | GenerationDeriver | None:
        if sha not in self._derivers:
            if sha not in self._worlds:
                try:
                    catalog = _catalog(self._folder, sha, self._name(sha))
                except AuditError:
                    return None
                self._worlds[sha] = next(iter(self._worlds.values())).with_catalog(catalog)
            made = GenerationDeriver if self._folder.kind == "generate" else Deriver
            self._derivers[sha] = made(self._worlds[sha])
        return self._derivers[sha]

    def _name(self, sha: str) -> str:
        return self._folder.catalogs.get(sha, next(iter(self._folder.catalogs.values())))


def _logged(batch: Sequence[Told]) -> list[Logged]:
    return [Logged(told.header, told.lines, told.whole) for told in batch]


_FORKED: list[Derivers] = []


def _check_forked(batch: Sequence[Logged]) -> list[Difference]:
    return _FORKED[0].check(batch)


def _pooled(
    derivers: Derivers, batches: Iterator[list[Told]], workers: int
) -> Iterator[list[Difference]]:
    """Answers in the batches' order; a few batches wait at most, so that memory stays bounded."""
    _FORKED[:] = [derivers]
    running: deque[Future[list[Difference]]] = deque()
    with ProcessPoolExecutor(workers, mp_context=get_context("fork")) as pool:
        for batch in batches:
            running.append(pool.submit(_check_forked, _logged(batch)))
            while len(running) > 2 * workers:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()


# ---- conformance cases


def _cases(file: Path) -> int:
    cases = jsontext.parse(jsontext.read_bytes(file, AuditError), str(file), AuditError)
    if not isinstance(cases, list) or not cases:
        raise AuditError(f"{file}: holds no cases, expected a list of objects with case and expect")
    differences = 0
    for n, item in enumerate(cases):
        try:
            case, expected = item["case"], item["expect"]
            found = derive_case(case)
        except (KeyError, TypeError, IndexError) as error:
            raise AuditError(f"{file}: case {n} lacks or garbles {error}") from None
        for line in _case_differences(found, expected):
            differences += 1
            if differences <= SHOWN:
                print(f"{file}: case {n} {line}")
    print(f"{file}: {len(cases)} cases, {differences} differences beyond {TOLERANCE:g}")
    return 1 if differences else 0


def derive_case(case: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every step of a conformance case, derived by the environment's core."""
    world = World.from_case(case)
    core = Core(world, 1)
    core.reset([0], [case["answer"]])
    settings = world.settings
    out: list[dict[str, Any]] = []
    for lh, lp, char, written in world.case_actions(case):
        steps = core.step([lh], [lp], [char], [written], enforce=False)
        term = int(steps.term[0])
        out.append(
            {
                "step": len(out) + 1,
                "Lh": settings.history_chars[lh],
                "Lp": settings.hit_cap_chars[lp],
                "a": world.vocabulary.char(char),
                "seg": world.term_list[term] if term >= 0 else "",
                "len": int(steps.length[0]),
                **{
                    name: float(getattr(steps, name)[0])
                    for name in ("idf", "sim", "delta", "ler", "len_cost", "base", "chi_soft")
                },
                "reward": float(steps.reward[0]),
            }
        )
    return out


def _case_differences(
    found: Sequence[Mapping[str, Any]], expected: Sequence[Mapping[str, Any]]
) -> Iterator[str]:
    if len(found) != len(expected):
        yield f"has {len(expected)} expected steps, derived {len(found)}"
    for ours, theirs in zip(found, expected):
        for name, want in theirs.items():
            got = ours.get(name)
            if isinstance(want, float) and isinstance(got, float):
                apart = abs(got - want) > TOLERANCE
            else:
                apart = got != want
            if apart:
                yield f"step {theirs.get('step')}: {name} is {want!r}, derived {got!r}"


# ---- printing


def _print(report: Report) -> None:
    console = Console(soft_wrap=True, highlight=False)
    for finding in report.findings[:SHOWN]:
        console.print(str(finding), markup=False, style="red" if sys.stdout.isatty() else None)
    hidden = len(report.findings) - SHOWN + report.more
    if hidden > 0:
        console.print(f"and {hidden} more findings; --json lists the first 1000")
    what = (
        f"{report.lines:,} lines, {report.steps:,} steps, {report.episodes:,} episodes, "
        f"{report.seals:,} seals in {report.files} file{'s' * (report.files != 1)}"
    )
    if report.sound:
        done = "every number derived again" if report.numbers else "numbers not derived (--chain)"
        console.print(f"{report.run}: sound; {what}; every line sealed, {done}")
    else:
        count = len(report.findings) + report.more
        console.print(
            f"{report.run}: NOT sound; {count} finding{'s' * (count != 1)}; {what}; "
            f"sealed and whole up to line {report.sealed:,} of the log"
        )
    if report.head != GENESIS:
        console.print(f"head {report.head} (keep it elsewhere: only it shows a log written anew)")


if __name__ == "__main__":
    sys.exit(main(None))
