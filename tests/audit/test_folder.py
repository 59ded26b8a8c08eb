from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from flexattn.audit import folder as rooms
from flexattn.audit.chain import sha256_hex
from flexattn.audit.folder import RunFolder, write_file
from flexattn.errors import AuditError

CONFIG = b"seed: 1\nrun: {name: r7}\nlog: {sample: 0.5}\n"


def make(path: Path, **changes: object) -> RunFolder:
    given = {"config": CONFIG, "corpus": b"{}\n", "catalogs": {"medical.json": b"{}"}}
    return RunFolder.create(path, **{**given, **changes})  # type: ignore[arg-type]


def test_what_is_opened_is_what_was_created(tmp_path: Path) -> None:
    made = make(tmp_path / "r7", manifest={"seed": 1, "versions": {"numpy": "2"}})
    opened = RunFolder.open(tmp_path / "r7")
    assert opened == made
    assert opened.manifest["versions"] == {"numpy": "2"}
    assert opened.manifest["sample"] == 0.5
    assert opened.corpus_bytes() == b"{}\n"
    assert opened.catalog_bytes(sha256_hex(b"{}")) == b"{}"
    assert opened.config_text() == CONFIG.decode()
    names = sorted(p.name for p in (tmp_path / "r7").iterdir())
    assert names == ["catalogs", "config.yaml", "corpus.jsonl", "manifest.json"]


def test_name_and_folder_of_a_run_are_in_no_hash(tmp_path: Path) -> None:
    one = make(tmp_path / "one")
    two = make(tmp_path / "two", config=CONFIG.replace(b"r7", b"r8"))
    other = make(tmp_path / "other", config=CONFIG.replace(b"seed: 1", b"seed: 2"))
    assert one.run_fields() == two.run_fields() != other.run_fields()


def test_comments_and_spacing_of_the_config_change_nothing(tmp_path: Path) -> None:
    made = make(tmp_path / "r7")
    (made.path / "config.yaml").write_bytes(b"# a note\n" + CONFIG.replace(b"1", b" 1 "))
    made.config_text()
    (made.path / "config.yaml").write_bytes(CONFIG.replace(b"0.5", b"0.6"))
    with pytest.raises(AuditError, match="changed after the run began"):
        made.config_text()


def test_a_large_corpus_is_named_by_path_and_hash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rooms, "COPY_AT_MOST_BYTES", 2)
    with pytest.raises(AuditError, match="expected its path"):
        make(tmp_path / "none")
    away = tmp_path / "big.jsonl"
    away.write_bytes(b"{}\n")
    made = make(tmp_path / "r7", corpus_path=str(away))
    assert not (made.path / "corpus.jsonl").exists()
    assert made.corpus_bytes() == b"{}\n"
    away.write_bytes(b"{} \n")
    with pytest.raises(AuditError, match="the corpus was changed since"):
        made.corpus_bytes()


def test_a_catalog_of_a_hot_swap_is_kept(tmp_path: Path) -> None:
    made = make(tmp_path / "r7")
    sha = made.add_catalog(b'{"version":"2"}')
    assert made.catalog_bytes(sha) == b'{"version":"2"}'


@pytest.mark.parametrize("name", ["../a.json", "a/b.json", ".a", "", "a#b", "a\nb"])
def test_a_catalog_name_stays_in_its_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(AuditError, match="plain file name"):
        make(tmp_path / "r7", catalogs={name: b"{}"})


def test_a_linked_catalog_is_refused(tmp_path: Path) -> None:
    made = make(tmp_path / "r7")
    file = made.path / "catalogs" / f"{sha256_hex(b'{}')}.json"
    file.rename(tmp_path / "elsewhere.json")
    file.symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(AuditError, match="is a link"):
        made.catalog_bytes(sha256_hex(b"{}"))


@pytest.mark.parametrize(
    "spoil",
    [
        {"schema": "flexattn.run/9"},
        {"corpus": None},
        {"config": "../config"},
        {"kind": "dream"},
        {"sample": "much"},
        {"catalogs": [{"sha256": "../../x", "file": "a.json"}]},
        {"catalogs": [{"sha256": "0" * 64, "file": "../a.json"}]},
        {"catalogs": 7},
    ],
)
def test_a_manifest_that_is_none_is_refused(tmp_path: Path, spoil: dict[str, object]) -> None:
    made = make(tmp_path / "r7")
    value = {**orjson.loads((made.path / "manifest.json").read_bytes()), **spoil}
    (made.path / "manifest.json").write_bytes(orjson.dumps(value))
    with pytest.raises(AuditError, match=r"manifest\.json: "):
        RunFolder.open(made.path)


def test_a_config_that_is_no_yaml_is_refused(tmp_path: Path) -> None:
    for config in (b"a: [", b"7", b"a: .nan", b"\xff"):
        with pytest.raises(AuditError, match=r"config\.yaml: "):
            make(tmp_path / "r7", config=config)


def test_a_file_is_written_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "head.json"
    write_file(file, b"first")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(AuditError, match="No space left"):
        write_file(file, b"second")
    assert file.read_bytes() == b"first"
    assert [p.name for p in tmp_path.iterdir()] == ["head.json"]
