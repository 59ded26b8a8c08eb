from __future__ import annotations

import base64
import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from flexattn.errors import CatalogError, EnvironmentSpecError
from flexattn.lexicon import store as store_module
from flexattn.lexicon.aside import load_aside
from flexattn.lexicon.entries import Catalog, load_catalog
from flexattn.lexicon.inbox import Inbox, deliver, inbox_of
from flexattn.lexicon.signature import read_key, signature_path
from flexattn.lexicon.store import CatalogStore, State
from flexattn.lexicon.switches import VERSIONS

ROOT = Path(__file__).parents[2]


def catalog(version: str, *terms: str, banned: tuple[str, ...] = ()) -> dict[str, Any]:
    entries = [
        {"id": ord(term[0]), "term": term, "df": 0, "zipf": None}
        for term in ("奥司他韦", "病毒", *terms)
    ]
    return {
        "schema": "flexattn.catalog/1", "name": "trial", "version": version, "language": "zh",
        "lengths": sorted({len(e["term"]) for e in entries} - {1}), "documents": 3,
        "entries": entries, "banned": list(banned),
    }  # fmt: skip


def write(path: Path, value: object) -> Path:
    path.write_bytes(orjson.dumps(value))
    return path


def version_of(made: Catalog) -> str:
    """What the tests build: something that says which catalog it was built from."""
    return made.version


@pytest.fixture
def store(tmp_path: Path) -> CatalogStore[str]:
    return CatalogStore(tmp_path / "kept", version_of, clock=iter(range(10_000)).__next__)


def test_a_store_is_not_ready_until_a_version_is_in_force(store: CatalogStore[str]) -> None:
    assert store.status.state is State.NOT_READY
    assert store.restore() is None
    with pytest.raises(CatalogError, match="no version is in force: no catalog was given"):
        _ = store.current


def test_a_swap_switches_catalog_and_what_was_built_together(
    store: CatalogStore[str], tmp_path: Path
) -> None:
    old = store.swap(write(tmp_path / "trial.json", catalog("1")))
    new = store.swap(write(tmp_path / "trial.json", catalog("2", "真菌")))
    assert store.current is new
    assert (old.built, new.built, old.revision, new.revision) == ("1", "2", 1, 2)
    assert (old.catalog.version, new.catalog.version) == ("1", "2")
    assert store.status.state is State.OK
    assert store.status.active_revision == 2
    assert store.status.active_sha256 == new.catalog.sha256
    kept = load_catalog(tmp_path / "kept" / f"{new.catalog.sha256}.json")
    assert kept.sha256 == new.catalog.sha256


def test_a_version_that_is_in_force_already_makes_no_revision(
    store: CatalogStore[str], tmp_path: Path
) -> None:
    first = store.swap(write(tmp_path / "trial.json", catalog("1")))
    spaced = tmp_path / "trial.json"
    spaced.write_text(json.dumps(catalog("1"), indent=2), encoding="utf-8")
    assert store.swap(spaced) is first
    assert len(store.switches) == 1


