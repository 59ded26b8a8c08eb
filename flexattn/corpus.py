"""A corpus is a file of recorded teacher answers, one record a line; terms decide its split.

A term is held out where SHA-256(term) mod 10 = 0 unless the record says otherwise, so that adding
records never moves another one. Of two or more questions the last is the held-out phrasing. A term
may be defined more than once, never twice in the same words. Text is brought to NFC when read.
Everything counted from texts is counted over `Corpus.train` alone.
"""

from __future__ import annotations

import hashlib
import math
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from flexattn import jsontext
from flexattn.errors import CorpusError

HELDOUT_MODULUS = 10
KEYS = (
    "id", "term", "aliases", "questions", "question", "answer", "logprobs", "split", "kind",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Record:
    """One teacher answer.

    Attributes:
      id: unique in its file.
      term: what the answer defines; it decides the split.
      aliases: other names of the term.
      questions: ways of asking, at least one.
      answer: the teacher's answer y, at least one character.
      split: "train" or "heldout".
      logprobs: one mapping character -> natural log of its probability for each character of the
        answer, or None where the file has none.
      kind: free word, such as "drug".
    """

    id: str
    term: str
    aliases: tuple[str, ...]
    questions: tuple[str, ...]
    answer: str
    split: str
    logprobs: tuple[dict[str, float], ...] | None = None
    kind: str = ""

    @property
    def heldout_question(self) -> str | None:
        """The phrasing that training never sees; None where there is only one question."""
        return self.questions[-1] if len(self.questions) > 1 else None

    @property
    def train_questions(self) -> tuple[str, ...]:
        """The phrasings that training may use."""
        return self.questions[:-1] if len(self.questions) > 1 else self.questions


@dataclass(frozen=True)
class Corpus:
    """All records of one file, in its order.

    Attributes:
      records: every record.
      path: the file as it was named.
      sha256: hash of the file's bytes, 64 hex digits.
    """

    records: tuple[Record, ...]
    path: str
    sha256: str

    @cached_property
    def train(self) -> tuple[Record, ...]:
        """Records that training and every count may use."""
        return tuple(record for record in self.records if record.split == "train")

    @cached_property
    def heldout(self) -> tuple[Record, ...]:
        """Records whose terms training never sees."""
        return tuple(record for record in self.records if record.split == "heldout")


def split_of(term: str) -> str:
    """Held out where SHA-256 of the term's UTF-8 is 0 modulo 10, else train."""
    digest = hashlib.sha256(term.encode("utf-8")).hexdigest()
    return "heldout" if int(digest, 16) % HELDOUT_MODULUS == 0 else "train"


def load_corpus(path: str | Path, records: int = 0, *, heldout: bool = False) -> Corpus:
    """Read and check a JSONL file of teacher answers; `records` and `heldout` as in `evenly`.

    Raises: CorpusError, one line with file, line and what was expected.
    """
    data = jsontext.read_bytes(path, CorpusError)
    return parse_corpus(evenly(data, records, str(path), heldout=heldout), str(path))


def evenly(data: bytes, records: int, where: str, *, heldout: bool = False) -> bytes:
    """`records` lines of a corpus file, evenly spread over it; every line where 0.

    Taking as many lines as there are changes nothing, so a run folder's copy can be cut again.
    With `heldout` every other held-out answer of the file stays too: a small training is asked
    about as many unseen terms as a whole one.

    Raises: CorpusError where the file has fewer.
    """
    if not records:
        return data
    lines = [line for line in data.removeprefix(b"\xef\xbb\xbf").split(b"\n") if line.strip()]
    if records > len(lines):
        raise CorpusError(
            f"{where}: has {len(lines)} records, corpus.records asks for {records}; lower it, or "
            f"set it to 0 for all"
        )
    kept = {n * len(lines) // records for n in range(records)}
    if heldout:
        for n, line in enumerate(lines):
            value = jsontext.parse(line, where, CorpusError, n + 1)
            if parse_record(value, f"{where}:{n + 1}").split == "heldout":
                kept.add(n)
    return b"".join(lines[n] + b"\n" for n in sorted(kept))


def parse_corpus(data: bytes, where: str) -> Corpus:
    """Check the bytes of a corpus; `where` stands in front of every error."""
    records: list[Record] = []
    ids: dict[str, int] = {}
    definitions: dict[tuple[str, str], int] = {}
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        if not line.strip():
            continue
        record = parse_record(jsontext.parse(line, where, CorpusError, number), f"{where}:{number}")
        if ids.setdefault(record.id, number) != number:
            raise CorpusError(
                f"{where}:{number}: id {jsontext.clip(record.id)} is a duplicate, it stands "
                f"already on line {ids[record.id]}; expected every id once"
            )
        definition = (record.term, record.answer)
        if definitions.setdefault(definition, number) != number:
            raise CorpusError(
                f"{where}:{number}: term {jsontext.clip(record.term)} is a duplicate, it has the "
                f"same answer on line {definitions[definition]}; keep one"
            )
        records.append(record)
    if not records:
        raise CorpusError(f"{where}: is empty, it holds no record; expected one JSON object a line")
    return Corpus(tuple(records), where, hashlib.sha256(data).hexdigest())


def parse_record(value: object, where: str) -> Record:
    """Check one record.

    Args:
      value: the parsed JSON of its line.
      where: file and line, in front of every error.

    Raises: CorpusError.
    """
    if not isinstance(value, dict):
        raise CorpusError(f"{where}: is a JSON {type(value).__name__}, expected an object")
    for key in value:
        if key not in KEYS:
            raise CorpusError(f"{where}: {jsontext.unknown_key(key, KEYS)}")
    identity = _text(value, "id", where)
    term = _text(value, "term", where)
    answer = _text(value, "answer", where)
    questions = _questions(value, where)
    aliases = _texts(value.get("aliases", []), "aliases", where)
    split = value.get("split")
    if split is None:
        split = split_of(term)
    elif split not in ("train", "heldout"):
        raise CorpusError(f"{where}: split is {jsontext.clip(split)}, expected train or heldout")
    logprobs = _logprobs(value.get("logprobs"), answer, where)
    kind = _text(value, "kind", where) if value.get("kind") is not None else ""
    return Record(identity, term, aliases, questions, answer, split, logprobs, kind)


def _text(value: dict[str, Any], key: str, where: str) -> str:
    if key not in value:
        raise CorpusError(f"{where}: {key} is missing, expected a text; add it")
    return _checked(value[key], key, where)


def _checked(text: object, what: str, where: str) -> str:
    if not isinstance(text, str):
        raise CorpusError(f"{where}: {what} is {jsontext.clip(text)}, expected a text")
    if not text.strip():
        raise CorpusError(f"{where}: {what} is empty, expected a text")
    return unicodedata.normalize("NFC", text)


def _texts(value: object, what: str, where: str) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise CorpusError(f"{where}: {what} is {jsontext.clip(value)}, expected a list of texts")
    texts = tuple(_checked(text, what, where) for text in value)
    if len(set(texts)) < len(texts):
        twice = next(text for text in texts if texts.count(text) > 1)
        raise CorpusError(f"{where}: {what} holds {jsontext.clip(twice)} twice; keep one")
    return texts


def _questions(value: dict[str, Any], where: str) -> tuple[str, ...]:
    if "questions" in value and "question" in value:
        raise CorpusError(f"{where}: has both question and questions, expected one of them")
    if "question" in value:
        return (_text(value, "question", where),)
    if "questions" not in value:
        raise CorpusError(f"{where}: questions is missing, expected a list of texts; add it")
    questions = _texts(value["questions"], "questions", where)
    if not questions:
        raise CorpusError(f"{where}: questions is empty, expected at least one")
    return questions


def _logprobs(value: object, answer: str, where: str) -> tuple[dict[str, float], ...] | None:
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != len(answer):
        found = len(value) if isinstance(value, list) else jsontext.clip(value)
        raise CorpusError(
            f"{where}: logprobs has {found}, expected a list of {len(answer)} objects, one for "
            f"each character of the answer"
        )
    return tuple(_distribution(item, n, where) for n, item in enumerate(value, 1))


def _distribution(item: object, number: int, where: str) -> dict[str, float]:
    pairs: Iterable[tuple[str, Any]] = item.items() if isinstance(item, dict) else [("", None)]
    checked: dict[str, float] = {}
    for char, value in pairs:
        number_ok = isinstance(value, int | float) and not isinstance(value, bool)
        if len(char) != 1 or not number_ok or not math.isfinite(value) or value > 1e-6:
            raise CorpusError(
                f"{where}: logprobs {number} is {jsontext.clip(item)}, expected an object of "
                f'character: log probability, such as {{"磷": -0.01}}'
            )
        checked[char] = float(value)
    return checked
