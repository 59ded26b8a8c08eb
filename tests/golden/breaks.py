"""Ways to break a sound log, one each, with what a replay must say about it.

Some leave the seals as they were; those `resealed` write the chain and the head anew, as somebody
with the whole folder could, so that only the numbers and the story can tell.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from flexattn.audit.chain import GENESIS, SEAL_START, make_seal, sha256_hex

FIRST, SECOND = "steps-00000.jsonl", "steps-00001.jsonl"


class Log:
    """A run folder's log in memory, to be broken."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files = {p.name: p.read_bytes().splitlines(True) for p in folder.glob("steps-*")}

    def find(self, wanted: Callable[[dict[str, Any]], bool], file: str = FIRST) -> int:
        """Index of the first line that fits."""
        return next(i for i, x in enumerate(self.files[file]) if wanted(orjson.loads(x)))

    def edit(self, index: int, change: Callable[[dict[str, Any]], Any], file: str = FIRST) -> int:
        """Change the values of a line; returns its number from 1."""
        value = orjson.loads(self.files[file][index])
        value = change(value) or value
        self.files[file][index] = orjson.dumps(value) + b"\n"
        return index + 1

    def save(self) -> None:
        for name, lines in self.files.items():
            (self.folder / name).write_bytes(b"".join(lines))

    def reseal(self) -> None:
        """New seals and a new head for whatever stands there now."""
        n, first, prev, line = 0, 1, GENESIS, b""
        for name in sorted(self.files):
            made: list[bytes] = []
            part: list[bytes] = []
            for line in self.files[name]:
                if not line.startswith(SEAL_START):
                    part.append(line)
                    continue
                line, prev = make_seal(n, first, prev, b"".join(part))
                made += [*part, line]
                n, first, part = n + 1, first + len(part) + 1, []
            self.files[name] = made + part
        head = {"schema": "flexattn.log/2", "seals": n, "head": prev}
        (self.folder / "head.json").write_bytes(orjson.dumps(head))


@dataclass(frozen=True)
class Break:
    """One way to break a log.

    `do` breaks it and returns the number of the line that is then wrong, 0 for none; the first
    finding must have this code, this field and this line, in this file.
    """

    name: str
    do: Callable[[Log], int]
    code: str
    field: str = ""
    resealed: bool = False
    file: str = FIRST


def _hit(x: dict[str, Any]) -> bool:
    return x.get("delta", 0.0) > 0.0


def _found(x: dict[str, Any]) -> bool:
    return x.get("idf", 0.0) > 0.0


def _plain(x: dict[str, Any]) -> bool:
    return x.get("step", 0) == 5 and "note" not in x and "w" not in x


def _put(wanted: Callable[[dict[str, Any]], bool], field: str, value: Any) -> Callable[[Log], int]:
    def do(log: Log) -> int:
        def change(x: dict[str, Any]) -> None:
            x[field] = value(x[field]) if callable(value) else value

        return log.edit(log.find(wanted), change)

    return do


def _more(x: float) -> float:
    return round(x + 1e-9, 9)


def _rewrite_history(log: Log) -> int:
    """Nothing in the line itself tells, only numbers that come later do."""
    log.edit(log.find(lambda x: "w" in x), lambda x: {**x, "w": "鲜"})
    return 0


def _event(kind: str) -> Callable[[dict[str, Any]], bool]:
    return lambda x: x.get("event") == kind


def _swap(log: Log) -> int:
    lines, i = log.files[FIRST], 40
    lines[i], lines[i + 1] = lines[i + 1], lines[i]
    return i + 1


def _drop(log: Log) -> int:
    del log.files[FIRST][40]
    return 41


def _double(log: Log) -> int:
    log.files[FIRST].insert(40, log.files[FIRST][40])
    return 42


def _insert(log: Log) -> int:
    log.files[FIRST].insert(40, b'{"event":"resume","line":1,"ep":0}\n')
    return 41


def _digit(log: Log) -> int:
    i = log.find(_plain)
    line = log.files[FIRST][i]
    at = line.index(b'"reward":') + 12
    log.files[FIRST][i] = line[:at] + (b"1" if line[at:][:1] != b"1" else b"2") + line[at + 1 :]
    return i + 1