def test_a_settled_file_is_read_once_and_again_after_it_is_written_to(
    store: CatalogStore[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = (write(tmp_path / f"{n}.json", catalog(n)) for n in "12")
    monkeypatch.setattr(store_module, "SETTLED_NS", 0)
    reads: list[str] = []
    read = store_module.jsontext.read_bytes

    def counted(path: str | Path, *rest: Any, **options: Any) -> bytes:
        reads.append(Path(path).name)
        return read(path, *rest, **options)

    monkeypatch.setattr(store_module.jsontext, "read_bytes", counted)
    for path in (one, two, one, two):
        store.swap(path)
    assert reads == ["1.json", "2.json"]
    assert [switch.sha256 for switch in store.switches[:2]] == [
        switch.sha256 for switch in store.switches[2:]
    ]
    write(one, catalog("3"))
    assert store.swap(one).built == "3"
    signature_path(two).write_bytes(b"no signature")
    with pytest.raises(CatalogError, match=r"sig"):
        store.swap(two)
    assert reads.count("2.json") == 2


def test_all_versions_go_by_the_name_of_the_first(store: CatalogStore[str], tmp_path: Path) -> None:
    store.swap(write(tmp_path / "trial.json", catalog("1")))
    assert store.swap(write(tmp_path / "new.json", catalog("2"))).catalog.file == "trial.json"


REFUSED = {
    "broken JSON": (b"{", "no valid JSON", None),
    "a bad entry": (orjson.dumps(catalog("2", "抗")), "term '抗' has 1 character", "entry 25239"),
    "a bad ban": (orjson.dumps(catalog("2", banned=("",))), "has 0 characters", "banned 0"),
    "an id of another meaning": (
        orjson.dumps(catalog("2")).replace("病毒".encode(), "病菌".encode()),
        "was '病毒' in an earlier version; ids keep their meaning",
        f"entry {ord('病')}",
    ),
}


@pytest.mark.parametrize(("data", "message", "entry"), REFUSED.values(), ids=REFUSED)
def test_a_refused_catalog_leaves_everything_as_it_was(
    store: CatalogStore[str], tmp_path: Path, data: bytes, message: str, entry: str | None
) -> None:
    before = store.swap(write(tmp_path / "trial.json", catalog("1")))
    kept = sorted(path.name for path in (tmp_path / "kept").iterdir())
    bad = tmp_path / "bad.json"
    bad.write_bytes(data)
    with pytest.raises(CatalogError, match=r"bad\.json") as caught:
        store.swap(bad)
    assert message in str(caught.value)
    assert store.current is before
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == kept
    status = store.status
    assert status.state is State.ERROR
    assert (status.active_revision, status.error, status.error_file) == (
        1, str(caught.value), str(bad)
    )  # fmt: skip
    assert status.error_entry == entry
    assert status.last_attempt is not None
    assert status.last_success is not None
    assert status.last_attempt > status.last_success
    store.swap(write(bad, catalog("3")))
    assert store.status.state is State.OK
    assert store.status.error is None


def test_what_cant_be_built_is_refused_too(tmp_path: Path) -> None:
    def build(made: Catalog) -> str:
        if made.version == "2":
            raise EnvironmentSpecError("no answer holds a term")
        return made.version

    store = CatalogStore(tmp_path / "kept", build)
    store.swap(write(tmp_path / "trial.json", catalog("1")))
    with pytest.raises(EnvironmentSpecError):
        store.swap(write(tmp_path / "trial.json", catalog("2")))
    assert (store.current.built, store.status.state) == ("1", State.ERROR)


def test_a_full_disk_leaves_the_old_version_in_force(
    store: CatalogStore[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = store.swap(write(tmp_path / "trial.json", catalog("1")))

    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(store_module.jsontext, "write_whole", full)
        with pytest.raises(OSError, match="No space"):
            store.swap(write(tmp_path / "trial.json", catalog("2")))
    assert store.current is before
    assert store.status.state is State.ERROR
    assert store.swap(tmp_path / "trial.json").revision == 2


def test_any_earlier_version_comes_back_as_a_new_revision(
    store: CatalogStore[str], tmp_path: Path
) -> None:
    for version in "123456789":  # more than stay built
        store.swap(write(tmp_path / "trial.json", catalog(version)))
    assert store.rollback().built == "8"
    assert store.rollback(1).built == "1"
    assert store.current.revision == 11
    assert store.current.catalog.file == "trial.json"
    with pytest.raises(CatalogError, match=r"there is no revision 12, expected one of 1\.\.11"):
        store.rollback(12)
    assert store.current.built == "1"


def test_the_last_version_in_force_survives_the_process(tmp_path: Path) -> None:
    first: CatalogStore[str] = CatalogStore(tmp_path / "kept", version_of)
    for version in "123":
        first.swap(write(tmp_path / "trial.json", catalog(version)))
    first.rollback(2)
    again: CatalogStore[str] = CatalogStore(tmp_path / "kept", version_of)
    restored = again.restore()
    assert restored is not None
    assert (restored.built, restored.revision, restored.catalog.file) == ("2", 4, "trial.json")
    assert again.swap(write(tmp_path / "trial.json", catalog("5"))).revision == 5


def test_a_line_torn_by_a_crash_is_cut_away(tmp_path: Path) -> None:
    first: CatalogStore[str] = CatalogStore(tmp_path / "kept", version_of)
    first.swap(write(tmp_path / "trial.json", catalog("1")))
    with (tmp_path / "kept" / VERSIONS).open("ab") as file:
        file.write(b'{"revision":2,"sha')
    again: CatalogStore[str] = CatalogStore(tmp_path / "kept", version_of)
    assert again.restore() is not None
    assert again.swap(write(tmp_path / "trial.json", catalog("2"))).revision == 2
    third: CatalogStore[str] = CatalogStore(tmp_path / "kept", version_of)
    assert [switch.revision for switch in third.switches] == [1, 2]


def test_a_kept_version_that_was_changed_is_passed_over(tmp_path: Path) -> None:
    first: CatalogStore[str] = CatalogStore(tmp_path / "kept", version_of)
    for version in "12":
        first.swap(write(tmp_path / "trial.json", catalog(version)))
    damaged = tmp_path / "kept" / f"{first.current.catalog.sha256}.json"
    damaged.write_bytes(damaged.read_bytes().replace(b'"documents":3', b'"documents":4'))
    again: CatalogStore[str] = CatalogStore(tmp_path / "kept", version_of)
    restored = again.restore()
    assert restored is not None
    assert restored.built == "1"
    assert again.status.state is State.ERROR
    assert "was changed after it was kept" in str(again.status.error)


@pytest.mark.parametrize("line", [b"[]", b'{"revision": 7, "sha256": "x", "file": "../a"}'])
def test_a_list_of_versions_that_makes_no_sense_is_refused(tmp_path: Path, line: bytes) -> None:
    (tmp_path / VERSIONS).write_bytes(line + b"\n")
    with pytest.raises(CatalogError, match=r"versions.jsonl:1: is no switch to revision 1"):
        CatalogStore(tmp_path, version_of)


def test_bans_act_at_once_only_where_asked(tmp_path: Path) -> None:
    for at_once, expected in ((False, ()), (True, ("神药", "特效"))):
        store: CatalogStore[str] = CatalogStore(
            tmp_path / str(at_once), version_of, ban_immediately=at_once
        )
        store.swap(write(tmp_path / "trial.json", catalog("1", banned=("包治百病",))))
        assert store.bans == ()
        store.swap(write(tmp_path / "trial.json", catalog("2", banned=("神药",))))
        store.swap(write(tmp_path / "trial.json", catalog("3", banned=("神药", "特效"))))
        assert store.bans == expected


def test_readers_see_whole_versions_while_another_thread_swaps(
    store: CatalogStore[str], tmp_path: Path
) -> None:
    files = [write(tmp_path / f"{v}.json", catalog(str(v))) for v in range(8)]
    store.swap(files[0])
    wrong: list[object] = []
    stop = threading.Event()

    def read() -> None:
        last = 0
        while not stop.is_set():
            version = store.current
            if version.built != version.catalog.version or version.revision < last:
                wrong.append(version)
            last = version.revision

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for n in range(32):
        store.submit(files[n % 8]).result()
    stop.set()
    for reader in readers:
        reader.join()
    store.close()
    assert not wrong
    assert store.current.revision == 32


def test_a_large_file_is_checked_in_another_process_with_the_same_outcome(tmp_path: Path) -> None:
    store: CatalogStore[str] = CatalogStore(tmp_path / "kept", version_of, aside_above_bytes=1000)
    source = ROOT / "catalogs/medical.json"
    here, there = load_catalog(source), store.swap(source).catalog
    assert there == here
    assert all(type(a) is type(b) for a, b in zip(there.entries, here.entries))
    kept = sorted(path.name for path in (tmp_path / "kept").iterdir())
    assert kept == sorted([f"{here.sha256}.json", VERSIONS])

    bad = json.loads(source.read_text(encoding="utf-8"))
    bad["entries"][7]["df"] = -1
    with pytest.raises(CatalogError, match=r"bad.json: entry 8, term '.*': df is -1") as caught:
        store.swap(write(tmp_path / "bad.json", bad))
    assert str(caught.value).startswith(f"{tmp_path / 'bad.json'}: entry")
    assert store.current.catalog == here
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == kept


def test_a_process_that_is_ended_from_outside_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(CatalogError, match="the process that checks it ended with code 1"):
        load_aside(tmp_path / "x.json", tmp_path)


# ---- inbox -----------------------------------------------------------------------------


@pytest.fixture
def inbox(store: CatalogStore[str], tmp_path: Path) -> Inbox:
    return Inbox(tmp_path / "inbox", store)


def test_a_file_in_the_inbox_takes_effect_once_and_is_taken_out(
    inbox: Inbox, store: CatalogStore[str]
) -> None:
    write(inbox.folder / "trial.json", catalog("1"))
    assert inbox.poll() == 1
    assert store.current.built == "1"
    assert not list(inbox.folder.iterdir())
    assert inbox.poll() == 0


def test_a_refused_file_stays_and_is_tried_again_only_after_it_changes(
    inbox: Inbox, store: CatalogStore[str]
) -> None:
    path = write(inbox.folder / "trial.json", [])
    assert inbox.poll() == 0
    attempt = store.status.last_attempt
    assert "expected an object with entries" in str(store.status.error)
    assert inbox.poll() == 0
    assert store.status.last_attempt == attempt
    write(path, catalog("1"))
    assert inbox.poll() == 1
    assert store.status.error is None


def test_a_refused_file_doesnt_keep_others_waiting(inbox: Inbox, store: CatalogStore[str]) -> None:
    write(inbox.folder / "a.json", [])
    write(inbox.folder / "b.json", catalog("2"))
    assert inbox.poll() == 1
    assert store.current.built == "2"


def test_the_inbox_never_leaves_its_folder(
    inbox: Inbox, store: CatalogStore[str], tmp_path: Path
) -> None:
    outside = write(tmp_path / "outside.json", catalog("1"))
    (inbox.folder / "link.json").symlink_to(outside)
    (inbox.folder / "hard.json").hardlink_to(outside)
    (inbox.folder / "sub").mkdir()
    write(inbox.folder / "sub" / "deep.json", catalog("2"))
    write(inbox.folder / ".hidden.json", catalog("3"))
    write(inbox.folder / "other.txt", catalog("4"))
    (inbox.folder / "folder.json").mkdir()
    assert inbox.poll() == 0
    assert store.status.state is State.NOT_READY
    assert outside.exists()


def test_a_link_put_in_place_of_a_file_at_the_last_moment_is_refused(
    store: CatalogStore[str], tmp_path: Path
) -> None:
    outside = write(tmp_path / "outside.json", catalog("1"))
    (tmp_path / "link.json").symlink_to(outside)
    with pytest.raises(CatalogError, match="can't be read"):
        store.swap(tmp_path / "link.json", follow_links=False)
    assert store.swap(tmp_path / "link.json").built == "1"


def test_a_watcher_takes_files_up_by_itself(inbox: Inbox, store: CatalogStore[str]) -> None:
    pytest.importorskip("watchfiles")
    write(inbox.folder / "first.json", catalog("1"))
    came = threading.Event()
    swap = store.swap

    def noticed(path: str | Path, *, follow_links: bool = True) -> Any:
        made = swap(path, follow_links=follow_links)
        if made.built == "2":
            came.set()
        return made

    store.swap = noticed  # type: ignore[method-assign]
    inbox.watch()
    try:
        write(inbox.folder / "second.json", catalog("2"))
        assert came.wait(10)
    finally:
        inbox.close()
    assert store.current.built == "2"


def test_delivery_checks_the_file_and_the_run_folder(tmp_path: Path) -> None:
    run = tmp_path / "run"
    path = write(tmp_path / "trial.json", catalog("1"))
    with pytest.raises(CatalogError, match="is no run folder"):
        deliver(path, run)
    (run / "catalogs").mkdir(parents=True)
    (run / "manifest.json").write_text("{}", encoding="utf-8")
    with pytest.raises(CatalogError, match=r"bad\.json: entries is empty"):
        deliver(write(tmp_path / "bad.json", {**catalog("1"), "entries": []}), run)
    assert not inbox_of(run).exists()
    assert deliver(path, run).version == "1"
    assert [p.name for p in inbox_of(run).iterdir()] == ["trial.json"]


# ---- signatures ------------------------------------------------------------------------


@pytest.fixture
def keys() -> tuple[Any, bytes]:
    ed25519 = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.ed25519")
    private = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    return private, private.public_key().public_bytes_raw()


def test_signature_and_key_go_together_or_not_at_all(
    tmp_path: Path, keys: tuple[Any, bytes]
) -> None:
    private, public = keys
    path = write(tmp_path / "trial.json", catalog("1"))
    with_key = CatalogStore(tmp_path / "a", version_of, public_key=public)
    without = CatalogStore(tmp_path / "b", version_of)
    assert without.swap(path).built == "1"
    with pytest.raises(CatalogError, match="is not signed, but a public key is configured"):
        with_key.swap(path)
    for form in (bytes, base64.b64encode):
        signature_path(path).write_bytes(form(private.sign(path.read_bytes())))
        assert with_key.swap(path).built == "1"
        with pytest.raises(CatalogError, match=r"is signed .*, but no public key is configured"):
            without.swap(path)
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(CatalogError, match="does not fit its signature"):
        with_key.swap(path)
    signature_path(path).write_bytes(b"no signature")
    with pytest.raises(CatalogError, match="is no Ed25519 signature"):
        with_key.swap(path)


def test_a_public_key_may_be_pem_raw_or_base64(tmp_path: Path, keys: tuple[Any, bytes]) -> None:
    serialization = pytest.importorskip("cryptography.hazmat.primitives.serialization")
    private, public = keys
    pem = private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    path = tmp_path / "key"
    for form in (pem, public, base64.b64encode(public)):
        path.write_bytes(form)
        assert read_key(path) == public
    path.write_bytes(b"nothing")
    with pytest.raises(CatalogError, match="is no Ed25519 public key"):
        read_key(path)


# ---- mutations -------------------------------------------------------------------------


def mutate(data: bytes, rng: np.random.Generator) -> bytes:
    """One to three small harms: bytes changed, cut, doubled, moved, or a word of JSON put in."""
    text = bytearray(data)
    words = [b"null", b"-1", b"1e999", b"NaN", b"[]", b"{}", b'""', b'"\\ud800"', b'"a\\u0000b"',
             b"true", b"9" * 30, b"[" * 200, "，".encode(), b"\xff", b"0.5"]  # fmt: skip
    for _ in range(rng.integers(1, 4)):
        if not text:
            break
        at, length = int(rng.integers(len(text))), int(rng.integers(1, 12))
        match rng.integers(6):
            case 0:
                text[at] = int(rng.integers(256))
            case 1:
                del text[at : at + length]
            case 2:
                text[at:at] = text[at : at + length]
            case 3:
                text[at:at] = words[int(rng.integers(len(words)))]
            case 4:
                numbers = [i for i, byte in enumerate(text) if 48 <= byte <= 57]
                if numbers:
                    text[numbers[int(rng.integers(len(numbers)))]] = int(rng.integers(48, 58))
            case _:
                del text[at:]
                text += b"]}" if rng.random() < 0.5 else b""
    return bytes(text)


def check_mutations(folder: Path, count: int, seed: int) -> int:
    good = orjson.dumps(catalog("1", "神经氨酸酶", "抑制剂", banned=("包治百病", "神药")))
    rng, path, accepted = np.random.default_rng(seed), folder / "trial.json", 0
    refusals: list[str] = []
    for _ in range(count):
        data = mutate(good, rng)
        path.write_bytes(data)
        try:
            made = load_catalog(path)
        except CatalogError as error:
            refusals.append(str(error))
            continue
        accepted += 1
        value = json.loads(data)
        assert made.as_json() == value
        assert [entry.term for entry in made.entries] == [e["term"] for e in value["entries"]]
    assert all(text.startswith(f"{path}:") and text.isprintable() for text in refusals)
    return accepted


def test_mutated_catalogs_are_accepted_whole_or_refused_with_a_reason(tmp_path: Path) -> None:
    accepted = check_mutations(tmp_path, 800, seed=1)
    assert 0 < accepted < 500


@pytest.mark.slow
def test_ten_thousand_mutations_are_accepted_whole_or_refused(tmp_path: Path) -> None:
    assert 0 < check_mutations(tmp_path, 10_000, seed=2) < 7000
