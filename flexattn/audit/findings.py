"""A finding says where a log is not what it should be: code, layer, place, both values.

Layers, from the bytes up: parse, schema, chain, catalog, number, trajectory. A log is sound where
no layer has a finding.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

CODES: dict[str, tuple[str, str]] = {
    # code: (layer, what it means)
    "not-json": ("parse", "the line is no JSON object"),
    "not-canonical": ("parse", "the line is JSON that this writer would have written otherwise"),
    "line-too-long": ("parse", "the line is longer than a log line may be; reading stops"),
    "segment-too-long": ("parse", "no seal within 64 MiB or 131,072 lines; reading stops"),
    "bad-archive": ("parse", "the compressed file can't be unpacked, or unpacks to too much"),
    "schema": ("schema", "a key or a value is not what the schema says"),
    "line-changed": ("chain", "the line was changed after it was sealed"),
    "line-missing": ("chain", "lines that were sealed are missing here"),
    "line-inserted": ("chain", "lines stand here that were not sealed"),
    "line-order": ("chain", "sealed lines stand in another order"),
    "segment-hash": ("chain", "short hashes agree but the segment's hash does not"),
    "segment-tree": ("chain", "the lines are those sealed, their Merkle root is another"),
    "seal-broken": ("chain", "the seal itself was changed"),
    "seal-missing": ("chain", "a seal is missing or can't be read as one"),
    "seal-order": ("chain", "a seal stands where another one belongs"),
    "seal-rewritten": ("chain", "the seal is not the one that the next seal chains to"),
    "file-missing": ("chain", "a step file is missing"),
    "torn-tail": ("chain", "the last line is not whole"),
    "unsealed-tail": ("chain", "lines after the last seal, which nothing vouches for"),
    "unfinished": ("chain", "the log has no end: the run was stopped, or its tail was cut"),
    "head-lost": ("chain", "head.json names a seal that the log no longer has"),
    "head-differs": ("chain", "head.json, or the head kept elsewhere, names another hash"),
    "head-missing": ("chain", "a finished run without head.json"),
    "head-bad": ("chain", "head.json is no head"),
    "run-event": ("trajectory", "the log does not begin with the run's own hashes"),
    "catalog-unknown": ("catalog", "an episode names a catalog that the run does not have"),
    "record-unknown": ("catalog", "an episode names a record that the corpus does not have"),
    "number": ("number", "a logged value is not what corpus, catalog and actions give"),
    "hit": ("number", "a logged hit is not what corpus, catalog and actions give"),
    "illegal": ("trajectory", "the mask did not allow the character"),
    "choice": ("trajectory", "Lh or Lp is none of the configured choices"),
    "step-order": ("trajectory", "steps do not count 1, 2, 3 .. within their episode"),
    "episode-order": ("trajectory", "an episode number comes twice or is missing"),
    "episode-header": ("trajectory", "a step does not belong to the episode it stands in"),
    "episode-stops": ("trajectory", "an episode stops before its end"),
    "episode-runs-on": ("trajectory", "an episode goes on past its end"),
    "evaluations": ("trajectory", "evaluations.jsonl is not the one that `end` names"),
    "older-spelling": ("schema", "a key is spelled as in logs of the older form"),
    "digits": ("number", "a value of the older form was cut where others are rounded"),
    "length": ("number", "a logged length is not the term's"),
    "over-cap": ("trajectory", "a hit is longer than its cap"),
    "cost": ("number", "the length cost is missing or lacks a part"),
    "blank": ("trajectory", "a blank stands where the text has a mark"),
    "totals": ("trajectory", "steps or episodes in `end` are not those of the log"),
}


MAX_FINDINGS = 1000  # kept of one verification; the rest is counted


@dataclass(frozen=True)
class Finding:
    """One difference; `line` counts from 1 in `file`, `logged` and `derived` are values."""

    code: str
    file: str
    line: int
    text: str
    field: str = ""
    logged: Any = None
    derived: Any = None
    sound: str = ""

    @property
    def layer(self) -> str:
        """The layer that the code belongs to."""
        return CODES[self.code][0]

    def with_sound(self, sound: str) -> Finding:
        """The same, saying what is still sound."""
        return replace(self, sound=sound)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"code": self.code, "layer": self.layer, **asdict(self)}

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else self.file
        return f"{where}: {self.text}" + (f"; {self.sound}" if self.sound else "")
