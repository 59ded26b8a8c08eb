"""Make corpora; build, check, measure, compare and hand over catalogs; needs no torch.

python -m flexattn.catalog validate catalogs/medical.json
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console
from rich.status import Status
from rich.table import Table

from flexattn import jsontext
from flexattn.audit.folder import CONFIG
from flexattn.config import load_config, resolve_path
from flexattn.corpus import Corpus, load_corpus, parse_corpus
from flexattn.errors import CatalogError, command
from flexattn.lexicon.banned import find_banned, fold
from flexattn.lexicon.build import Report, build_catalog, propose_terms
from flexattn.lexicon.changes import find_changes
from flexattn.lexicon.coverage import Coverage, measure_coverage, terms_in
from flexattn.lexicon.defects import MAX_TERM_CHARS, find_defects
from flexattn.lexicon.entries import Catalog, file_bytes, load_catalog, parse_catalog
from flexattn.lexicon.inbox import deliver, inbox_of
from flexattn.lexicon.signature import read_key
from flexattn.lexicon.sources import read_background, read_banned, read_term_list
from flexattn.lexicon.weights import term_weights
from flexattn.raw import COLUMNS, gather

BAR_CHARS = 40
SHOWN = 10

EXAMPLES = {
    "corpus": """example:
  python -m flexattn.catalog corpus answers.tsv --ask '什么是{}？' --ask '{}是什么意思？' \\
      --out corpus.jsonl --terms terms.txt""",
    "build": """example:
  python -m flexattn.catalog build catalogs/medical.terms.tsv --corpus corpora/medical.jsonl \\
      --background dict.txt --banned banned.txt --previous catalogs/medical.json \\
      --out catalogs/medical.json""",
    "validate": """example:
  python -m flexattn.catalog validate catalogs/medical.json --corpus corpora/medical.jsonl""",
    "stats": """example:
  python -m flexattn.catalog stats catalogs/medical.json --corpus corpora/medical.jsonl""",
    "diff": """example:
  python -m flexattn.catalog diff old.json catalogs/medical.json""",
    "swap": """example:
  python -m flexattn.catalog swap new.json --run logs/medical""",
}


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand.

    Returns: exit code, 0 or 2.
    """
    args = _parser().parse_args(argv)
    code: int = args.run_verb(args)
    return code


