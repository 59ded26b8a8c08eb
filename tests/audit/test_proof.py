from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from flexattn.audit.folder import RunFolder
from flexattn.audit.proof import check_proof, prove_growth, prove_line, proved_line
from flexattn.audit.reader import read_head
from flexattn.errors import AuditError


def checked(tmp_path: Path, proof: dict[str, Any]) -> str | None:
    (tmp_path / "proof.json").write_bytes(orjson.dumps(proof))
    return check_proof(tmp_path / "proof.json")[1]


GOLDEN = Path(__file__).parents[1] / "golden"


def test_a_sealed_line_has_a_proof_that_stands_alone(write_log, episodes, tmp_path: Path) -> None:
    folder = write_log(episodes * 20, seal_lines=4096)
    for number in (2, 7, 4096):
        proof = prove_line(folder, "steps-00000.jsonl", number)
        line = folder.step_files()[0].read_text(encoding="utf-8").splitlines(True)[number - 1]
        assert proof["text"] == proved_line(proof) == line
        assert proof["root"] == read_head(folder.path)["root"]
        assert len(orjson.dumps(proof)) < 2500
        assert checked(tmp_path, proof) is None


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda p: p.update(text=p["text"].replace("1", "2", 1)), "from the line to its seal"),
        (lambda p: p.update(text=p["text"] + p["text"]), "not one line"),
        (lambda p: p.update(text=p["text"][:-1]), "not one line"),
        (lambda p: p.update(at=p["at"] + 1), "from the line to its seal"),
        (lambda p: p.update(at=10**6), "from the line to its seal"),
        (lambda p: p["within"].pop(), "from the line to its seal"),
        (lambda p: p.update(index=p["index"] + 1), "from the seal to the root"),
        (lambda p: p.update(root="00" * 32), "from the seal to the root"),
        (lambda p: p.update(seal=p["seal"].replace("1", "2", 1)), "the seal is"),
    ],
    ids=["line", "two-lines", "no-newline", "place", "far", "path", "index", "root", "seal"],
)
def test_a_changed_proof_fails(write_log, episodes, tmp_path: Path, change, why: str) -> None:
    proof = prove_line(write_log(episodes), "steps-00000.jsonl", 7)
    change(proof)
    assert why in str(checked(tmp_path, proof))


def test_a_seal_without_a_tree_is_proved_by_its_segment(tmp_path: Path) -> None:
    folder = RunFolder.open(GOLDEN / "sound-log-1")
    proof = prove_line(folder, "steps-00000.jsonl", 7)
    line = folder.step_files()[0].read_text(encoding="utf-8").splitlines(True)[6]
    assert proof["segment"][proof["at"]] == proved_line(proof) == line
    assert checked(tmp_path, proof) is None


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda p: p["segment"].__setitem__(3, p["segment"][3].replace("1", "2", 1)), "sealed"),
        (lambda p: p.update(index=p["index"] + 1), "does not lead"),
        (lambda p: p.update(root="00" * 32), "does not lead"),
        (lambda p: p.update(seal=p["seal"].replace("1", "2", 1)), "the seal is"),
        (lambda p: p.update(at=10**6), "outside"),
        (lambda p: p["segment"].__setitem__(slice(2, 4), ["".join(p["segment"][2:4])]), "one line"),
    ],
    ids=["line", "index", "root", "seal", "place", "two-lines-as-one"],
)
def test_a_changed_proof_by_segment_fails(tmp_path: Path, change, why: str) -> None:
    proof = prove_line(RunFolder.open(GOLDEN / "sound-log-1"), "steps-00000.jsonl", 7)
    change(proof)
    assert why in str(checked(tmp_path, proof))


def test_growth_is_proved_from_an_older_root(write_log, episodes, tmp_path: Path) -> None:
    folder = write_log(episodes)
    proof = prove_growth(folder, 3)
    assert checked(tmp_path, proof) is None
    assert "does not join" in str(checked(tmp_path, {**proof, "old_root": proof["root"]}))


def test_what_cannot_be_proved_says_why(write_log, episodes, tmp_path: Path) -> None:
    folder = write_log(episodes[:1], end=False)
    last = len(folder.step_files()[0].read_bytes().splitlines())
    with pytest.raises(AuditError, match="nothing seals it"):
        prove_line(folder, "steps-00000.jsonl", last)
    with pytest.raises(AuditError, match="is no sealed line"):
        prove_line(folder, "steps-00000.jsonl", last + 1)
    with pytest.raises(AuditError, match=r"expected 1\.\."):
        prove_growth(folder, 99)
    (tmp_path / "proof.json").write_bytes(b'{"schema":"flexattn.proof/1","proves":"line"}')
    with pytest.raises(AuditError, match="is no proof"):
        check_proof(tmp_path / "proof.json")