def _seal(wanted: bytes, new: bytes) -> Callable[[Log], int]:
    def do(log: Log) -> int:
        i = log.find(_event("seal"))
        line = log.files[FIRST][i]
        at = line.index(wanted) + len(wanted)
        log.files[FIRST][i] = line[:at] + new + line[at + len(new) :]
        return i + 1

    return do


def _drop_seal(log: Log) -> int:
    i = log.find(_event("seal"))
    del log.files[FIRST][i]
    return i + 1


def _rewrite_segment(log: Log) -> int:
    """Change a step and make its own seal right, but no other."""
    lines = log.files[FIRST]
    changed = log.edit(log.find(_plain), lambda x: {**x, "note": "punctuation"})
    i = log.find(_event("seal"))
    lines[i] = make_seal(0, 1, GENESIS, b"".join(lines[:i]))[0]
    return changed


def _rewrite_all(log: Log) -> int:
    log.edit(log.find(lambda x: "Lp" in x), lambda x: None)
    before = (log.folder / "head.json").read_bytes()
    log.edit(log.find(_event("stage")), lambda x: {**x, "actor": "somebody else"})
    log.reseal()
    (log.folder / "head.json").write_bytes(before)
    return len(log.files[SECOND])


def _drop_episode(log: Log) -> int:
    lines = log.files[FIRST]
    i = log.find(lambda x: x.get("event") == "episode" and x["ep"] == 1)
    while orjson.loads(lines[i]).get("ep") == 1:
        del lines[i]
    return log.find(_event("end"), SECOND) + 1


def _double_episode(log: Log) -> int:
    lines = log.files[FIRST]
    i = log.find(lambda x: x.get("event") == "episode" and x["ep"] == 1)
    episode = [x for x in lines if orjson.loads(x).get("ep") == 1]
    lines[i:i] = episode
    return i + len(episode) + 1


def _shorten(log: Log) -> int:
    i = log.find(lambda x: x.get("event") == "episode" and x["ep"] == 1)
    while orjson.loads(log.files[FIRST][i + 1]).get("ep") == 1:
        i += 1
    del log.files[FIRST][i]
    return i


def _lengthen(log: Log) -> int:
    i = log.find(lambda x: x.get("event") == "episode" and x["ep"] == 1)
    while orjson.loads(log.files[FIRST][i + 1]).get("ep") == 1:
        i += 1
    more = orjson.loads(log.files[FIRST][i])
    more["step"] += 1
    log.files[FIRST].insert(i + 1, orjson.dumps(more) + b"\n")
    return i + 2


def _drop_event(kind: str) -> Callable[[Log], int]:
    def do(log: Log) -> int:
        for lines in log.files.values():
            lines[:] = [x for x in lines if orjson.loads(x).get("event") != kind]
        return 1

    return do


def _no_catalog(log: Log) -> int:
    _drop_event("catalog")(log)
    sha = orjson.loads(log.files[FIRST][0])["catalogs"]
    for file in (FIRST, SECOND):
        for i, x in enumerate(log.files[file]):
            if orjson.loads(x).get("catalog", sha[0]) not in sha:
                return i + 1 if file == FIRST else -(i + 1)
    raise AssertionError


def _headless(log: Log) -> int:
    i = log.find(lambda x: x.get("event") == "episode")
    del log.files[FIRST][i]
    return i + 1


def _cut(count: int) -> Callable[[Log], int]:
    def do(log: Log) -> int:
        data = b"".join(log.files[SECOND])[:-count]
        log.files[SECOND] = data.splitlines(True)
        return len(log.files[SECOND]) + data.endswith(b"\n")

    return do


def _unseal(log: Log) -> int:
    log.files[SECOND].pop()
    return len(log.files[SECOND]) + 1


def _cut_first(log: Log) -> int:
    del log.files[FIRST][70:]
    return 71


