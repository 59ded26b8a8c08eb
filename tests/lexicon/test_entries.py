from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import orjson
import pytest
import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st

from flexattn import jsontext
from flexattn.errors import CatalogError
from flexattn.lexicon.defects import find_defects
from flexattn.lexicon.entries import Entry, file_bytes, load_catalog, parse_catalog

ROOT = Path(__file__).parents[2]


def catalog(**changes: Any) -> dict[str, Any]:
    return {
        "schema": "flexattn.catalog/1",
        "name": "trial",
        "version": "1",
        "language": "zh",
        "lengths": [2, 4],
        "documents": 9,
        "entries": [
            {"id": 1, "term": "奥司他韦", "df": 2, "zipf": None, "kind": "drug"},
            {"id": 7, "term": "病毒", "df": 9, "zipf": 4.5, "source": "list"},
        ],
        "banned": ["包治百病"],
        **changes,
    }


def entry(**changes: Any) -> list[dict[str, Any]]:
    return [{"id": 3, "term": "病毒", "df": 0, "zipf": None, **changes}]


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "another schema": (catalog(schema="x/2"), "schema is x/2, expected flexattn.catalog/1"),
    "an unknown key": (
        catalog(documnets=3),
        "documnets is not a known key; did you mean documents",
    ),
    "no entries": (catalog(entries=[]), "entries is empty"),
    "entries that are no list": (catalog(entries={}), "entries is {}, expected a list"),
    "a length of one": (catalog(lengths=[1, 2, 4]), "lengths is [1, 2, 4], expected increasing"),
    "lengths out of order": (catalog(lengths=[4, 2]), "lengths is [4, 2], expected increasing"),
    "lengths of another type": (catalog(lengths=[[2], 4]), "lengths is [[2], 4], expected"),
    "a length that is missing": (catalog(lengths=[2]), "has 4 characters, but lengths is [2]"),
    "documents below zero": (catalog(documents=-1), "documents is -1, expected a count"),
    "documents as truth value": (catalog(documents=True), "documents is True, expected a count"),
    "an entry that is a text": (
        catalog(entries=["病毒"]),
        "position 0 is 病毒, expected an object",
    ),
    "one character": (
        catalog(entries=entry(term="抗")),
        "entry 3, term '抗' has 1 character, expected 2 or more; single characters earn nothing",
    ),
    "a long term": (catalog(entries=entry(term="病" * 33)), "has 33 characters, expected at most"),
    "punctuation": (catalog(entries=entry(term="病，毒")), "holds punctuation '，', expected none"),
    "a space": (catalog(entries=entry(term="病 毒")), "holds punctuation ' ', expected none"),
    "a space of no width": (
        catalog(entries=entry(term="病\u200b毒")),
        "invisible character U+200B",
    ),
    "a control character": (catalog(entries=entry(term="病\x00毒")), "invisible character U+0000"),
    "a surrogate": (catalog(entries=entry(term="病\ud800")), "invisible character U+D800"),
    "a decomposed letter": (catalog(entries=entry(term="Cafe\u0301")), "is not NFC"),
    "a number for a term": (catalog(entries=entry(term=12)), "is no text: 12"),
    "an unknown key of an entry": (catalog(entries=entry(dff=1)), "dff is not a known key"),
    "df above documents": (
        catalog(entries=entry(df=10)),
        "df is 10, expected at most documents, 9",
    ),
    "df with a fraction": (catalog(entries=entry(df=1.5)), "df is 1.5, expected a count"),
    "an id below zero": (catalog(entries=entry(id=-3)), "id is -3, expected an integer"),
    "a zipf that is a text": (catalog(entries=entry(zipf="4")), "zipf is 4, expected null or"),
    "a zipf that is no number": (catalog(entries=entry(zipf=float("nan"))), "zipf is nan"),
    "a kind that is null": (catalog(entries=entry(kind=None)), "kind is None, expected a text"),
    "one id twice": (
        catalog(entries=entry() + entry(term="真菌")),
        "entry 3, term '真菌': id 3 is a duplicate, it stands already at position 0",
    ),
    "one term twice": (
        catalog(entries=entry() + entry(id=4)),
        "entry 4, term '病毒' is a duplicate, it stands already at position 0; expected each term",
    ),
    "a banned text twice": (catalog(banned=["甲", "甲"]), "banned 1, '甲' is a duplicate"),
    "banned marks": (catalog(banned=["，。"]), "banned 0, '，。' holds marks alone"),
    "an empty banned text": (catalog(banned=[""]), "has 0 characters, expected 1 to 64"),
    "a banned number": (catalog(banned=[5]), "banned 0, '5' is no text"),
}


@pytest.mark.parametrize(("obj", "message"), BAD.values(), ids=BAD)
def test_a_bad_catalog_is_refused_with_file_entry_and_reason(
    obj: dict[str, Any], message: str
) -> None:
    with pytest.raises(CatalogError) as caught:
        parse_catalog(obj, "some/trial.json")
    assert str(caught.value).startswith("some/trial.json: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", sorted(catalog()))
def test_every_key_is_required(key: str) -> None:
    obj = catalog()
    del obj[key]
    with pytest.raises(CatalogError, match=f"{key} is missing"):
        parse_catalog(obj, "t")


def test_a_sound_catalog_says_what_its_file_says() -> None:
    made = parse_catalog(catalog(), "some/trial.json")
    assert made.entries[1] == Entry(7, "病毒", 9, 4.5, None, "list")
    assert made.by_term["奥司他韦"].id == 1
    assert made.by_id[7].term == "病毒"
    assert (made.file, made.lengths, made.documents) == ("trial.json", (2, 4), 9)
    assert made.as_json() == catalog()


