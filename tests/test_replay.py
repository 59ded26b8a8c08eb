from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import orjson
import pytest

GOLDEN = Path(__file__).parent / "golden"
sys.path.insert(0, str(GOLDEN))

from breaks import BREAKS, GENERATION_BREAKS, Break, Log  # noqa: E402
from make import make, make_generation  # noqa: E402
from mutate import main as mutate  # noqa: E402

from flexattn import replay  # noqa: E402
from flexattn.audit.findings import CODES  # noqa: E402
from flexattn.audit.folder import RunFolder  # noqa: E402
from flexattn.audit.verify import Check, Report, verify  # noqa: E402
from flexattn.derivation import derivers_of  # noqa: E402


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("golden") / "run").path


@pytest.fixture(scope="module")
def check(sound: Path) -> Check:
    return golden_check(sound)


def golden_check(folder: Path) -> Check:
    return derivers_of(RunFolder.open(folder)).check_all


@pytest.fixture
def log(sound: Path, tmp_path: Path) -> Log:
    shutil.copytree(sound, tmp_path / "run")
    return Log(tmp_path / "run")


def broken(log: Log, way: Break, check) -> tuple[Report, int]:
    line = way.do(log)
    if way.resealed:
        log.reseal()
    log.save()
    return verify(RunFolder.open(log.folder), check), abs(line)


@pytest.mark.parametrize("name", ["sound-log-1", "sound-generation-log-1"])
def test_logs_of_every_form_are_read(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert replay.main([str(GOLDEN / name)]) == 0
    assert "every line sealed, every number derived again" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["sound", "sound-generation"])
