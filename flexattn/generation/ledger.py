"""The audit log of answers: a run folder of kind `generate`, one episode an answer.

Answers that were weighed and not given are in it too, with their rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any

from flexattn import __version__
from flexattn.audit.folder import RunFolder
from flexattn.audit.schema import rounded
from flexattn.audit.writer import RunLog
from flexattn.config import dump_config
from flexattn.domain import Domain
from flexattn.env.freehand import generated_columns
from flexattn.generation.strategy import Strategy
from flexattn.generation.trace import Answer


class Ledger(AbstractContextManager["Ledger"]):
    """Writes answers as they come; the log ends when it is left without an error.

    Attributes:
      path: its run folder.
    """

    def __init__(
        self, path: Path, domain: Domain, trained: dict[str, Any], strategy: Strategy, seed: int
    ) -> None:
        """Create the run folder.

        Args:
          path: where; may exist, but hold no run.
          domain: what the student was trained on.
          trained: which student it is, for the manifest.
          strategy: how answers are found.
          seed: of the draws.

        Raises: AuditError where `path` holds a run.
        """
        self.domain, self.path = domain, path
        folder = RunFolder.create(
            path,
            config=dump_config(domain.config).encode(),
            corpus=domain.corpus_bytes,
            corpus_path=str(domain.corpus_path),
            catalogs={domain.catalog.file: domain.catalog.canonical_bytes()},
            manifest={
                "flexattn": __version__,
                "seed": seed,
                "decoding": strategy.settings(),
                "trained": trained,
            },
            kind="generate",
        )
        self.log = RunLog(folder, domain.config.log)

    def __enter__(self) -> Ledger:
        """Open the log."""
        self.log.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the log, or leave it as far as it came."""
        if kind is None:
            self.log.event("end")
        self.log.__exit__(kind, error, trace)

    def write(self, answers: Sequence[Answer]) -> None:
        """One episode for each answer, in their order."""
        world = self.domain.world
        for env, answer in enumerate(answers):
            header: dict[str, Any] = {
                "env": env,
                "record": None,
                "question": answer.request.question,
                "catalog": world.catalog_sha256,
                "split": None,
                "start": 0,
                "align": world.settings.align,
                "slack": world.settings.slack,
                "limit": world.longest_answer + world.settings.slack,
                "request": answer.request.id,
            }
            if answer.score is not None:
                header |= {"rank": answer.rank, "score": rounded(answer.score)}
            among = None
            if answer.kept is not None and answer.options is not None:
                among = [[char for char, _ in step] for step in answer.options]
            self.log.episode(
                header,
                generated_columns(
                    world,
                    answer.text,
                    answer.ended,
                    (answer.history_chars, answer.cap_chars),
                    answer.n_legal,
                    answer.probability,
                    answer.kept,
                    env,
                    among=among,
                ),
            )
