"""Verify a run's log: its chain, and every number derived again; needs no torch.

python -m flexattn.replay logs/smoke
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

from flexattn import jsontext
from flexattn.audit.archive import compress
from flexattn.audit.chain import GENESIS
from flexattn.audit.folder import RunFolder
from flexattn.audit.note import Checkpoint, make_key, sign
from flexattn.audit.note import verify as read_note
from flexattn.audit.older import check_older
from flexattn.audit.page import MAX_STEPS, page, page_episode
from flexattn.audit.proof import check_proof, prove_growth, prove_line
from flexattn.audit.query import statistics, write_parquet
from flexattn.audit.reader import segments
from flexattn.audit.schema import MAX_LINE_BYTES, json_schema
from flexattn.audit.story import Told, episodes_of, parsed_step
from flexattn.audit.verify import Report, verify
from flexattn.audit.view import episode_view
from flexattn.config import RewardSection
from flexattn.domain import Domain
from flexattn.env.conformance import TOLERANCE, derive_case, differences
from flexattn.env.derive import Deriver
from flexattn.env.difference import Logged
from flexattn.env.pool import Derivers
from flexattn.env.reference import Domain as ReferenceDomain
from flexattn.env.reference import second_opinion
from flexattn.errors import AuditError, CatalogError, command
from flexattn.lexicon.entries import Catalog, parse_catalog

SHOWN = 20
LEFT = ("catalog", "place", "term", "file", "note")
TAU, LONGEST = 0.75, 8  # of logs of the older form: semantic gate, and characters of L_max
POOL_FROM_BYTES = 64_000_000  # below that, starting workers costs more than it saves

EXAMPLES = """examples:
  python -m flexattn.replay logs/smoke                  verify everything; exit 0 if it is sound
  python -m flexattn.replay logs/smoke --episode 12     verify, then show one answer step by step
  python -m flexattn.replay logs/smoke --html run.html  one page with every number on hover
  python -m flexattn.replay logs/smoke --stats          hit rates, terms, windows and costs
  python -m flexattn.replay logs/smoke --chain          hashes alone, without catalog and corpus
  python -m flexattn.replay logs/smoke --head 9f3c21aa  compare with a head hash kept elsewhere
  python -m flexattn.replay logs/smoke --prove steps-00000.jsonl:413 > proof.json
  python -m flexattn.replay --check-proof proof.json
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
    if args.check_proof:
        return _check_proof(Path(args.check_proof), args.root)
    if args.older:
        return _older(Path(args.older))
    if args.make_key:
        return _make_key(args.make_key)
    if not args.run:
        raise AuditError("replay: no run folder given, expected one such as logs/smoke; see --help")
    folder = RunFolder.open(args.run)
    if args.prove or args.prove_since:
        print(json.dumps(_proof(folder, args.prove, args.prove_since), ensure_ascii=False))
        return 0
    derivers = None if args.chain else derivers_of(folder)
    size = sum(file.stat().st_size for file in folder.step_files())
    workers = args.workers if size >= POOL_FROM_BYTES else 1
    if derivers is None:
        report = verify(folder, None, args.head, workers)
    else:
        report = verify(folder, derivers.over(workers), args.head)
    if args.json:
        print(json.dumps(report.as_dict(), ensure_ascii=False, indent=2))
    else:
        print_report(report)
    parted = args.oracle and derivers and _ask_oracle(folder, derivers, report, args.episode)
    if args.episode is not None:
        _show(folder, derivers, report, args.episode)
    if args.html and derivers is None:
        raise AuditError("--html: shows numbers and catalog entries; leave --chain away")
    if args.html and derivers:
        _write_page(folder, derivers, report, Path(args.html), args.episode)
    if args.stats:
        print_statistics(statistics(folder))
    if args.parquet:
        count = write_parquet(folder, Path(args.parquet))
        print(f"{args.parquet}: {count:,} steps")
    if args.compress and report.sound:
        before, after = compress(folder)
        print(f"{folder.path}: step files compressed from {before:,} to {after:,} bytes")
    unfit = _check_note(report, Path(args.note), args.key) if args.note else None
    if unfit:
        print(unfit)
    if args.sign and report.sound:
        _sign(folder, report, Path(args.sign))
    return 0 if report.sound and not unfit and not parted else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="flexattn replay",
        description=(__doc__ or "").partition("\n\n")[0],
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("run", nargs="?", help="run folder, such as logs/smoke")
    add("--json", action="store_true", help="print the report as JSON")
    add("--chain", action="store_true", help="verify hashes and the order of events alone")
    add("--head", metavar="HASH", help="the last seal's hash as kept elsewhere, 8 digits or more")
    add("--episode", type=int, metavar="N", help="show one episode, step by step")
    add("--html", metavar="FILE", help="write one self-contained page")
    add("--stats", action="store_true", help="count hits, terms, windows and costs (extra: query)")
    add("--parquet", metavar="FILE", help="write all steps as Parquet (extra: query)")
    add("--compress", action="store_true", help="compress a sound log's files (extra: zstd)")
    add("--prove", metavar="FILE:LINE", help="print the proof that a line was sealed")
    add("--prove-since", type=int, metavar="SEALS", help="print the proof that the log only grew")
    add("--check-proof", metavar="FILE", help="check a proof; needs no run folder")
    add("--root", metavar="HASH", help="with --check-proof: the Merkle root as kept elsewhere")
    add("--make-key", metavar="NAME", help="print a key pair for --sign")
    add("--sign", metavar="KEYFILE", help="sign the head of a sound log: head.note")
    add("--note", metavar="FILE", help="check a signed head; needs --key")
    add("--key", metavar="KEY", help="public key for --note")
    add("--cases", metavar="FILE", help="derive the cases of a conformance file")
    add("--oracle", action="store_true", help="ask the slow definition too; see --episode")
    add("--older", metavar="FILE", help="check a log of the older form for what it holds")
    add("--schema", action="store_true", help="print the JSON Schema of a line")
    add("--workers", type=int, default=2, help="processes for a long log (default: 2)")
    return parser