def test_the_golden_logs_are_made_again_byte_for_byte(
    name: str, sound: Path, tmp_path: Path
) -> None:
    made = sound if name == "sound" else make_generation(tmp_path / "run").path
    for file in (GOLDEN / name).rglob("*"):
        if file.is_file():
            again = made / file.relative_to(GOLDEN / name)
            assert again.read_bytes() == file.read_bytes(), file.name


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("sound", "400 lines, 380 steps, 12 episodes, 4 seals in 2 files"),
        ("sound-generation", "153 lines, 145 steps, 4 episodes, 2 seals in 1 file"),
    ],
)
def test_the_golden_logs_are_sound(
    name: str, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert replay.main([str(GOLDEN / name)]) == 0
    said = capsys.readouterr().out
    assert f"sound; {what}; every line sealed, every number derived again" in said
    assert "head " in said


@pytest.mark.parametrize("way", BREAKS, ids=lambda way: way.name)
def test_a_broken_log_is_named_with_its_first_wrong_line(log: Log, way: Break, check) -> None:
    report, line = broken(log, way, check)
    assert report.findings, "nothing was found"
    first = report.findings[0]
    assert (first.code, first.field) == (way.code, way.field), str(first)
    assert Path(first.file).name == way.file
    if line:
        assert first.line == line, str(first)


@pytest.mark.parametrize("way", GENERATION_BREAKS, ids=lambda way: way.name)
def test_a_broken_generation_is_named_with_its_first_wrong_line(way: Break, tmp_path: Path) -> None:
    shutil.copytree(GOLDEN / "sound-generation", tmp_path / "run")
    log = Log(tmp_path / "run")
    report, line = broken(log, way, golden_check(log.folder))
    first = report.findings[0]
    assert (first.code, first.field, first.line) == (way.code, way.field, line), str(first)


def test_random_damage_is_always_found_and_named_with_its_line() -> None:
    tally = mutate(150, seed=4)
    assert tally["right line"] == tally["made"] >= 140


def test_every_break_is_a_different_one() -> None:
    assert len({way.name for way in BREAKS}) == len(BREAKS) >= 30
    assert {way.code for way in BREAKS} <= set(CODES)


def test_a_changed_digit_is_told_with_both_values_and_both_hashes(
    log: Log, capsys: pytest.CaptureFixture[str]
) -> None:
    line = BREAKS[0].do(log)
    log.save()
    assert replay.main([str(log.folder)]) == 1
    said = capsys.readouterr().out.splitlines()[0]
    assert said.startswith(f"{log.folder}/steps-00000.jsonl:{line}: reward is ")
    assert ", derived " in said
    assert "; the line's hash is " in said
    assert f"it was changed after writing; lines 1..{line - 1} are intact" in said


def test_json_has_every_finding_with_code_layer_place_and_values(
    log: Log, capsys: pytest.CaptureFixture[str]
) -> None:
    line = BREAKS[0].do(log)
    log.save()
    assert replay.main([str(log.folder), "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    first = report["findings"][0]
    assert not report["sound"]
    assert (first["code"], first["layer"], first["line"]) == ("number", "number", line)
    assert first["field"] == "reward"
    assert first["logged"] != first["derived"]
    assert any(f["layer"] == "chain" for f in report["findings"])


def test_the_chain_alone_needs_neither_catalog_nor_corpus(log: Log) -> None:
    shutil.rmtree(log.folder / "catalogs")
    (log.folder / "corpus.jsonl").unlink()
    assert replay.main([str(log.folder), "--chain"]) == 0
    BREAKS[0].do(log)
    log.save()
    assert replay.main([str(log.folder), "--chain"]) == 1


def test_a_head_kept_elsewhere_shows_a_log_written_anew(
    log: Log, capsys: pytest.CaptureFixture[str]
) -> None:
    head = orjson.loads((log.folder / "head.json").read_bytes())["head"]
    assert replay.main([str(log.folder), "--head", head]) == 0
    log.edit(1, lambda x: {**x, "actor": "nobody"})
    log.reseal()
    log.save()
    assert replay.main([str(log.folder)]) == 0
    assert replay.main([str(log.folder), "--head", head]) == 1
    assert "the head kept elsewhere is" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda f: shutil.rmtree(f), "is no folder, expected a run folder"),
        (lambda f: (f / "manifest.json").unlink(), "holds no manifest.json"),
        (lambda f: (f / "manifest.json").write_bytes(b"{"), "is no JSON"),
        (lambda f: (f / "manifest.json").write_bytes(b"[]"), "expected a manifest"),
        (lambda f: _append(next((f / "catalogs").iterdir())), "the catalog was changed since"),
        (lambda f: next((f / "catalogs").iterdir()).unlink(), "expected the catalog of the run"),
        (lambda f: _append(f / "corpus.jsonl"), "the corpus was changed since"),
        (lambda f: (f / "config.yaml").unlink(), "expected the run's settings"),
        (lambda f: _reword(f / "config.yaml", "eta1: 0.15", "eta1: 0.16"), "changed after the run"),
        (lambda f: _reword(f / "config.yaml", "reward:", "reward: ["), "is no YAML"),
        (lambda f: _reword(f / "manifest.json", "tiny.json", "../tiny.json"), "no plain file name"),
    ],
    ids=["no-folder", "no-manifest", "bad-json", "a-list", "catalog", "no-catalog", "corpus",
         "no-config", "config", "config-key", "path-trick"],
)  # fmt: skip
def test_a_folder_that_is_no_run_or_whose_inputs_changed_is_exit_2(
    log: Log, spoil, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for sha in (log.folder / "catalogs").iterdir():
        if sha.stem not in (log.folder / "manifest.json").read_text():
            sha.unlink()  # the one that came by a hot swap is another matter
    spoil(log.folder)
    assert replay.main([str(log.folder)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert said in error


def _append(file: Path) -> None:
    file.write_bytes(file.read_bytes() + b" ")


def _reword(file: Path, old: str, new: str) -> None:
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new), encoding="utf-8")


def test_several_threads_find_the_same_as_one(
    log: Log, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(replay, "THREADS_FROM_BYTES", 0)
    BREAKS[0].do(log)
    log.save()
    assert replay.main([str(log.folder), "--workers", "2"]) == 1
    pooled = capsys.readouterr().out
    assert replay.main([str(log.folder), "--workers", "1"]) == 1
    assert capsys.readouterr().out == pooled
    assert replay.main([str(log.folder), "--chain", "--workers", "2"]) == 1
    hashed = capsys.readouterr().out
    assert replay.main([str(log.folder), "--chain", "--workers", "1"]) == 1
    assert capsys.readouterr().out == hashed
    assert ": reward is " in pooled


def test_a_conformance_file_is_derived_and_a_difference_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert replay.main(["--cases", str(GOLDEN / "cases.json")]) == 0
    cases = json.loads((GOLDEN / "cases.json").read_text(encoding="utf-8"))
    cases[1]["expect"][2]["base"] += 1e-8
    (tmp_path / "cases.json").write_text(json.dumps(cases), encoding="utf-8")
    assert replay.main(["--cases", str(tmp_path / "cases.json")]) == 1
    assert "case 1 step 3: base is" in capsys.readouterr().out
    (tmp_path / "cases.json").write_text("{}", encoding="utf-8")
    assert replay.main(["--cases", str(tmp_path / "cases.json")]) == 2


def test_the_schema_of_a_line_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert replay.main(["--schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    titles = [line["title"] for line in schema["oneOf"]]
    assert "step of a training" in titles
    assert "event seal" in titles


def test_one_episode_is_shown_with_its_hits_and_its_ledger(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert replay.main([str(GOLDEN / "sound"), "--episode", "4"]) == 0
    said = capsys.readouterr().out
    assert "question 什么是白茶？" in said
    assert "teacher  白茶是一种轻微发酵的茶叶" in said
    assert "轻微发酵  tiny.json#26" in said
    assert "ledger" in said
    assert "no finding in this episode" in said
    assert replay.main([str(GOLDEN / "sound"), "--episode", "99"]) == 2
    assert "has no episode 99" in capsys.readouterr().err


def test_a_generation_is_shown_without_a_ledger(capsys: pytest.CaptureFixture[str]) -> None:
    assert replay.main([str(GOLDEN / "sound-generation"), "--episode", "0"]) == 0
    said = capsys.readouterr().out
    assert "record - (no teacher)" in said
    assert "ledger" not in said


def test_a_line_is_proved_and_the_proof_checked_without_the_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(GOLDEN / "sound")
    assert replay.main([run, "--prove", "steps-00000.jsonl:9"]) == 0
    file = tmp_path / "proof.json"
    file.write_text(capsys.readouterr().out, encoding="utf-8")
    root = json.loads((GOLDEN / "sound" / "head.json").read_bytes())["root"]
    assert replay.main(["--check-proof", str(file), "--root", root]) == 0
    said = capsys.readouterr().out
    assert said.startswith('{"step":6,')
    assert "steps-00000.jsonl:9 was sealed" in said
    assert replay.main(["--check-proof", str(file), "--root", "0" * 64]) == 1
    assert "does NOT hold" in capsys.readouterr().out
    assert replay.main([run, "--prove-since", "2"]) == 0
    file.write_text(capsys.readouterr().out, encoding="utf-8")
    assert replay.main(["--check-proof", str(file)]) == 0
    assert replay.main([run, "--prove", "9"]) == 2


def test_a_head_is_signed_and_the_signature_checked(
    log: Log, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("cryptography")
    assert replay.main(["--make-key", "auditor.example"]) == 0
    private, public = capsys.readouterr().out.split()
    (tmp_path / "key").write_text(private)
    assert replay.main([str(log.folder), "--sign", str(tmp_path / "key")]) == 0
    note = str(log.folder / "head.note")
    assert replay.main([str(log.folder), "--note", note, "--key", public]) == 0
    assert "signed by the key's owner" in capsys.readouterr().out
    log.edit(1, lambda x: {**x, "actor": "nobody"})
    log.reseal()
    log.save()
    assert replay.main([str(log.folder), "--note", note, "--key", public]) == 1
    assert replay.main([str(log.folder), "--note", note]) == 2


def test_a_log_of_the_older_form_is_read(capsys: pytest.CaptureFixture[str]) -> None:
    assert replay.main(["--older", str(GOLDEN / "older.jsonl")]) == 1
    said = capsys.readouterr().out
    assert "older.jsonl:6: delta is 0.030, derived 0.02838" in said
    assert "13 findings" in said
    assert replay.main(["--older", str(GOLDEN / "none.jsonl")]) == 2


def test_the_slow_definition_gives_a_second_opinion(
    log: Log, capsys: pytest.CaptureFixture[str]
) -> None:
    assert replay.main([str(log.folder), "--oracle", "--episode", "3"]) == 0
    assert "the definition agrees on " in capsys.readouterr().out
    assert replay.main([str(GOLDEN / "sound-generation"), "--oracle"]) == 2
    assert "--oracle" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--head", "xyz"], "expected 8 to 64 hex digits"),
        (["--workers", "0"], "expected 1 or more"),
        (["--sign", "empty"], "is empty, expected the secret line"),
        (["--check-proof", "."], "is a folder"),
        (["--check-proof", "empty"], "empty"),
    ],
)
def test_an_argument_that_cannot_be_used_is_one_line(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").write_bytes(b"")
    shutil.copytree(GOLDEN / "sound", tmp_path / "run")
    given = [str(tmp_path / word) if word in ("empty", ".") else word for word in words]
    assert replay.main([str(tmp_path / "run"), *given]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
