"""Verify a run's log: its chain, and every number derived again; needs no torch.

python -m flexattn.replay logs/smoke
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from flexattn.audit.archive import compress
from flexattn.audit.folder import RunFolder
from flexattn.audit.older import check_older
from flexattn.audit.printing import print_report, print_statistics
from flexattn.audit.proof import prove_growth
from flexattn.audit.query import statistics, write_parquet
from flexattn.audit.schema import MAX_LINE_BYTES, json_schema
from flexattn.audit.verify import verify
from flexattn.audit.vouching import note_fits, print_keys, proof_holds, proof_of, sign_head
from flexattn.config import RewardSection
from flexattn.derivation import cases_agree, definition_agrees, derivers_of
from flexattn.errors import AuditError, command
from flexattn.views import show_episode, write_page

TAU, LONGEST = 0.75, 8  # of logs of the older form: semantic gate, and characters of L_max
THREADS_FROM_BYTES = 16_000_000  # below that, one thread is done as soon

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
        return 0 if cases_agree(Path(args.cases)) else 1
    if args.check_proof:
        return 0 if proof_holds(Path(args.check_proof), args.root) else 1
    if args.older:
        return _older(Path(args.older))
    if args.make_key:
        print_keys(args.make_key)
        return 0
    if not args.run:
        raise AuditError("replay: no run folder given, expected one such as logs/smoke; see --help")
    if args.html and args.chain:
        raise AuditError("--html: shows numbers and catalog entries; leave --chain away")
    if args.head and not re.fullmatch("[0-9a-f]{8,64}", args.head):
        raise AuditError(f"--head {args.head}: expected 8 to 64 hex digits, as train printed them")
    if args.workers < 1:
        raise AuditError(f"--workers {args.workers}: expected 1 or more")
    folder = RunFolder.open(args.run)
    if args.prove or args.prove_since:
        growth = args.prove_since
        proof = proof_of(folder, args.prove) if args.prove else prove_growth(folder, growth)
        print(json.dumps(proof, ensure_ascii=False))
        return 0
    derivers = None if args.chain else derivers_of(folder)
    size = sum(file.stat().st_size for file in folder.step_files())
    workers = args.workers if size >= THREADS_FROM_BYTES else 1
    if derivers is None:
        report = verify(folder, None, args.head, workers)
    else:
        report = verify(folder, derivers.over(workers), args.head)
    if args.json:
        print(json.dumps(report.as_dict(), ensure_ascii=False, indent=2))
    else:
        print_report(report)
    agrees = fits = True
    if args.oracle and derivers:
        agrees = definition_agrees(folder, derivers, report.episodes, args.episode)
    if args.episode is not None:
        show_episode(folder, derivers, report, args.episode)
    if args.html and derivers:
        write_page(folder, derivers, report, Path(args.html), args.episode)
    if args.stats:
        print_statistics(statistics(folder))
    if args.parquet:
        count = write_parquet(folder, Path(args.parquet))
        print(f"{args.parquet}: {count:,} steps")
    if args.compress and report.sound:
        before, after = compress(folder)
        print(f"{folder.path}: step files compressed from {before:,} to {after:,} bytes")
    if args.note:
        fits = note_fits(report, Path(args.note), args.key)
    if args.sign and report.sound:
        sign_head(folder, report, Path(args.sign))
    return 0 if report.sound and agrees and fits else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m flexattn.replay",
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
    add("--workers", type=int, metavar="N", default=2, help="threads for a long log (default: 2)")
    return parser


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


if __name__ == "__main__":
    sys.exit(main(None))