def _busy(text: str) -> Status:
    """A line on the terminal while nothing else is printed; silent where no one looks."""
    return Console(stderr=True).status(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m flexattn.catalog",
        description="Build, check, measure, compare and hand over catalogs.",
        epilog=EXAMPLES["validate"],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(
        required=True, metavar="corpus | build | validate | stats | diff | swap"
    )

    def add(name: str, run_verb: object, text: str) -> argparse.ArgumentParser:
        verb = verbs.add_parser(
            name,
            help=text,
            description=f"{text[0].upper()}{text[1:]}.",
            epilog=EXAMPLES[name],
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        verb.set_defaults(run_verb=run_verb)
        return verb

    corpus = add("corpus", _corpus, "make a corpus from raw tables: TSV, CSV or JSONL")
    corpus.add_argument("tables", nargs="+", metavar="TABLE", help="columns term and answer")
    corpus.add_argument("--out", required=True, metavar="FILE", help="corpus to write")
    corpus.add_argument(
        "--column", action="append", default=[], metavar="NAME=HEADER",
        help=f"how the table calls one of {', '.join(COLUMNS)}; may be given again",
    )  # fmt: skip
    corpus.add_argument(
        "--ask", action="append", default=[], metavar="TEXT",
        help="a question with {} for the term; may be given again; of several the last one is "
        "what training never sees",
    )  # fmt: skip
    corpus.add_argument("--terms", metavar="FILE", help="write the terms, one a line, for build")
    corpus.add_argument("--prefix", default="r", help="of ids that rows don't have; default r")
    corpus.add_argument(
        "--max-chars", type=int, default=0, metavar="N", help="leave longer answers out; 0: none"
    )
    corpus.add_argument("--report", action="store_true", help="every dropped row, not 10")

    build = add("build", _build, "make a catalog from term lists and teacher answers")
    build.add_argument("lists", nargs="+", metavar="LIST", help="term list: TSV, TXT or JSON")
    build.add_argument("--out", required=True, metavar="FILE", help="catalog to write")
    build.add_argument(
        "--corpus", metavar="FILE", help="teacher answers; df counts the train split"
    )
    build.add_argument("--background", metavar="FILE", help="word counts in jieba dict.txt form")
    build.add_argument(
        "--previous", action="append", default=[], metavar="FILE",
        help="earlier version whose ids stay; may be given again, newest last",
    )  # fmt: skip
    build.add_argument("--banned", metavar="FILE", help="banned strings, one a line")
    build.add_argument("--name", help="default: the name of the output file")
    build.add_argument("--version", help="default: 1, or one more than the earlier version's")
    build.add_argument("--language", default="zh")
    build.add_argument("--min-chars", type=int, default=2, metavar="N", help="default 2")
    build.add_argument("--max-chars", type=int, default=8, metavar="N", help="default 8")
    build.add_argument("--propose", metavar="FILE", help="write terms that the corpus suggests")
    build.add_argument("--propose-top", type=int, default=200, metavar="N", help="default 200")
    build.add_argument("--report", action="store_true", help="every line of the report, not 10")

    validate = add("validate", _validate, "check catalogs; one line for each defect, exit code 2")
    validate.add_argument("files", nargs="+", metavar="FILE")
    validate.add_argument("--corpus", metavar="FILE", help="check against teacher answers too")

    stats = add("stats", _stats, "lengths, kinds, weights, and what the terms cover")
    stats.add_argument("file", metavar="FILE")
    stats.add_argument("--corpus", metavar="FILE", help="teacher answers to measure coverage on")

    diff = add("diff", _diff, "what a new version adds, removes, reweights and bans")
    diff.add_argument("old", metavar="OLD")
    diff.add_argument("new", metavar="NEW")
    diff.add_argument("--all", action="store_true", help=f"every term, not {SHOWN} a group")

    swap = add("swap", _swap, "hand a checked version to a run; it takes effect between episodes")
    swap.add_argument("new", metavar="NEW")
    swap.add_argument(
        "--run", required=True, metavar="DIR", help="run folder, such as logs/medical"
    )
    swap.add_argument("--key", metavar="FILE", help="Ed25519 public key; NEW.sig must fit it")
    return parser


# ---- corpus ----------------------------------------------------------------------------


def _corpus(args: argparse.Namespace) -> int:
    columns = {}
    for pair in args.column:
        name, equals, header = pair.partition("=")
        if not equals or name not in COLUMNS or not header:
            raise CatalogError(
                f"--column {pair}: expected NAME=HEADER with a name of {', '.join(COLUMNS)}"
            )
        columns[name] = header
    if args.max_chars < 0:
        raise CatalogError(f"--max-chars {args.max_chars}: expected 0 or more")
    _two_files("--terms", args.terms, args.out)
    paths = [resolve_path(path) for path in args.tables]
    made = gather(paths, columns, args.ask, prefix=args.prefix, most_chars=args.max_chars)
    if made.dropped:
        print(f"{len(made.dropped):,} rows left out:")
        _print_items(made.dropped, args.report)
    data = made.lines()
    corpus = parse_corpus(data, args.out)
    if args.terms:
        terms = dict.fromkeys(record.term for record in corpus.records)
        jsontext.write_whole(args.terms, "".join(f"{term}\n" for term in terms).encode("utf-8"))
        print(f"{args.terms}: {len(terms):,} terms")
    jsontext.write_whole(args.out, data)
    lengths = sorted(len(record.answer) for record in corpus.records)
    named = sum(record.term in record.answer for record in corpus.records)
    print(
        f"{args.out}: {made.rows:,} rows, {len(corpus.train):,} train and {len(corpus.heldout):,} "
        f"held-out records, answers of {lengths[0]} to {lengths[-1]} characters (median "
        f"{lengths[len(lengths) // 2]}), {named:,} of them hold their own term"
    )
    return 0


def _two_files(option: str, path: str | None, out: str) -> None:
    """What is written second must not take the place of what was written first."""
    if path is not None and Path(path).absolute() == Path(out).absolute():
        raise CatalogError(f"{option} {path}: is the file of --out too; give it another name")


# ---- build -----------------------------------------------------------------------------


def _build(args: argparse.Namespace) -> int:
    if not 2 <= args.min_chars <= args.max_chars <= MAX_TERM_CHARS:
        raise CatalogError(
            f"--min-chars {args.min_chars} --max-chars {args.max_chars}: expected "
            f"2 <= min <= max <= {MAX_TERM_CHARS}; single characters earn nothing"
        )
    if args.propose_top < 1:
        raise CatalogError(f"--propose-top {args.propose_top}: expected 1 or more")
    _two_files("--propose", args.propose, args.out)
    listed = [line for path in args.lists for line in read_term_list(resolve_path(path))]
    train = load_corpus(resolve_path(args.corpus)).train if args.corpus else ()
    answers = [record.answer for record in train]
    if args.corpus and not answers:
        raise CatalogError(f"{args.corpus}: no record is in the train split, expected at least one")
    background = read_background(resolve_path(args.background)) if args.background else None
    previous = [load_catalog(resolve_path(path)) for path in args.previous]
    with _busy(f"counting {len(listed):,} terms in {len(answers):,} answers"):
        catalog, report = build_catalog(
            listed,
            answers,
            name=args.name or Path(args.out).stem,
            version=args.version or _next_version(previous),
            language=args.language,
            background=background,
            previous=previous,
            banned=read_banned(resolve_path(args.banned)) if args.banned else (),
            min_chars=args.min_chars,
            max_chars=args.max_chars,
        )
    if not catalog["entries"]:
        raise CatalogError(
            f"{args.lists[0]}: no term of {report.listed} is left between {args.min_chars} and "
            f"{args.max_chars} characters; widen --max-chars or mend the list"
        )
    made = parse_catalog(catalog, args.out)
    _print_report(report, args.report)
    if args.propose:
        known = [line.term for line in listed]
        with _busy("looking for further terms"):
            found = propose_terms(answers, known, background, top=args.propose_top)
        lines = [f"{t}\tproposed\t\tcount {n}, keyness {k:.1f}\n" for t, n, k in found]
        jsontext.write_whole(args.propose, "".join(lines).encode("utf-8"))
        print(f"{args.propose}: {len(found)} proposals to look through by hand")
    jsontext.write_whole(args.out, file_bytes(catalog))
    print(
        f"{args.out}: version {made.version}, {len(made.entries):,} terms, df over "
        f"{made.documents:,} train answers, {len(made.banned)} banned, sha256 {made.sha256}"
    )
    return 0


def _next_version(previous: Sequence[Catalog]) -> str:
    if not previous:
        return "1"
    last = previous[-1].version
    head = last.rstrip("0123456789")
    tail = last[len(head) :]
    return f"{head}{int(tail) + 1}" if tail else f"{last}.1"


def _print_report(report: Report, everything: bool) -> None:
    groups: list[tuple[str, list[str]]] = [
        ("too short, left out", report.too_short),
        ("too long, left out", report.too_long),
        ("refused, left out", report.refused),
        ("holding a banned string, left out", report.banned_inside),
        ("duplicates, first one kept", report.duplicates),
        ("duplicates of another kind", report.conflicts),
        ("standing inside a longer term", report.inside_longer),
        ("in the earlier version only", report.retired),
    ]
    for title, items in groups:
        if items:
            print(f"{len(items):,} {title}:")
            _print_items(items, everything)
    print(
        f"{report.listed:,} listed, {report.kept:,} kept, {report.new:,} new, "
        f"{report.unseen:,} in no train answer, {report.without_zipf:,} without a Zipf value"
    )


def _print_items(items: Sequence[str], everything: bool) -> None:
    shown = items if everything else items[:SHOWN]
    for item in shown:
        print(f"  {item}")
    if len(shown) < len(items):
        print(f"  ... and {len(items) - len(shown):,} more")


# ---- validate --------------------------------------------------------------------------


def _validate(args: argparse.Namespace) -> int:
    corpus = load_corpus(resolve_path(args.corpus)) if args.corpus else None
    bad = 0
    for name in args.files:
        with _busy(f"checking {name}"):
            defects, catalog = _check(name)
        if catalog is not None and corpus is not None:
            defects = _corpus_defects(catalog, corpus)
        for defect in defects:
            # a defect of the JSON begins with its line, such as ":3: column 1"
            print(f"error: {name}{'' if defect[0] == ':' else ': '}{defect}", file=sys.stderr)
        if defects or catalog is None:
            bad += 1
            continue
        for warning in _warnings(catalog):
            print(f"note: {name}: {warning}")
        print(
            f"{name}: sound; version {catalog.version}, {len(catalog.entries):,} terms, "
            f"{len(catalog.banned)} banned, sha256 {catalog.sha256}"
        )
    return 2 if bad else 0


def _check(name: str) -> tuple[list[str], Catalog | None]:
    path = resolve_path(name)
    data = jsontext.read_bytes(path, CatalogError)
    try:
        value = jsontext.parse(data, name, CatalogError)
    except CatalogError as error:
        return [str(error).removeprefix(name)], None
    defects = list(find_defects(value))
    return defects, None if defects else parse_catalog(value, name)


def _corpus_defects(catalog: Catalog, corpus: Corpus) -> list[str]:
    terms = catalog.by_term
    lengths = catalog.lengths
    defects = []
    if not any(True for record in corpus.train for _ in terms_in(record.answer, terms, lengths)):
        defects.append(f"no term stands in any train answer of {corpus.path}, expected some")
    for record in corpus.records:
        banned = find_banned(record.answer, catalog.banned)
        if banned is not None:
            defects.append(f"banned '{banned}' stands in the answer of record {record.id}")
    return defects


def _warnings(catalog: Catalog) -> list[str]:
    unused = sorted(set(catalog.lengths) - {len(entry.term) for entry in catalog.entries})
    notes = [f"lengths names {unused}, but no term is that long"] if unused else []
    plain = [fold(entry.term) for entry in catalog.entries] if catalog.banned else []
    everything = "\n".join(plain)
    for text in catalog.banned:
        folded = fold(text)
        if not folded or folded not in everything:
            continue
        notes += [
            f"entry {entry.id}, term '{entry.term}' holds banned '{text}'; it can never be written"
            for entry, folded_term in zip(catalog.entries, plain)
            if folded in folded_term
        ]
    return notes


# ---- stats -----------------------------------------------------------------------------


def _stats(args: argparse.Namespace) -> int:
    catalog = load_catalog(resolve_path(args.file))
    corpus = load_corpus(resolve_path(args.corpus)) if args.corpus else None
    console = Console()
    console.print(
        f"{catalog.name} {catalog.version} ({catalog.language}): {len(catalog.entries):,} terms, "
        f"{len(catalog.banned)} banned, df over {catalog.documents:,} answers\n"
        f"sha256 {catalog.sha256}",
        highlight=False,
    )
    weights = term_weights(catalog.columns, catalog.documents)
    lengths = Counter(len(entry.term) for entry in catalog.entries)
    _histogram(console, "length", [(f"{n} characters", lengths[n]) for n in sorted(lengths)])
    kinds = Counter(entry.kind or "(none)" for entry in catalog.entries)
    _histogram(console, "kind", kinds.most_common())
    bins = Counter(min(9, int(weight * 10)) for weight in weights)
    _histogram(
        console, "weight", [(f"{b / 10:.1f}-{(b + 1) / 10:.1f}", bins[b]) for b in range(10)]
    )
    ranked = sorted(zip(weights, catalog.entries), key=lambda pair: (-pair[0], pair[1].id))
    table = Table(title="terms that stand in answers, by weight", title_justify="left")
    for heading in ("weight", "term", "df", "zipf", "kind"):
        table.add_column(heading)
    seen = [pair for pair in ranked if pair[1].df]
    for weight, entry in seen[:SHOWN] + seen[-SHOWN:] if len(seen) > 2 * SHOWN else seen:
        zipf = "-" if entry.zipf is None else f"{entry.zipf:.2f}"
        table.add_row(f"{weight:.3f}", entry.term, str(entry.df), zipf, entry.kind or "-")
    console.print(table)
    if corpus is not None:
        _coverage(console, catalog, corpus)
    return 0


def _histogram(console: Console, title: str, rows: Iterable[tuple[str, int]]) -> None:
    rows = list(rows)
    total = sum(count for _, count in rows)
    largest = max((count for _, count in rows), default=0)
    table = Table(title=f"terms by {title}", title_justify="left")
    table.add_column(title)
    table.add_column("terms", justify="right")
    table.add_column("share", justify="right")
    table.add_column("")
    for label, count in rows:
        bar = "█" * round(BAR_CHARS * count / largest) if largest else ""
        table.add_row(label, f"{count:,}", f"{count / total:.1%}", bar)
    console.print(table)


def _coverage(console: Console, catalog: Catalog, corpus: Corpus) -> None:
    table = Table(title=f"coverage of {corpus.path}", title_justify="left")
    table.add_column("")
    table.add_column("train", justify="right")
    table.add_column("held out", justify="right")
    columns = [
        _coverage_rows(measure_coverage(catalog, [record.answer for record in records]))
        for records in (corpus.train, corpus.heldout)
    ]
    for row in zip(*columns):
        table.add_row(row[0][0], *(value for _, value in row))
    console.print(table)


def _coverage_rows(found: Coverage) -> list[tuple[str, str]]:
    count = max(1, found.texts)
    return [
        ("answers", f"{found.texts:,}"),
        ("characters an answer", f"{found.characters / count:.1f}"),
        ("distinct terms an answer", f"{sum(found.distinct) / count:.2f}"),
        ("answers without a term", f"{found.distinct.count(0):,}"),
        ("characters inside terms", f"{found.covered / max(1, found.characters):.1%}"),
        ("terms that stand in an answer", f"{found.terms:,}"),
    ]


# ---- diff ------------------------------------------------------------------------------


def _diff(args: argparse.Namespace) -> int:
    old, new = load_catalog(resolve_path(args.old)), load_catalog(resolve_path(args.new))
    changes = find_changes(old, new)
    print(f"{args.old}: version {old.version}, sha256 {old.sha256}")
    print(f"{args.new}: version {new.version}, sha256 {new.sha256}")
    for title, items in changes.groups:
        print(f"{len(items):,} {title}")
        _print_items(items, args.all)
    if changes.moved:
        raise CatalogError(
            f"{args.new}: {len(changes.moved):,} ids name another term than in {args.old}; "
            f"ids keep their meaning, build with --previous {args.old}"
        )
    return 0


# ---- swap ------------------------------------------------------------------------------


def _swap(args: argparse.Namespace) -> int:
    new = resolve_path(args.new)
    key = read_key(resolve_path(args.key)) if args.key else None
    settings = Path(args.run) / CONFIG
    if settings.is_file() and load_config(settings).train.device == "cuda":
        raise CatalogError(
            f"{args.run}: was begun on a GPU, where a run keeps its catalog to the end; begin one "
            f"with --set lexicon.catalog={args.new}"
        )
    catalog = deliver(new, args.run, key)
    print(
        f"{inbox_of(args.run) / new.name}: version {catalog.version}, "
        f"{len(catalog.entries):,} terms, sha256 {catalog.sha256}; waits for the run"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
