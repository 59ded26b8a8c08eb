"""What makes a JSON value no catalog: every defect as one line, in the file's order.

A term has 2 to 32 characters, NFC, no punctuation; ids and terms are unique; df is at most
`documents`; every length stands in `lengths`. Sound entries are recognised column by column, so
that a million of them take about a second; only where that fails is each one looked at.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterator, Mapping
from itertools import repeat
from operator import itemgetter
from typing import Any, TypeGuard

from flexattn import jsontext

SCHEMA = "flexattn.catalog/1"
MIN_TERM_CHARS, MAX_TERM_CHARS = 2, 32
MAX_BANNED_CHARS = 64
MAX_ID = 2**31 - 1
MAX_ZIPF = 10.0
HEAD_KEYS = (
    "schema", "name", "version", "language", "lengths", "documents", "entries", "banned",
)  # fmt: skip
ENTRY_KEYS = ("id", "term", "df", "zipf", "kind", "source")
REQUIRED_ENTRY_KEYS = ("id", "term", "df", "zipf")

# the marks of the step arithmetic: they never hit, and no bigram with one of them is judged
PUNCTUATION = frozenset("，。、；：？！,.;:?!（）()《》〈〉「」『』【】[]{}“”‘’\"'…—-· \u3000")
# marks by Unicode that stand inside real terms, such as 5%葡萄糖
_MARKS_IN_TERMS = frozenset("%&*/@#‰％")


def find_defects(obj: object) -> Iterator[str]:
    """Everything that makes `obj` no catalog, one line each, in the file's order."""
    if not isinstance(obj, dict):
        yield f"holds a JSON {type(obj).__name__}, expected an object with entries"
        return
    yield from _head_defects(obj)
    lengths = obj.get("lengths")
    documents = obj.get("documents")
    entries = obj.get("entries")
    if isinstance(entries, list):
        yield from _entries_defects(
            entries,
            set(lengths) if _is_lengths(lengths) else None,
            documents if _is_count(documents) else None,
        )
    banned = obj.get("banned")
    if isinstance(banned, list):
        yield from _banned_defects(banned)


def _head_defects(obj: Mapping[str, Any]) -> Iterator[str]:
    for key in obj:
        if key not in HEAD_KEYS:
            yield jsontext.unknown_key(key, HEAD_KEYS)
    for key in HEAD_KEYS:
        if key not in obj:
            yield f"{key} is missing; add it (catalogs/README.md shows every key)"
    if "schema" in obj and obj["schema"] != SCHEMA:
        yield f"schema is {jsontext.clip(obj['schema'])}, expected {SCHEMA}"
    for key in ("name", "version", "language"):
        if key in obj and not _is_word(obj[key]):
            yield f"{key} is {jsontext.clip(obj[key])}, expected a text of 1 to 200 characters"
    if "documents" in obj and not _is_count(obj["documents"]):
        yield f"documents is {jsontext.clip(obj['documents'])}, expected a count of 0 or more"
    if "lengths" in obj and not _is_lengths(obj["lengths"]):
        yield (
            f"lengths is {jsontext.clip(obj['lengths'])}, expected increasing numbers from "
            f"{MIN_TERM_CHARS} to {MAX_TERM_CHARS}; single characters earn nothing"
        )
    for key in ("entries", "banned"):
        if key in obj and not isinstance(obj[key], list):
            yield f"{key} is {jsontext.clip(obj[key])}, expected a list"
    if obj.get("entries") == []:
        yield "entries is empty, expected at least one term"


def _entries_defects(
    entries: list[Any], lengths: set[int] | None, documents: int | None
) -> Iterator[str]:
    if _all_sound(entries, lengths, documents):
        return
    ids: dict[int, int] = {}
    terms: dict[str, int] = {}
    for position, raw in enumerate(entries):
        if not isinstance(raw, dict):
            yield f"entry at position {position} is {jsontext.clip(raw)}, expected an object"
            continue
        where = _entry_name(raw, position)
        for key in raw:
            if key not in ENTRY_KEYS:
                yield f"{where}: {jsontext.unknown_key(key, ENTRY_KEYS)}"
        for key in REQUIRED_ENTRY_KEYS:
            if key not in raw:
                yield f"{where}: {key} is missing; add it"
        yield from _number_defects(raw, where, documents)
        for key in ("kind", "source"):
            if key in raw and not _is_word(raw[key]):
                yield f"{where}: {key} is {jsontext.clip(raw[key])}, expected a text"
        identity, term = raw.get("id"), raw.get("term")
        if _is_count(identity):
            if identity in ids:
                yield (
                    f"{where}: id {identity} is a duplicate, it stands already at position "
                    f"{ids[identity]}; expected each id once"
                )
            ids.setdefault(identity, position)
        if "term" in raw:
            defect = term_defect(term)
            if defect:
                yield f"{where} {defect}"
            elif lengths is not None and isinstance(term, str) and len(term) not in lengths:
                yield (
                    f"{where} has {len(term)} characters, but lengths is {sorted(lengths)}; "
                    f"add {len(term)} to lengths"
                )
            if isinstance(term, str) and terms.setdefault(term, position) != position:
                yield (
                    f"{where} is a duplicate, it stands already at position {terms[term]}; "
                    f"expected each term once"
                )


