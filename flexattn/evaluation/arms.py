"""An arm is several finished runs that differ in seed alone; two arms answer the same prompts.

Runs are read from their folders: config.yaml and evaluations.jsonl, both checked against the hashes
that the run wrote down. No network is run. What can't be compared is refused, with both names.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import orjson

from flexattn.audit.folder import CONFIG, EVALUATIONS, RunFolder
from flexattn.config import Config, parse_config
from flexattn.errors import AuditError
from flexattn.evaluation import rows as evaluations
from flexattn.evaluation.rows import Row

Floats = npt.NDArray[np.float64]
Prompt = tuple[str, str]  # record and question

TAIL_BYTES = 1 << 20
SMOOTHED = 3  # evaluations that a point of a learning curve is the mean of
REACHED = 0.9  # share of the baseline's final level that counts as converged


@dataclass(frozen=True)
class Run:
    """One finished run.

    Attributes:
      folder: its files.
      config: resolved.
      rows: all lines of evaluations.jsonl.
    """

    folder: RunFolder
    config: Config
    rows: tuple[Row, ...]

    @property
    def name(self) -> str:
        """The folder as it was named."""
        return str(self.folder.path)

    @cached_property
    def last_step(self) -> int:
        """Training step of the last evaluation."""
        return max(row.step for row in self.rows)

    def final(self, regime: str) -> dict[Prompt, Row]:
        """The rows of a regime at the end of the training."""
        return {
            (row.record, row.prompt): row
            for row in self.rows
            if row.regime == regime and row.step == self.last_step
        }

    def curve(self, kpi: str, regime: str = "greedy") -> list[tuple[int, float]]:
        """Characters trained, and the KPI's mean at each evaluation, over the same prompts."""
        by_step: dict[int, list[Row]] = {}
        for row in self.rows:
            if row.regime == regime:
                by_step.setdefault(row.step, []).append(row)
        if not by_step:
            return []
        asked = [{(row.record, row.prompt) for row in found} for found in by_step.values()]
        common = set.intersection(*asked)
        points = []
        for found in by_step.values():
            values = [row.kpis.get(kpi) for row in found if (row.record, row.prompt) in common]
            known = [value for value in values if value is not None]
            if known:
                points.append((found[0].characters, math.fsum(known) / len(known)))
        return sorted(points)


@dataclass(frozen=True)
class Arm:
    """Runs of one kind, by seed."""

    name: str
    runs: tuple[Run, ...]

    @property
    def seeds(self) -> tuple[int, ...]:
        """Their seeds, increasing."""
        return tuple(run.config.seed for run in self.runs)

    @property
    def reinforced(self) -> bool:
        """Whether a reward taught any of its runs."""
        return any(
            run.config.train.sac_steps > 0 and run.config.stages.stage != "a" for run in self.runs
        )

    def prompts(self, regime: str) -> list[Prompt]:
        """What every run was asked in a regime, sorted."""
        return sorted(self.runs[0].final(regime))

    def matrix(self, kpi: str, regime: str, prompts: Sequence[Prompt]) -> Floats:
        """Final values, [S, P] in the order of seeds and prompts; NaN where undefined."""
        table = np.full((len(self.runs), len(prompts)), np.nan)
        for s, run in enumerate(self.runs):
            final = run.final(regime)
            for p, prompt in enumerate(prompts):
                value = final[prompt].kpis.get(kpi) if prompt in final else None
                if value is not None:
                    table[s, p] = value
        return table

    def final_rows(self, regime: str) -> list[Row]:
        """All final rows of a regime, over all runs."""
        return [row for run in self.runs for row in run.final(regime).values()]


def read_run(path: str | Path) -> Run:
    """Open a run folder for comparison.

    Raises: AuditError where it is no run, isn't finished, or was changed; ConfigError likewise.
    """
    folder = RunFolder.open(path)
    config = parse_config(folder.config_text(), str(folder.path / CONFIG))
    file = folder.path / EVALUATIONS
    wanted = _sealed_evaluations(folder)
    found = folder.evaluations_sha256()
    if wanted is None or found is None:
        raise AuditError(f"{file}: is missing, expected the evaluations that a training writes")
    if found != wanted:
        raise AuditError(
            f"{file}: hashes to {found[:8]}, the log's end says {wanted[:8]}; it was changed after "
            f"the run"
        )
    lines = tuple(evaluations.read_rows(file))
    if not lines:
        raise AuditError(f"{file}: is empty, expected one line for each scored answer")
    return Run(folder, config, lines)


def read_arm(name: str, paths: Sequence[str | Path]) -> Arm:
    """Read the runs of one arm.

    Raises: AuditError where two runs have one seed.
    """
    runs = sorted((read_run(path) for path in paths), key=lambda run: run.config.seed)
    for first, second in pairwise(runs):
        if first.config.seed == second.config.seed:
            raise AuditError(
                f"{second.name}: has seed {second.config.seed} like {first.name}; the runs of an "
                f"arm need different seeds"
            )
    return Arm(name, tuple(runs))


def check_comparable(candidate: Arm, baseline: Arm) -> None:
    """Both arms must have the same seeds and, in every regime, the same prompts.

    Raises: AuditError naming what differs.
    """
    if candidate.seeds != baseline.seeds:
        raise AuditError(
            f"seeds are {list(candidate.seeds)} in {candidate.name} and {list(baseline.seeds)} in "
            f"{baseline.name}; expected the same seeds in both arms"
        )
    for regime in evaluations.REGIMES:
        prompts = baseline.prompts(regime)
        for run in (*baseline.runs, *candidate.runs):
            if sorted(run.final(regime)) != prompts:
                raise AuditError(
                    f"{run.name}: answers other prompts than {baseline.runs[0].name} in regime "
                    f"{regime}; expected the same corpus and evaluation in both arms"
                )


def convergence(run: Run, target: float) -> tuple[int, bool]:
    """Characters until the smoothed greedy ROUGE-L reaches `target` for good.

    Returns: characters, and whether it was reached; where it wasn't, the characters of the whole
      run, at which it is censored.
    """
    curve = smoothed(run.curve("rouge_l"))
    reached = None
    for characters, value in reversed(curve):
        if value < target:
            break
        reached = characters
    return (curve[-1][0] if curve else 0, False) if reached is None else (reached, True)


def smoothed(curve: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """Each point as the mean of itself and up to two before it."""
    values = [value for _, value in curve]
    return [
        (characters, math.fsum(values[max(0, i - SMOOTHED + 1) : i + 1]) / min(SMOOTHED, i + 1))
        for i, (characters, _) in enumerate(curve)
    ]


def _sealed_evaluations(folder: RunFolder) -> str | None:
    """The hash of evaluations.jsonl that the log's last event names."""
    files = folder.step_files()
    lines: list[bytes] = []
    if files:
        with files[-1].open("rb") as file:
            file.seek(max(0, files[-1].stat().st_size - TAIL_BYTES))
            lines = file.read().splitlines()
    for line in reversed(lines):
        if line.startswith(b'{"event":"end"'):
            found = orjson.loads(line).get("evaluations")
            return found if isinstance(found, str) else None
    raise AuditError(
        f"{folder.path}: isn't finished (its log has no end); go on with: "
        f"python -m flexattn.train --resume {folder.path}"
    )
