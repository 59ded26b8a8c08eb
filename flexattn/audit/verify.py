"""Two verifications in one pass: the chain, which needs nothing, and the story with its numbers.

The numbers come from whoever is passed in as `check`, so that the chain can be verified without
catalog, corpus and environment. Findings are collected, merged by line, and kept bounded.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol

from flexattn.audit.aside import judged_aside
from flexattn.audit.chain import GENESIS
from flexattn.audit.findings import MAX_FINDINGS, Finding
from flexattn.audit.folder import EVALUATIONS, HEAD, RunFolder
from flexattn.audit.merkle import root_of
from flexattn.audit.reader import Segment, Verifier, missing_file, read_head, segments
from flexattn.audit.schema import MAX_LINE_BYTES
from flexattn.audit.story import Story, Told

BATCH = 256


class Differs(Protocol):
    """What a check says of one episode of a batch; `env.derive.Difference` is one."""

    @property
    def episode(self) -> int:
        """Index in the batch."""

    @property
    def step(self) -> int:
        """Index of the step line, -1 for the header."""

    @property
    def code(self) -> str:
        """One of `findings.CODES`."""

    @property
    def text(self) -> str:
        """What is the matter."""

    @property
    def field(self) -> str:
        """The key, empty where it is the whole line."""

    @property
    def logged(self) -> Any:
        """What the log has."""

    @property
    def derived(self) -> Any:
        """What it should have."""


Check = Callable[[Iterator[list[Told]]], Iterable[Sequence[Differs]]]


@dataclass
class Report:
    """What a verification found.

    Attributes:
      run: the run folder.
      findings: at most MAX_FINDINGS, in the log's order; `more` counts the rest.
      lines: lines read; `sealed` of them are vouched for by sound seals from the start on.
      head: hash of the last seal, and `root` the Merkle root over all of them.
      numbers: whether every number was derived again.
    """

    run: str
    kind: str
    findings: list[Finding] = field(default_factory=list)
    more: int = 0
    files: int = 0
    lines: int = 0
    sealed: int = 0
    seals: int = 0
    steps: int = 0
    episodes: int = 0
    head: str = GENESIS
    root: str = ""
    numbers: bool = False

    @property
    def sound(self) -> bool:
        """No finding at all."""
        return not self.findings

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        values = asdict(self)
        values["findings"] = [finding.as_dict() for finding in self.findings]
        return {"sound": self.sound, **values}


class _Collector:
    """Findings, the first MAX_FINDINGS of them."""

    def __init__(self) -> None:
        self.all: list[Finding] = []
        self.more = 0

    def add(self, findings: Iterable[Finding]) -> None:
        for finding in findings:
            if len(self.all) < MAX_FINDINGS:
                self.all.append(finding)
            else:
                self.more += 1

    def merged(self) -> list[Finding]:
        """Sorted by place, the step files first; what names a field stands before the chain's word.

        Of two findings on one line the first one says both.
        """
        out: list[Finding] = []
        for finding in sorted(self.all, key=_rank):
            before = out[-1] if out else None
            same = before and (before.file, before.line) == (finding.file, finding.line)
            if before and same and finding.layer == "chain" != before.layer:
                out[-1] = replace(before, text=f"{before.text}; {finding.text}")
            out.append(finding)
        return out


def _rank(finding: Finding) -> tuple[bool, str, int, bool]:
    steps = finding.file.rpartition("/")[2].startswith("steps-")
    return not steps, finding.file, finding.line, finding.layer == "chain"


def verify(
    folder: RunFolder, check: Check | None = None, head: str | None = None, workers: int = 1
) -> Report:
    """Verify a run folder's log.

    Args:
      folder: the run.
      check: derives episodes; None to verify the chain and the form of lines alone.
      head: hash of the last seal as it was kept elsewhere, 64 hex digits, or its beginning.
      workers: threads that read and hash; with 1 this one does both.
    """
    files = folder.step_files()
    report = Report(str(folder.path), folder.kind, files=len(files), numbers=check is not None)
    found = _Collector()
    kept = read_head(folder.path)
    if isinstance(kept, Finding):
        found.add([kept])
    verifier = Verifier(kept if isinstance(kept, Mapping) else None)
    share = folder.manifest["sample"]
    story = Story(folder.run_fields(), every_episode=share == 1.0, keeps=check is not None)
    waiting: deque[list[Told]] = deque()
    state = _Reading(report, verifier, story, found, waiting)
    gap = missing_file(files)
    if not files or gap:
        name = gap or "steps-00000.jsonl"
        text = "the file is missing; the log's lines stood there"
        found.add([Finding("file-missing", str(folder.path / name), 0, text)])
    parts = segments(files)
    told = _told(judged_aside(parts, workers - 1) if workers > 1 else parts, state)
    if check is None:
        for _ in told:
            pass
    else:
        for differences in check(_batches(told, waiting)):
            batch = waiting.popleft()
            found.add(_finding(batch[d.episode], d) for d in differences)
    found.add(story.findings)
    found.more += story.more
    found.add(_endings(folder, state, kept, head))
    report.findings = _with_sound(found.merged(), state)
    report.more = found.more
    report.steps, report.episodes = story.steps, story.episodes
    return report


@dataclass
class _Reading:
    report: Report
    verifier: Verifier
    story: Story
    found: _Collector
    waiting: deque[list[Told]]
    last: Segment | None = None
    tail: int = 0
    torn: int = 0
    sealed_to: tuple[str, int] = ("", 0)
    broken: bool = False


def _told(parts: Iterator[Segment], state: _Reading) -> Iterator[Told]:
    report, verifier = state.report, state.verifier
    for segment in parts:
        if not segment.stopped:
            verifier.check(segment, last=segment.index == report.files - 1)
        state.found.add(segment.findings)
        report.lines += segment.count + bool(segment.seal)
        state.broken = state.broken or bool(segment.findings)
        if segment.seal:
            report.seals += 1
            if not state.broken:
                report.sealed = report.lines
                state.sealed_to = (str(segment.file), segment.next_file_line - 1)
                report.head = verifier.prev or GENESIS
        state.last = segment
        state.tail, state.torn = (0 if segment.seal else segment.count), len(segment.torn)
        yield from state.story.follow(segment)
    whole = state.story.end is not None and not state.tail
    yield from state.story.close(whole)


def _batches(told: Iterator[Told], waiting: deque[list[Told]]) -> Iterator[list[Told]]:
    batch: list[Told] = []
    for episode in told:
        batch.append(episode)
        if len(batch) == BATCH:
            waiting.append(batch)
            yield batch
            batch = []
    if batch:
        waiting.append(batch)
        yield batch


def _finding(told: Told, d: Differs) -> Finding:
    file, line = told.place(d.step)
    return Finding(d.code, file, line, d.text, d.field, d.logged, d.derived)


def _endings(
    folder: RunFolder,
    state: _Reading,
    kept: Mapping[str, Any] | Finding | None,
    head: str | None,
) -> Iterator[Finding]:
    """What can only be said once all was read: the tail, the end, the head."""
    last, story, report = state.last, state.story, state.report
    finished = (story.end is not None or folder.kind == "stages") and not state.tail
    if last is not None and not last.stopped:
        file, line = str(last.file), last.next_file_line
        if last.torn:
            text = (
                f"the last line is torn after {min(len(last.torn), MAX_LINE_BYTES)} bytes; "
                f"{state.tail} whole lines before it stand after the last seal"
            )
            yield Finding("torn-tail", file, line, text)
        elif state.tail:
            text = (
                f"the log stops here; nothing seals the {state.tail} lines since line "
                f"{last.file_line}"
            )
            yield Finding("unsealed-tail", file, line, text)
        elif story.end is None and folder.kind != "stages":
            text = "the log has no end: the run was stopped here, or the rest was cut off"
            yield Finding("unfinished", file, line - 1, text)
    report.root = root_of(state.verifier.hashes).hex()
    if kept is None and finished and report.seals:
        text = f"is missing, expected the last seal's hash {report.head[:8]}"
        yield Finding("head-missing", str(folder.path / HEAD), 0, text)
    if isinstance(kept, Mapping):
        named, last_seal = kept["seals"] - 1, state.verifier.seals - 1
        if state.verifier.head_found is None:
            text = f"names seal {named}, the log ends with seal {last_seal}: its end was lost"
            yield Finding("head-lost", str(folder.path / HEAD), 0, text, "seals", kept["seals"])
        elif "root" in kept and not state.broken:
            root = root_of(state.verifier.hashes[: kept["seals"]]).hex()
            if kept["root"] != root:
                text = f"names the Merkle root {str(kept['root'])[:8]}, the seals give {root[:8]}"
                yield Finding("head-differs", str(folder.path / HEAD), 0, text, "root", root)
        if finished and state.verifier.head_found is not None and named < last_seal:
            text = f"names seal {named}, the log ends with seal {last_seal}"
            yield Finding("head-lost", str(folder.path / HEAD), 0, text, "seals", kept["seals"])
    if head is not None and not (report.head.startswith(head) and len(head) >= 8):
        text = f"the last seal's hash is {report.head[:8]}, the head kept elsewhere is {head[:8]}"
        yield Finding("head-differs", str(folder.path), 0, text, "head", report.head, head)
    if story.end is not None:
        logged, found = story.end["evaluations"], folder.evaluations_sha256()
        if logged != found:
            text = (
                f"hashes to {(found or 'nothing')[:8]}, the log's end says "
                f"{str(logged or 'nothing')[:8]}: it was changed after the run"
            )
            yield Finding("evaluations", str(folder.path / EVALUATIONS), 0, text)


def _with_sound(findings: list[Finding], state: _Reading) -> list[Finding]:
    """Say behind the first finding what is still sound."""
    if not findings:
        return []
    first = next((f for f in findings if f.line), findings[0])
    if not first.line:
        file, line = state.sealed_to
        sound = f"lines 1..{line} of {file} are intact" if line else ""
    elif first.line > 1:
        sealed = [f.line - 1 for f in findings if f.layer == "chain" and f.file == first.file]
        sealed += [state.sealed_to[1]] * (state.sealed_to[0] == first.file)
        sure = first.line - 1 <= max(sealed, default=0)
        sound = f"lines 1..{first.line - 1} are {'intact' if sure else 'as they should be'}"
    else:
        sound = ""
    return [f.with_sound(sound) if f is first else f for f in findings]