def _all_sound(entries: list[Any], lengths: set[int] | None, documents: int | None) -> bool:
    """Whether no entry has a defect; False also where that can't be told in columns."""
    if lengths is None or documents is None or not entries or set(map(type, entries)) != {dict}:
        return False
    for keys in set(map(tuple, entries)):
        if not set(REQUIRED_ENTRY_KEYS) <= set(keys) <= set(ENTRY_KEYS):
            return False
    ids, terms, dfs, zipfs = (list(map(itemgetter(key), entries)) for key in REQUIRED_ENTRY_KEYS)
    if set(map(type, ids)) != {int} or min(ids) < 0 or max(ids) > MAX_ID:
        return False
    if set(map(type, dfs)) != {int} or min(dfs) < 0 or max(dfs) > documents:
        return False
    if set(map(type, terms)) != {str} or not set(map(len, terms)) <= lengths:
        return False
    if len(set(ids)) < len(ids) or len(set(terms)) < len(terms):
        return False
    if not set(map(type, zipfs)) <= {type(None), int, float}:
        return False
    if not all(zipf is None or _is_zipf(zipf) for zipf in set(zipfs)):
        return False
    for key in ("kind", "source"):
        texts = list(map(dict.get, entries, repeat(key), repeat("-")))
        if set(map(type, texts)) != {str} or not all(map(_is_word, set(texts))):
            return False
    joined = "\n".join(terms)
    for char in set(joined) - {"\n"}:
        if _is_invisible(char) or (is_mark(char) and char not in _MARKS_IN_TERMS):
            return False
    return joined.count("\n") == len(terms) - 1 and unicodedata.is_normalized("NFC", joined)


def _entry_name(raw: Mapping[str, Any], position: int) -> str:
    identity, term = raw.get("id"), raw.get("term")
    name = f"entry {identity}" if _is_count(identity) else f"entry at position {position}"
    return f"{name}, term '{jsontext.clip(term)}'" if isinstance(term, str) else name


def _number_defects(raw: Mapping[str, Any], where: str, documents: int | None) -> Iterator[str]:
    if "id" in raw and not _is_count(raw["id"]):
        yield f"{where}: id is {jsontext.clip(raw['id'])}, expected an integer from 0 to {MAX_ID}"
    if "df" in raw:
        df = raw["df"]
        if not _is_count(df):
            yield f"{where}: df is {jsontext.clip(df)}, expected a count of 0 or more"
        elif documents is not None and df > documents:
            yield f"{where}: df is {df}, expected at most documents, {documents}"
    zipf = raw.get("zipf")
    if zipf is not None and not _is_zipf(zipf):
        yield (
            f"{where}: zipf is {jsontext.clip(zipf)}, expected null or a number from 0 to "
            f"{MAX_ZIPF:g}"
        )


def _banned_defects(banned: list[Any]) -> Iterator[str]:
    seen: set[str] = set()
    for position, text in enumerate(banned):
        where = f"banned {position}, '{jsontext.clip(text)}'"
        if not isinstance(text, str):
            yield f"{where} is no text, expected one"
        elif not 1 <= len(text) <= MAX_BANNED_CHARS:
            yield f"{where} has {len(text)} characters, expected 1 to {MAX_BANNED_CHARS}"
        elif not unicodedata.is_normalized("NFC", text):
            yield f"{where} is not NFC; normalise it"
        elif any(_is_invisible(char) for char in text):
            yield f"{where} holds a control or invisible character; remove it"
        elif all(is_mark(char) for char in text):
            yield f"{where} holds marks alone, expected a letter, a digit or a CJK character"
        elif text in seen:
            yield f"{where} is a duplicate, it stands twice; keep one"
        else:
            seen.add(text)


def term_defect(term: object) -> str | None:
    """Why `term` can't stand in a catalog, as the end of a sentence; None where it can."""
    if not isinstance(term, str):
        return f"is no text: {jsontext.clip(term)}"
    if len(term) < MIN_TERM_CHARS:
        plural = "character" if len(term) == 1 else "characters"
        return (
            f"has {len(term)} {plural}, expected {MIN_TERM_CHARS} or more; "
            f"single characters earn nothing"
        )
    if len(term) > MAX_TERM_CHARS:
        return f"has {len(term)} characters, expected at most {MAX_TERM_CHARS}"
    for char in term:
        if is_mark(char) and char not in _MARKS_IN_TERMS:
            return f"holds punctuation '{char}', expected none; punctuation never hits"
        if _is_invisible(char):
            return f"holds the invisible character U+{ord(char):04X}; remove it"
    if not unicodedata.is_normalized("NFC", term):
        return "is not NFC; normalise it"
    return None


def is_mark(char: str) -> bool:
    """Whether a character is one of `PUNCTUATION` or punctuation or a space by Unicode."""
    if "一" <= char <= "鿿":  # the common case, decided without a table
        return False
    return char in PUNCTUATION or unicodedata.category(char)[0] in "PZ"


def _is_invisible(char: str) -> bool:
    return not char.isprintable() and unicodedata.category(char) in ("Cc", "Cf", "Cs")


def _is_count(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_ID


def _is_zipf(value: object) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return math.isfinite(value) and 0.0 <= value <= MAX_ZIPF


def _is_word(value: object) -> bool:
    return isinstance(value, str) and 1 <= len(value) <= 200 and bool(value.strip())


def _is_lengths(value: object) -> TypeGuard[list[int]]:
    return (
        isinstance(value, list)
        and all(_is_count(n) and MIN_TERM_CHARS <= n <= MAX_TERM_CHARS for n in value)
        and value == sorted(set(value))
        and len(value) > 0
    )