# ---- the numbers


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


def _ask_oracle(folder: RunFolder, derivers: Derivers, report: Report, ep: int | None) -> bool:
    """Derive a training a second time by the definition; says whether anything parts."""
    if folder.kind != "train":
        raise AuditError("--oracle: asks about rewards, which a generation does not have")
    domains: dict[str, ReferenceDomain] = {}
    parted = asked = 0
    every = _episodes(folder, lambda header: ep is None or header["ep"] == ep)
    total = report.episodes if ep is None else 1
    for told, steps in track(every, "definition", total, transient=True):
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
    return parted > 0


# ---- other files


def _cases(file: Path) -> int:
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
            if apart <= SHOWN:
                print(f"{file}: case {n} {line}")
    print(f"{file}: {len(cases)} cases, {apart} differences beyond {TOLERANCE:g}")
    return 1 if apart else 0


def _older(file: Path) -> int:
    """Check a log of the older form with the weights that configurations have unless they say."""
    count = 0
    with file.open("rb") as stream:
        lines = iter(lambda: stream.readline(MAX_LINE_BYTES + 1), b"")
        for finding in check_older(lines, str(file), RewardSection(), TAU, LONGEST):
            print(finding)
            count += 1
    print(f"{file}: {count} findings; no seals, so that changes can't be told")
    return 1 if count else 0


# ---- one episode, one page


def _episodes(
    folder: RunFolder, wanted: Callable[[Mapping[str, Any]], bool]
) -> Iterator[tuple[Told, list[dict[str, Any]]]]:
    """Episodes with their lines parsed; lines that are no steps are left out."""
    for told in episodes_of(segments(folder.step_files()), folder.run_fields(), wanted):
        yield told, [step for line in told.lines if (step := parsed_step(line))]


def _teacher(derivers: Derivers | None, record: object) -> str:
    records = derivers.world.records if derivers else ()
    return next((r.answer for r in records if r.id == record), "")


def _show(folder: RunFolder, derivers: Derivers | None, report: Report, ep: int) -> None:
    for told, steps in _episodes(folder, lambda header: header["ep"] == ep):
        lines = {told.place(t) for t in range(-1, told.count)}
        findings = [f for f in report.findings if (f.file, f.line) in lines]
        teacher = _teacher(derivers, told.header["record"])
        Console().print(episode_view(told.header, steps, findings, teacher))
        return
    raise AuditError(f"{folder.path}: has no episode {ep}, expected one of its {report.episodes}")


