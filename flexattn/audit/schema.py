"""A log line is one JSON object: a step, or an event. This file says which fields each one has.

The keys of a line stand in the order given here, and no other key may stand in it. Numbers are
float64 rounded to 9 decimals by `rounded`, the one place where a logged number is cut.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
import numpy.typing as npt

SCHEMA = "flexattn.log/2"
FORMS = ("flexattn.log/1", SCHEMA)  # what is read, and gone on with
DECIMALS = 9

# What a reader takes in at most, so that a crafted log cannot fill the memory.
MAX_LINE_BYTES = 1 << 20
MAX_SEGMENT_BYTES = 1 << 26
MAX_SEGMENT_LINES = MAX_LINE_BYTES // 8  # a seal's line lists 8 digits for each
MAX_INTEGER = 2**53 - 1

StepColumns = Mapping[str, list[Any]]


@overload
def rounded(values: float) -> float: ...
@overload
def rounded(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]: ...
def rounded(values: Any) -> Any:
    """Float64 values cut to 9 decimals, half to even; a negative zero becomes zero.

    Args:
      values: a float, or an array of any shape.

    Returns: the same, rounded: a float for a float, an array for an array.
    """
    cut = np.round(np.asarray(values, dtype=np.float64), DECIMALS) + 0.0
    return cut if cut.ndim else float(cut)


@dataclass(frozen=True)
class Field:
    """One key of a line: its JSON type, its unit and what it means.

    `kind` is one of `int`, `float`, `str`, `text` (may be empty), `hash` (64 hex digits), `short`
    (8 hex digits), `shorts` (8 for each line), `hashes` (a list of `hash`), `bans` (pairs of a
    step and a `hash`), `chars` (a list of characters, "" for the end) and `id` (a string, an
    integer or null).
    """

    name: str
    kind: str
    unit: str
    text: str
    optional: bool = False


def _f(name: str, kind: str, unit: str, text: str, optional: bool = False) -> Field:
    return Field(name, kind, unit, text, optional)


_STEP = _f("step", "int", "steps", "number of the step in its episode, from 1")
_LH = _f("Lh", "int", "characters", "how much written history the student looked at")
_LP = _f("Lp", "int", "characters", "longest catalog term that it could be credited for")
_A = _f("a", "text", "character", "the character it chose; empty at the end of the answer")
_SEG = _f("seg", "str", "text", "the term that this step hit, - where none was")
_LEN = _f("len", "int", "characters", "length of the term, 0 where none was hit")
_IDF = _f(
    "idf",
    "float",
    "weight in [0, 1]",
    "weight of the term: idf x Zipf weight x two-character factor",
)
_EP = _f("ep", "int", "episodes", "number of the episode in its run, from 0")
_ENV = _f("env", "int", "index", "the environment that ran it, from 0")
_PLACE = (
    _f("file", "str", "file#id", "catalog file and entry of the term, - where none was hit"),
    _f(
        "pos",
        "str",
        "steps",
        "t0-t1, steps of the term counted from 0, both ends in it; - where none was hit",
    ),
    _f("cat", "short", "hash", "first 8 hex digits of the SHA-256 of the catalog in force"),
    _EP,
    _ENV,
    _f(
        "n_legal",
        "int",
        "characters",
        "how many actions the mask left open, the end of the answer among them",
    ),
)
_W = _f(
    "w", "str", "character", "what was written instead of `a`, where that differs", optional=True
)
_NOTE = _f("note", "str", "word", "punctuation, period, illegal or end", optional=True)
_DECIDED, _HIT = (_STEP, _LH, _LP, _A), (_SEG, _LEN, _IDF)

TRAIN_FIELDS: tuple[Field, ...] = (
    *_DECIDED,
    *_HIT,
    _f("sim", "float", "similarity in [0, 1]", "semantic gate at the hit, 0 where none was"),
    _f("delta", "float", "reward", "lexical gain of the hit before the repeat discount"),
    _f("ler", "float", "reward", "lexical gain that was credited"),
    _f("len_cost", "float", "reward", "cost of Lh and Lp"),
    _f("base", "float", "reward", "LCS progress minus the penalties"),
    _f("chi_soft", "float", "match in [0, 1]", "soft match with the teacher's character"),
    _f("reward", "float", "reward", "base + eta1 chi_soft + eta2 ler - len_cost"),
    *_PLACE,
    _W,
    _NOTE,
)
GENERATION_FIELDS: tuple[Field, ...] = (
    *_DECIDED,
    *_HIT,
    *_PLACE,
    _f("p", "float", "probability", "probability of `a` under the student, over the legal actions"),
    _f(
        "kept",
        "float",
        "probability",
        "mass that the strategy kept before it renormalised",
        optional=True,
    ),
    _f(
        "among",
        "chars",
        "characters",
        "what the strategy kept, likeliest first, an empty text for the end of the answer",
        optional=True,
    ),
    _W,
    _NOTE,
)
NOTES = ("punctuation", "period", "illegal", "end")

_COUNTED = (
    _f("n", "int", "seals", "number of the seal, from 0"),
    _f(
        "first",
        "int",
        "lines",
        "number of the segment's first line in the whole log, from 1, seals counted",
    ),
    _f("lines", "int", "lines", "how many lines it seals"),
)
_SHORT = _f(
    "short",
    "shorts",
    "hash",
    "first 8 hex digits of each line's SHA-256, newline in it, run together",
)
_SEGMENT = _f("segment", "hash", "hash", "SHA-256 of the segment's bytes")
_CHAINED = (
    _f("prev", "hash", "hash", "hash of the seal before, zeros for the first"),
    _f(
        "seal",
        "hash",
        "hash",
        "hash of this seal: SHA-256 of this line's bytes before this field",
    ),
)
SEAL_OF_LOG_1: tuple[Field, ...] = (*_COUNTED, _SHORT, _SEGMENT, *_CHAINED)

EVENTS: dict[str, tuple[Field, ...]] = {
    "run": (
        _f("schema", "str", "name", "form of the log: " + " or ".join(FORMS)),
        _f("kind", "str", "word", "train, generate or stages"),
        _f(
            "config",
            "hash",
            "hash",
            "SHA-256 of the settings as canonical JSON, without the section `run`",
        ),
        _f("manifest", "hash", "hash", "SHA-256 of manifest.json"),
        _f("corpus", "hash", "hash", "SHA-256 of the corpus file"),
        _f("catalogs", "hashes", "hash", "SHA-256 of each catalog in force at the start"),
    ),
    "episode": (
        _EP,
        _ENV,
        _f("record", "id", "id", "record of the corpus, null where a generation has none"),
        _f("question", "text", "text", "the question as it was asked"),
        _f("catalog", "hash", "hash", "SHA-256 of the catalog in force"),
        _f("split", "id", "word", "train or heldout, null where a generation has no record"),
        _f("start", "int", "characters", "teacher pointer at the first step"),
        _f("align", "str", "word", "position or resync"),
        _f(
            "slack",
            "int",
            "characters",
            "how many characters past the teacher's length end the episode",
        ),
        _f("limit", "int", "characters", "most characters of a generated answer", optional=True),
        _f("request", "text", "name", "the asker's name for the question", optional=True),
        _f(
            "rank",
            "int",
            "answers",
            "place among the answers to the same request; 0 is the one that was given",
            optional=True,
        ),
        _f("score", "float", "score", "what the rank goes by, larger first", optional=True),
        _f(
            "bans",
            "bans",
            "step, hash",
            "pairs: from which step on the bans of which other catalog held too",
            optional=True,
        ),
    ),
    "catalog": (
        _f("catalog", "hash", "hash", "SHA-256 of the catalog that episodes may use from here on"),
        _f("file", "str", "name", "its file name, as it stands in `file` of a step"),
        _f("version", "text", "version", "its version"),
        _f("after", "int", "updates", "training steps done when it came", optional=True),
        _f("ep", "int", "episodes", "number of the episode that ended next", optional=True),
        _f(
            "moment",
            "int",
            "steps",
            "batched steps that the rollout had taken then, 0 between two rollouts",
            optional=True,
        ),
    ),
    "stage": (
        _f("stage", "str", "word", "A, B or C"),
        _f("verdict", "str", "word", "start, promote, hold or rollback"),
        _f(
            "evidence",
            "text",
            "hash",
            "SHA-256 of the report that decided it, empty where none did",
            optional=True,
        ),
        _f("actor", "text", "name", "who or what decided", optional=True),
        _f("share", "float", "share", "requests that the newer stage gets, 0..1", optional=True),
    ),
    "resume": (
        _f(
            "line",
            "int",
            "lines",
            "first line of the log, from 1, that the lines after this one supersede",
        ),
        _f("ep", "int", "episodes", "the episode that the resumed run begins with"),
    ),
    "seal": (
        *_COUNTED,
        _SEGMENT,
        _f("tree", "hash", "hash", "root of the RFC 6962 tree over the SHA-256 of each line"),
        _f("list", "hash", "hash", "SHA-256 of the short hashes, 4 bytes each"),
        *_CHAINED,
        _SHORT,
    ),
    "end": (
        _f(
            "steps",
            "int",
            "steps",
            "step lines that the run made, those that sampling left out among them",
        ),
        _f("episodes", "int", "episodes", "episodes that the run made"),
        _f(
            "evaluations", "id", "hash", "SHA-256 of evaluations.jsonl, null where the run has none"
        ),
    ),
}

_JSON_TYPES: dict[str, dict[str, Any]] = {
    "int": {"type": "integer", "minimum": 0, "maximum": MAX_INTEGER},
    "float": {"type": "number"},
    "str": {"type": "string", "minLength": 1},
    "text": {"type": "string"},
    "hash": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
    "short": {"type": "string", "pattern": "^[0-9a-f]{8}$"},
    "shorts": {"type": "string", "pattern": "^([0-9a-f]{8})*$"},
    "hashes": {"type": "array", "items": {"type": "string", "pattern": "^[0-9a-f]{64}$"}},
    "id": {"type": ["string", "integer", "null"]},
    "chars": {"type": "array", "items": {"type": "string", "maxLength": 1}, "uniqueItems": True},
    "bans": {
        "type": "array",
        "minItems": 1,
        "items": {
            "type": "array",
            "prefixItems": [
                {"type": "integer", "minimum": 1, "maximum": MAX_INTEGER},
                {"type": "string", "pattern": "^[0-9a-f]{64}$"},
            ],
            "minItems": 2,
            "maxItems": 2,
        },
    },
}


def is_hex(value: object, digits: int) -> bool:
    """Whether `value` is a text of `digits` lower-case hex digits."""
    if not isinstance(value, str) or len(value) != digits:
        return False
    try:
        return bytes.fromhex(value).hex() == value
    except ValueError:
        return False


def _are_chars(value: object) -> bool:
    if not isinstance(value, list) or not all(isinstance(c, str) and len(c) < 2 for c in value):
        return False
    return len(set(value)) == len(value)


def _are_bans(value: object) -> bool:
    if not isinstance(value, list) or not value:
        return False
    if not all(isinstance(pair, list) and len(pair) == 2 for pair in value):
        return False
    steps = [step for step, _ in value]
    if not all(type(step) is int and 1 <= step <= MAX_INTEGER for step in steps):
        return False
    return steps == sorted(steps) and all(is_hex(sha, 64) for _, sha in value)


# kind -> (does a value fit it, what was expected)
_KINDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "int": (
        lambda v: type(v) is int and 0 <= v <= MAX_INTEGER,
        "a whole number from 0 to 2**53 - 1",
    ),
    "float": (lambda v: type(v) is float and v - v == 0.0, "a number with a decimal point"),
    "str": (lambda v: isinstance(v, str) and v != "", "a text that is not empty"),
    "text": (lambda v: isinstance(v, str), "a text"),
    "hash": (lambda v: is_hex(v, 64), "64 hex digits"),
    "short": (lambda v: is_hex(v, 8), "8 hex digits"),
    "shorts": (
        lambda v: isinstance(v, str) and len(v) % 8 == 0 and is_hex(v, len(v)),
        "8 hex digits for each line",
    ),
    "hashes": (
        lambda v: isinstance(v, list) and all(is_hex(x, 64) for x in v),
        "a list of hashes of 64 hex digits",
    ),
    "id": (
        lambda v: v is None or isinstance(v, str) or type(v) is int,
        "a text, a whole number or null",
    ),
    "chars": (_are_chars, "a list of single characters, none twice"),
    "bans": (_are_bans, "pairs of a step, none before the other, and 64 hex digits"),
}


def fields_of(line: Mapping[str, Any]) -> tuple[Field, ...] | None:
    """The fields of a parsed line, `event` not among them; None for an event of no known kind."""
    if line.get("event") == "seal" and "tree" not in line:
        return SEAL_OF_LOG_1
    if "event" in line:
        return EVENTS.get(line["event"]) if isinstance(line["event"], str) else None
    return GENERATION_FIELDS if "p" in line else TRAIN_FIELDS


def defect(line: Mapping[str, Any]) -> tuple[str, str, str] | None:
    """The first thing in which a parsed line differs from its schema.

    Returns: (field, found, expected), or None for a line that keeps to it.
    """
    fields = fields_of(line)
    if fields is None:
        return "event", repr(line["event"])[:80], "one of " + ", ".join(EVENTS)
    keys = iter(line)
    if "event" in line and next(keys) != "event":
        return "event", "the key out of its place", "event as the first key"
    key = next(keys, None)
    for field in fields:
        if key != field.name:
            if field.optional and field.name not in line:
                continue
            return _key_defect(line, fields, field)
        fits, expected = _KINDS[field.kind]
        if not fits(line[key]):
            return key, repr(line[key])[:80], expected
        key = next(keys, None)
    if key is not None:
        return _key_defect(line, fields, fields[-1])
    if "event" not in line and len(line["a"]) > 1:
        return "a", repr(line["a"])[:80], "one character, or none at the end"
    if "note" in line and line["note"] not in NOTES:
        return "note", repr(line["note"])[:80], "one of " + ", ".join(NOTES)
    return None


def _key_defect(
    line: Mapping[str, Any], fields: tuple[Field, ...], wanted: Field
) -> tuple[str, str, str]:
    """Which key is unknown, missing or out of its place, `wanted` being the one not found."""
    names = [f.name for f in fields]
    for name in line:
        if name != "event" and name not in names:
            return name, "a key that no such line has", "only " + ", ".join(names)
    for field in fields:
        if field.name not in line and not field.optional:
            return field.name, "nothing", "the key in every such line"
    return wanted.name, "the key out of its place", "the order " + ", ".join(names)


def json_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of one line of a log."""

    def line(fields: tuple[Field, ...], event: str | None) -> dict[str, Any]:
        keys: dict[str, Any] = {"event": {"const": event}} if event else {}
        for f in fields:
            keys[f.name] = {**_JSON_TYPES[f.kind], "description": f"{f.text} [{f.unit}]"}
            if f.name == "note":
                keys[f.name] = {"enum": list(NOTES), "description": f"{f.text} [{f.unit}]"}
            if f.name in ("a", "w"):
                keys[f.name]["maxLength"] = 1
        required = [name for name in keys if not any(f.optional for f in fields if f.name == name)]
        return {
            "type": "object",
            "properties": keys,
            "required": required,
            "additionalProperties": False,
        }

    kinds = {
        "step of a training": line(TRAIN_FIELDS, None),
        "step of a generation": line(GENERATION_FIELDS, None),
    }
    kinds |= {f"event {name}": line(fields, name) for name, fields in EVENTS.items()}
    kinds[f"event seal of {FORMS[0]}"] = line(SEAL_OF_LOG_1, "seal")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": SCHEMA,
        "oneOf": [{"title": title, **body} for title, body in kinds.items()],
    }