def _text(old: bytes, new: bytes) -> Callable[[Log], int]:
    """Replace bytes in the line of a plain step."""

    def do(log: Log) -> int:
        i = log.find(_plain)
        assert old in log.files[FIRST][i]
        log.files[FIRST][i] = log.files[FIRST][i].replace(old, new, 1)
        return i + 1

    return do


def _other_head(log: Log) -> int:
    head = orjson.loads((log.folder / "head.json").read_bytes())
    head["head"] = sha256_hex(b"another")
    (log.folder / "head.json").write_bytes(orjson.dumps(head))
    return len(log.files[SECOND])


def _file(name: str, data: bytes | None) -> Callable[[Log], int]:
    def do(log: Log) -> int:
        if data is None:
            (log.folder / name).unlink()
            log.files.pop(name, None)
        else:
            (log.folder / name).write_bytes(data)
        return 0

    return do


def _gone(log: Log) -> int:
    _file(SECOND, None)(log)
    return len(log.files[FIRST])


NUMBERS = ("idf", "sim", "delta", "ler", "len_cost", "base", "chi_soft", "reward")

BREAKS: tuple[Break, ...] = (
    Break("one digit of a reward is changed", _digit, "number", "reward"),
    *[Break(f"{x} is a billionth more", _put(_hit, x, _more), "number", x, True) for x in NUMBERS],
    Break(
        "n_legal is one more", _put(_plain, "n_legal", lambda n: n + 1), "number", "n_legal", True
    ),
    Break("a hit has another term", _put(_hit, "seg", "茶叶末"), "hit", "seg", True),
    Break("a hit is longer", _put(_hit, "len", 7), "hit", "len", True),
    Break("a hit names another entry", _put(_hit, "file", "tiny.json#99"), "hit", "file", True),
    Break("a hit names another catalog", _put(_hit, "file", "../x#10"), "hit", "file", True),
    Break("a hit lies elsewhere", _put(_hit, "pos", "t0-1"), "hit", "pos", True),
    Break(
        "a step names another catalog",
        _put(_plain, "cat", "00000000"),
        "episode-header",
        "cat",
        True,
    ),
    Break("a step names another episode", _put(_plain, "ep", 7), "episode-header", "ep", True),
    Break(
        "a step names another environment", _put(_plain, "env", 9), "episode-header", "env", True
    ),
    Break("a window is no choice", _put(_plain, "Lh", 5), "choice", "Lh", True),
    Break(
        "a cap is another choice", _put(_plain, "Lp", lambda n: 9 - n), "number", "len_cost", True
    ),
    Break("a character is another one", _put(_plain, "a", "绿"), "illegal", "a", True),
    Break("a character is foreign", _put(_plain, "a", "龘"), "illegal", "a", True),
    Break(
        "a note is missing",
        lambda log: log.edit(
            log.find(lambda x: x.get("note") == "end"),
            lambda x: {k: v for k, v in x.items() if k != "note"},
        ),
        "number",
        "note",
        True,
    ),
    Break(
        "a legal choice is called illegal",
        lambda log: log.edit(log.find(_plain), lambda x: {**x, "note": "illegal"}),
        "illegal",
        "note",
        True,
    ),
    Break("what was written is another character", _rewrite_history, "illegal", "a", True),
    Break("a step is misnumbered", _put(_plain, "step", 6), "step-order", "step", True),
    Break("two lines are swapped", _swap, "step-order", "step"),
    Break("a line is dropped", _drop, "step-order", "step"),
    Break("a line is doubled", _double, "step-order", "step"),
    Break("a line is inserted", _insert, "line-inserted"),
    Break("an episode is dropped", _drop_episode, "episode-order", "ep", True, SECOND),
    Break("an episode is doubled", _double_episode, "episode-order", "ep", True),
    Break("an episode stops early", _shorten, "episode-stops", "", True),
    Break("an episode goes on", _lengthen, "episode-runs-on", "", True),
    Break("a header is missing", _headless, "episode-header", "", True),
    Break("a seal's list of hashes is changed", _seal(b'"short":"', b"00000000"), "seal-broken"),
    Break("a seal's own hash is changed", _seal(b',"seal":"', b"00000000"), "seal-broken"),
    Break("a seal is no seal any more", _seal(b'{"event":"se', b"e"), "schema", "event"),
    Break("a seal is dropped", _drop_seal, "seal-missing"),
    Break("a segment is sealed anew", _rewrite_segment, "number", "note"),
    Break("the whole chain is written anew", _rewrite_all, "head-differs", "head", False, SECOND),
    Break("the last line is torn", _cut(40), "torn-tail", "", False, SECOND),
    Break("the last seal is cut off", _cut(10**3), "torn-tail", "", False, SECOND),
    Break("nothing seals the end", _unseal, "unsealed-tail", "", False, SECOND),
    Break("the first file is cut", _cut_first, "line-missing"),
    Break("the last file is gone", _gone, "unfinished"),
    Break("the first file is gone", _file(FIRST, None), "file-missing"),
    Break("the log does not begin with the run", _drop_event("run"), "run-event", "", True),
    Break("a catalog comes from nowhere", _no_catalog, "catalog-unknown", "catalog", True, SECOND),
    Break(
        "the end counts other steps",
        lambda log: log.edit(log.find(_event("end"), SECOND), lambda x: {**x, "steps": 7}, SECOND),
        "totals",
        "steps",
        True,
        SECOND,
    ),
    Break(
        "the run has another corpus",
        _put(_event("run"), "corpus", "0" * 64),
        "run-event",
        "corpus",
        True,
    ),
    Break(
        "a record is unknown",
        _put(_event("episode"), "record", "tea-blue"),
        "record-unknown",
        "record",
        True,
    ),
    Break(
        "a question was never asked",
        _put(_event("episode"), "question", "？"),
        "record-unknown",
        "question",
        True,
    ),
    Break("a slack is another one", _put(_event("episode"), "slack", 9), "number", "slack", True),
    Break("a number is NaN", _text(b'"idf":0.0', b'"idf":NaN'), "not-json", "", True),
    Break("a key stands twice", _text(b'"Lh":', b'"Lh":2,"Lh":'), "not-canonical", "", True),
    Break("a key is unknown", _text(b'"Lh":', b'"hl":2,"Lh":'), "schema", "hl", True),
    Break(
        "a key is spelled as in the sources",
        _text(b'"len_cost":', b'"len_cos":'),
        "schema",
        "len_cos",
        True,
    ),
    Break("a number has no point", _text(b'"idf":0.0', b'"idf":0'), "schema", "idf", True),
    Break("a line has a blank in it", _text(b'"idf":', b'"idf": '), "not-canonical", "", True),
    Break("a line is no UTF-8", _text(b'"pos":"-"', b'"pos":"\xff"'), "not-json", "", True),
    Break("head.json has another hash", _other_head, "head-differs", "head", False, SECOND),
    Break("head.json is missing", _file("head.json", None), "head-missing", "", False, "head.json"),
    Break("head.json is no JSON", _file("head.json", b"{"), "head-bad", "", False, "head.json"),
    Break(
        "the evaluations were changed",
        _file("evaluations.jsonl", b"{}\n"),
        "evaluations",
        "",
        False,
        "evaluations.jsonl",
    ),
)

GENERATION_BREAKS: tuple[Break, ...] = (
    Break("a weight is a billionth more", _put(_found, "idf", _more), "number", "idf", True),
    Break("a hit is shorter", _put(_found, "len", 1), "hit", "len", True),
    Break("a hit is left out", _put(_found, "seg", "-"), "hit", "seg", True),
    Break("a mask is wider", _put(_plain, "n_legal", lambda n: n + 1), "number", "n_legal", True),
    Break("a probability is above one", _put(_plain, "p", 1.5), "number", "p", True),
    Break("a character is foreign", _put(_plain, "a", "龘"), "illegal", "a", True),
    Break("a reward stands there", _text(b'"p":', b'"reward":0.5,"p":'), "schema", "reward", True),
    Break("an answer stops early", _shorten, "episode-stops", "", True),
    Break("a record is named", _put(_event("episode"), "record", "tea"), "number", "record", True),
    Break("a digit is changed", _put(_plain, "p", lambda p: round(p / 2, 9)), "line-changed"),
)