def _write_page(
    folder: RunFolder, derivers: Derivers, report: Report, out: Path, ep: int | None
) -> None:
    """Write as many whole episodes as the page takes, from the first on."""
    chosen, room = [], MAX_STEPS
    catalogs: dict[str, Any] = {}
    for told, steps in _episodes(folder, lambda header: ep is None or header["ep"] == ep):
        room -= len(steps)
        if room < 0:
            break
        deriver = derivers.of(told.header["catalog"])
        gains = None
        if isinstance(deriver, Deriver) and len(steps) == told.count:
            gains = deriver.gain_by_cap(Logged(told.header, told.data))
        teacher = _teacher(derivers, told.header["record"])
        chosen.append(page_episode(told.header, steps, told.place(0), teacher, gains))
        if deriver:
            entries = catalogs.setdefault(told.header["catalog"], {})
            entries.update(_entries(folder, told.header["catalog"], {s["seg"] for s in steps}))
    settings = asdict(derivers.world.settings)
    jsontext.write_whole(out, page(report, chosen, catalogs, settings).encode("utf-8"))
    print(f"{out}: {len(chosen)} of {report.episodes} episodes; open it in a browser")


@cache
def _catalog_entries(file: Path) -> dict[str, Any]:
    return {entry["term"]: entry for entry in json.loads(file.read_bytes())["entries"]}


def _entries(folder: RunFolder, sha: str, terms: set[str]) -> dict[str, Any]:
    known = _catalog_entries(folder.path / "catalogs" / f"{sha}.json")
    return {term: known[term] for term in terms if term in known}


# ---- proofs and signatures


def _proof(folder: RunFolder, line: str | None, since: int | None) -> dict[str, Any]:
    if line is None:
        return prove_growth(folder, since or 0)
    file, colon, number = line.rpartition(":")
    if not colon or not number.isdecimal():
        raise AuditError(f"--prove {line}: expected FILE:LINE, such as steps-00000.jsonl:413")
    return prove_line(folder, file.rpartition("/")[2], int(number))


def _check_proof(file: Path, root: str | None) -> int:
    proof, fails = check_proof(file)
    if not fails and root and not (len(root) >= 8 and proof["root"].startswith(root)):
        fails = f"its root is {proof['root'][:8]}, the one kept elsewhere is {root[:8]}"
    if fails:
        print(f"{file}: does NOT hold: {fails}")
        return 1
    if proof["proves"] == "line":
        print(proof["segment"][proof["at"]], end="")
        print(f"{file}: {proof['file']}:{proof['line']} was sealed, in a log of", end=" ")
    else:
        print(
            f"{file}: the first {proof['old_seals']} seals (root {proof['old_root']}) begin",
            end=" ",
        )
    print(f"{proof['seals']} seals with root {proof['root']}")
    return 0


def _make_key(name: str) -> int:
    private, public = make_key(name, os.urandom(32))
    print(f"{private}\n{public}")
    print("the first line is secret: keep it in a file of your own for --sign", file=sys.stderr)
    return 0


def _checkpoint(folder: RunFolder, report: Report) -> Checkpoint:
    return Checkpoint(f"flexattn/{folder.path.name}", report.seals, bytes.fromhex(report.root))


def _sign(folder: RunFolder, report: Report, key: Path) -> None:
    note = sign(_checkpoint(folder, report), key.read_text().split()[0], str(key))
    jsontext.write_whole(folder.path / "head.note", note.encode("utf-8"))
    print(f"{folder.path / 'head.note'}: signed {report.seals} seals, root {report.root}")


def _check_note(report: Report, file: Path, key: str | None) -> str | None:
    """Why a signed head does not fit the log, None where it does."""
    if not key:
        raise AuditError("--note: --key is missing, expected the public key of who signed it")
    signed = read_note(file.read_text(encoding="utf-8"), key, str(file))
    if (signed.seals, signed.root.hex()) != (report.seals, report.root):
        return (
            f"{file}: signs {signed.seals} seals with root {signed.root.hex()[:8]}, the log has "
            f"{report.seals} with root {report.root[:8]}"
        )
    print(f"{file}: signed by the key's owner, and the log is the one that was signed")
    return None


# ---- printing


def print_report(report: Report) -> None:
    """The report for people: the first findings, one line each, and the sum of it."""
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


def print_statistics(tables: Mapping[str, tuple[str, list[str], list[tuple[Any, ...]]]]) -> None:
    """Counts over a run as tables."""
    console = Console(soft_wrap=True, highlight=False)
    for title, columns, rows in tables.values():
        table = Table(title=title, title_justify="left", box=None, pad_edge=False)
        for column in columns:
            table.add_column(column, justify="left" if column in LEFT else "right")
        for row in rows:
            table.add_row(*(f"{v:,.6g}" if isinstance(v, float) else str(v) for v in row))
        console.print(table, "")


if __name__ == "__main__":
    sys.exit(main(None))