def test_all_defects_of_a_catalog_are_found_in_one_pass() -> None:
    obj = catalog(documents=-1, entries=entry(term="抗", zipf="x") + entry(term="a，b"))
    assert len(list(find_defects(obj))) == 5


def test_identity_is_the_hash_of_the_canonical_json() -> None:
    made = parse_catalog(catalog(), "t")
    assert made.canonical_bytes() == rfc8785.dumps(catalog())
    assert made.sha256 == hashlib.sha256(rfc8785.dumps(catalog())).hexdigest()
    assert made.short == made.sha256[:8]


def test_white_space_and_order_of_keys_change_no_identity(tmp_path: Path) -> None:
    shuffled = dict(reversed(catalog().items()))
    path = tmp_path / "trial.json"
    path.write_text(json.dumps(shuffled, indent=3, ensure_ascii=True), encoding="utf-8-sig")
    assert load_catalog(path).sha256 == parse_catalog(catalog(), "t").sha256


@given(
    st.lists(
        st.none() | st.floats(0, 10) | st.integers(0, 10) | st.sampled_from([1e-7, 0.1, 1e-3]),
        min_size=1,
        max_size=6,
    ),
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=9).filter(str.strip),
)
@settings(max_examples=100, deadline=None)
def test_canonical_bytes_agree_with_the_rfc_library(zipfs: list[Any], name: str) -> None:
    entries = [
        {"id": i, "term": f"术{i:03d}", "df": 0, "zipf": zipf} for i, zipf in enumerate(zipfs)
    ]
    obj = catalog(name=name, entries=entries)
    assert parse_catalog(obj, "t").canonical_bytes() == rfc8785.dumps(obj)


def test_the_file_for_people_reads_back_as_the_same_catalog(tmp_path: Path) -> None:
    data = file_bytes(catalog())
    assert orjson.loads(data) == catalog()
    assert data.count(b"\n") > len(catalog()["entries"])
    path = tmp_path / "trial.json"
    path.write_bytes(data)
    assert load_catalog(path).as_json() == catalog()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=8,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path to every value inside `value`, itself left out."""
    inside: list[tuple[Any, Any]] = []
    if isinstance(value, dict):
        inside = list(value.items())
    elif isinstance(value, list):
        inside = list(enumerate(value))
    return [p for key, inner in inside for p in [(*path, key), *places(inner, (*path, key))]]


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_any_value_in_any_place_is_accepted_as_it_stands_or_refused_in_one_line(
    data: st.DataObject,
) -> None:
    obj = catalog()
    path = data.draw(st.sampled_from(places(obj)))
    holder: Any = obj
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = data.draw(json_values | st.sampled_from(["病毒", "抗", 2, 1, 7, [2, 4]]))
    defects = list(find_defects(obj))
    if defects:
        assert all("\n" not in line and line.isprintable() for line in defects)
        with pytest.raises(CatalogError, match=r"^t: "):
            parse_catalog(obj, "t")
    else:
        made = parse_catalog(obj, "t")
        assert made.as_json() == obj
        assert made.canonical_bytes() == rfc8785.dumps(obj)


@given(json_values)
@settings(max_examples=100, deadline=None)
def test_any_value_at_all_has_a_defect(value: Any) -> None:
    assert list(find_defects(value))


def whole_or_float(text: str) -> int | float:
    number = int(text)
    return number if -(2**63) <= number < 2**64 else float(number)


@given(st.binary(max_size=60) | st.text(max_size=40).map(str.encode))
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_json_or_refused_in_one_line(data: bytes) -> None:
    try:
        ours: Any = ["accepted", jsontext.parse(data, "f", CatalogError)]
    except CatalogError as error:
        ours = ["refused", str(error)]
    if ours[0] == "accepted":
        # a whole number past 64 bits is read as a float; no key of a catalog takes one
        assert ours[1] == json.loads(data, parse_int=whole_or_float)
    else:
        assert ours[1].startswith("f:")
        assert ours[1].isprintable()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        pytest.param(b"", "no valid JSON", id="nothing"),
        pytest.param(b'{"schema": ', r"trial.json:1: column \d+ is no valid JSON", id="cut"),
        pytest.param(b'{\n"a": NaN}', "trial.json:2: column", id="not a number"),
        pytest.param(b'{"name": 1, "name": 2}', "key name stands twice", id="a key twice"),
        pytest.param(b"[" * 200 + b"]" * 200, "nested 200 levels", id="too deep"),
        pytest.param(b'"[[[[ \\" {{{"', "holds a JSON str, expected", id="brackets in a text"),
        pytest.param(b"\xff\xfe{}", "no valid JSON", id="UTF-16"),
    ],
)
def test_a_file_that_is_no_catalog_is_refused(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "trial.json"
    path.write_bytes(data)
    with pytest.raises(CatalogError, match=message):
        load_catalog(path)


def test_a_file_above_a_gigabyte_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "huge.json"
    with path.open("wb") as file:
        file.truncate(1_000_000_001)  # sparse: takes no room
    with pytest.raises(CatalogError, match="has 1,000,000,001 bytes, expected at most"):
        load_catalog(path)


def test_the_medical_catalog_keeps_its_promises() -> None:
    made = load_catalog(ROOT / "catalogs/medical.json")
    assert len(made.entries) >= 1200
    assert all(2 <= len(e.term) <= 8 for e in made.entries)
    assert len(made.banned) >= 30
    assert not [e.term for e in made.entries for b in made.banned if b in e.term]
    kinds = {e.kind for e in made.entries}
    assert kinds == {
        "drug", "class", "disease", "symptom", "anatomy", "physiology", "pathogen", "molecule",
        "procedure", "test", "property", "general", "frame",
    }  # fmt: skip
