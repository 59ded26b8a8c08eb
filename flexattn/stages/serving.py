"""A serving folder says which of two stages answers; every change is a line of its sealed log.

    manifest.json, config.yaml, corpus.jsonl, catalogs/   as in the older stage's run folder
    stages.json                   where the two runs lie; manifest.json has their hashes
    steps-00000.jsonl, head.json  the log: `run`, then `stage` events, each one sealed
    reports/<n>.json              evidence that a change names by its hash
    answers/<stage>/<n>/          the log of a batch of answers
    served.jsonl                  KPIs of served answers whose teacher is known

The state is what the events say, read from the start:

    start     the older stage answers everything
    promote   the newer one gets `share` of the requests; the next one gives it all of them
    hold      nothing changes
    rollback  the older stage answers everything again

Several processes may serve from one folder: whoever reads or changes its log holds its lock.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import orjson

from flexattn import __version__
from flexattn.audit.alone import alone_in
from flexattn.audit.chain import sha256_hex
from flexattn.audit.folder import CONFIG, RunFolder, write_file
from flexattn.audit.reader import segments
from flexattn.audit.recover import START, recover
from flexattn.audit.writer import RunLog
from flexattn.config import Config, parse_config
from flexattn.errors import AuditError
from flexattn.evaluation.acceptance import Acceptance, Word

PLACES = "stages.json"
REPORTS = "reports"
ANSWERS = "answers"
SERVED = "served.jsonl"
STAGES: tuple[Literal["older", "newer"], ...] = ("older", "newer")
Move = Literal["start", "promote", "hold", "rollback"]
MOVES: Mapping[Word, Move] = {
    "PASS": "promote",
    "INCONCLUSIVE": "hold",
    "FAIL": "rollback",
    "ERROR": "rollback",
}


@dataclass(frozen=True)
class State:
    """Who answers.

    Attributes:
      share: of the requests that the newer stage gets, 0..1.
      last: the last change, or hold.
      changes: events so far.
    """

    share: float = 0.0
    last: Move = "start"
    changes: int = 0


@dataclass(frozen=True)
class Serving:
    """An opened serving folder.

    Attributes:
      folder: its files; `kind` is stages.
      older: run folder of the older stage.
      newer: run folder of the newer stage.
    """

    folder: RunFolder
    older: RunFolder
    newer: RunFolder

    @classmethod
    def create(cls, path: str | Path, older: RunFolder, newer: RunFolder, actor: str) -> Serving:
        """Make the folder; the older stage answers everything.

        Raises: AuditError where it holds something already, or both runs are of one stage.
        """
        texts = [run.config_text() for run in (older, newer)]
        configs = [parse_config(text, str(run.path / CONFIG)) for text, run in zip(
            texts, (older, newer))]  # fmt: skip
        first, second = (config.stages.stage for config in configs)
        if first >= second:
            raise AuditError(
                f"{newer.path}: is of stage {second.upper()} and {older.path} of stage "
                f"{first.upper()}, expected a newer stage after an older one"
            )
        file, data = next(iter(older.catalogs.items()))
        folder = RunFolder.create(
            path,
            config=texts[0].encode(),
            corpus=older.corpus_bytes(),
            corpus_path=str(older.manifest["corpus"].get("path", "")),
            catalogs={data: older.catalog_bytes(file)},
            manifest={
                "flexattn": __version__,
                "stages": {
                    "older": {"stage": first.upper(), "manifest": older.manifest_sha256},
                    "newer": {"stage": second.upper(), "manifest": newer.manifest_sha256},
                },
            },
            kind="stages",
        )
        places = {
            name: os.path.relpath(run.path, folder.path)
            for name, run in (("older", older), ("newer", newer))
        }
        write_file(folder.path / PLACES, orjson.dumps(places, option=orjson.OPT_INDENT_2) + b"\n")
        with RunLog(folder, configs[0].log) as log:
            log.event("stage", stage=first.upper(), verdict="start", actor=actor, share=0.0)
            log.seal()
        return cls(folder, older, newer)

    @classmethod
    def open(cls, path: str | Path) -> Serving:
        """Read the folder and open both runs.

        Raises: AuditError where it is no serving folder, or a run is another one than it was.
        """
        folder = RunFolder.open(path)
        if folder.kind != "stages":
            raise AuditError(
                f"{folder.path}: is a run of kind {folder.kind}, expected a serving folder such as "
                f"report --promote makes"
            )
        file = folder.path / PLACES
        try:
            places = orjson.loads(file.read_bytes())
            runs = {name: folder.path / places[name] for name in STAGES}
        except (OSError, ValueError, KeyError, TypeError):
            raise AuditError(
                f"{file}: is missing or names no runs, expected older and newer"
            ) from None
        opened = {name: RunFolder.open(run) for name, run in runs.items()}
        for name, run in opened.items():
            wanted = folder.manifest["stages"][name]["manifest"]
            if run.manifest_sha256 != wanted:
                raise AuditError(
                    f"{run.path}: its manifest hashes to {run.manifest_sha256[:8]}, {folder.path} "
                    f"was made for {str(wanted)[:8]}; it is another run"
                )
        return cls(folder, opened["older"], opened["newer"])

    @property
    def config(self) -> Config:
        """The newer run's configuration, whose section `stages` counts."""
        return parse_config(self.newer.config_text(), str(self.newer.path / CONFIG))

    def stage(self, name: Literal["older", "newer"]) -> str:
        """A, B or C."""
        return str(self.folder.manifest["stages"][name]["stage"])

    def state(self) -> State:
        """What the log's stage events say, the last one counting.

        Raises: AuditError where the log is not sound.
        """
        with self.alone():
            return self._state()

    def alone(self) -> AbstractContextManager[None]:
        """Wait for the folder's lock and hold it; `state`, `change` and `decide` take it too."""
        return alone_in(self.folder.path, wait=True)

    def _state(self) -> State:
        recover(self.folder, START)
        state = State()
        for segment in segments(self.folder.step_files()):
            for line in segment.lines:
                value = orjson.loads(line)
                if value.get("event") == "stage":
                    state = State(value["share"], value["verdict"], state.changes + 1)
        return state

    def _keep(self, report: Mapping[str, Any]) -> str:
        """Write evidence into `reports/`; returns its SHA-256."""
        data = orjson.dumps(report, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
        reports = self.folder.path / REPORTS
        reports.mkdir(exist_ok=True)
        write_file(reports / f"{len(list(reports.glob('*.json'))) + 1:04d}.json", data)
        return sha256_hex(data)

    def change(self, move: Move, evidence: str, actor: str) -> State:
        """Log a change of stage, sealed.

        Args:
          move: promote, hold or rollback.
          evidence: SHA-256 of the report that decided it, "" where none did.
          actor: who or what decided.
        """
        with self.alone():
            return self._change(move, evidence, actor)

    def _change(self, move: Move, evidence: str, actor: str) -> State:
        before = self._state()
        share = before.share
        if move == "promote":
            share = self.config.stages.share if share == 0.0 else 1.0
        elif move == "rollback":
            share = 0.0
        stage = self.stage("newer" if share else "older")
        end = recover(self.folder, START).end
        with RunLog(self.folder, self.config.log) as log:
            log.resume({
                "file": end.file, "offset": end.offset, "file_line": end.file_line,
                "line": end.next_line, "seals": end.seals, "head": end.prev,
                "open_lines": len(end.open), "episodes": 0, "steps": 0,
            })  # fmt: skip
            log.event(
                "stage", stage=stage, verdict=move, evidence=evidence, actor=actor, share=share
            )
            log.seal()
        return State(share, move, before.changes + 1)

    def decide(
        self,
        judged: Acceptance,
        more: Mapping[str, Any],
        actor: str,
        *,
        after: int | None = None,
    ) -> State:
        """What a verdict changes: PASS promotes, INCONCLUSIVE holds, FAIL and ERROR go back.

        Args:
          judged: the guard KPIs.
          more: what else the kept report shall say.
          actor: who or what decided.
          after: how many changes the verdict knows of; nothing happens where there are more by
            now. None: it stands anyway.
        """
        with self.alone():
            now = self._state()
            if after is not None and now.changes != after:
                return now
            evidence = self._keep({**judged.as_dict(), **more})
            return self._change(MOVES[judged.verdict], evidence, actor)
