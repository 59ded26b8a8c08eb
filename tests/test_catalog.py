from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from flexattn.catalog import main
from flexattn.config import dump_config, load_config
from flexattn.corpus import load_corpus
from flexattn.lexicon.build import build_catalog, document_frequencies, propose_terms
from flexattn.lexicon.entries import load_catalog, parse_catalog
from flexattn.lexicon.reference import find_terms
from flexattn.lexicon.sources import Background, Listed, read_term_list
from flexattn.lexicon.weights import term_weight

ROOT = Path(__file__).parents[1]
MEDICAL = str(ROOT / "catalogs/medical.json")
CORPUS = str(ROOT / "corpora/medical.jsonl")


def listed(*terms: str, kind: str | None = None, zipf: float | None = None) -> list[Listed]:
    return [Listed(t, kind, zipf, None, f"list:{n}") for n, t in enumerate(terms, 1)]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a list, a background, a ban and a corpus of two train answers."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list.tsv").write_text(
        "# a comment\n奥司他韦\tdrug\n病毒\tpathogen\n是一种\tframe\t6.5\n病毒\tdisease\n药\tdrug\n"
        "人类免疫缺陷病毒感染症\tdisease\n病，毒\t3\n包治百病丸\tdrug\n",
        encoding="utf-8",
    )
    (tmp_path / "background.txt").write_text("病毒 500 n\n的 999500 uj\n", encoding="utf-8")
    (tmp_path / "banned.txt").write_text("包治百病\n神药\n", encoding="utf-8")
    records = [
        {"id": "1", "term": "a", "question": "?", "answer": "奥司他韦是一种药。", "split": "train"},
        {"id": "2", "term": "b", "question": "?", "answer": "病毒病毒。", "split": "train"},
        {"id": "3", "term": "c", "question": "?", "answer": "奥司他韦。", "split": "heldout"},
    ]
    lines = [json.dumps(record, ensure_ascii=False) for record in records]
    (tmp_path / "corpus.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return tmp_path


def build(*more: str) -> int:
    return main(["build", "list.tsv", "--corpus", "corpus.jsonl", "--out", "out.json", *more])


def test_df_counts_train_answers_alone_and_each_answer_once(folder: Path) -> None:
    assert build("--background", "background.txt", "--banned", "banned.txt") == 0
    made = load_catalog(folder / "out.json")
    assert made.documents == 2
    assert {e.term: e.df for e in made.entries} == {"奥司他韦": 1, "病毒": 1, "是一种": 1}
    assert made.banned == ("包治百病", "神药")


def test_zipf_comes_from_the_list_else_from_the_background(folder: Path) -> None:
    assert build("--background", "background.txt") == 0
    zipfs = {e.term: e.zipf for e in load_catalog(folder / "out.json").entries}
    assert zipfs["是一种"] == 6.5
    assert zipfs["病毒"] == 5.7  # 500 of a million words
    assert zipfs["奥司他韦"] is None


def test_what_is_left_out_is_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert build("--banned", "banned.txt") == 0
    said = capsys.readouterr().out
    for line in (
        "1 too short, left out:\n  list.tsv:6: '药'",
        "1 too long, left out:\n  list.tsv:7: '人类免疫缺陷病毒感染症'",
        "list.tsv:8: '病，毒' holds punctuation",
        "1 holding a banned string, left out:\n  list.tsv:9: '包治百病丸'",
        "list.tsv:5: '病毒' stands already at list.tsv:3",
        "list.tsv:5: '病毒' is disease, but pathogen at list.tsv:3",
    ):
        assert line in said
    assert "8 listed, 3 kept" in said


def test_a_term_keeps_its_id_and_a_new_one_gets_an_unused_id() -> None:
    first, _ = build_catalog(listed("甲乙", "丙丁"), [], name="t", version="1")
    one = parse_catalog(first, "one")
    second, report = build_catalog(
        listed("戊己", "甲乙"), [], name="t", version="2", previous=[one]
    )
    two = parse_catalog(second, "two")
    assert {e.term: e.id for e in two.entries} == {"甲乙": 1, "戊己": 3}
    assert report.retired == ["丙丁"]
    third, _ = build_catalog(listed("庚辛", "丙丁"), [], name="t", version="3", previous=[one, two])
    assert {e["term"]: e["id"] for e in third["entries"]} == {"丙丁": 2, "庚辛": 4}


def test_the_version_goes_up_by_itself(folder: Path) -> None:
    assert build("--version", "1.0.9") == 0
    assert build("--previous", "out.json") == 0
    assert load_catalog(folder / "out.json").version == "1.0.10"


def test_the_same_input_gives_the_same_bytes(folder: Path) -> None:
    assert build() == 0
    first = (folder / "out.json").read_bytes()
    assert build() == 0
    assert (folder / "out.json").read_bytes() == first


def test_a_failed_build_leaves_the_old_file_and_nothing_else(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "out.json").write_text("old", encoding="utf-8")
    assert build("--min-chars", "7", "--max-chars", "8") == 2
    assert "no term of 8 is left between 7 and 8 characters" in capsys.readouterr().err
    assert (folder / "out.json").read_text(encoding="utf-8") == "old"
    assert not list(folder.glob(".*"))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        pytest.param("l.json", '["甲乙", 7]', "l.json: term 2: term is 7", id="no text"),
        pytest.param("l.json", '[{"trem": "甲乙"}]', "did you mean term?", id="unknown key"),
        pytest.param("l.json", "{}", "expected a JSON list of terms", id="an object"),
        pytest.param("l.json", "[[", "l.json:1: column", id="broken"),
        pytest.param("l.txt", "\n\n", "l.txt: holds no term", id="empty"),
        pytest.param("l.tsv", "甲乙\tdrug\t11\n", "l.tsv:1: zipf is 11", id="a wild zipf"),
    ],
)
def test_a_bad_list_is_one_line_and_exit_code_2(
    folder: Path, capsys: pytest.CaptureFixture[str], name: str, text: str, message: str
) -> None:
    (folder / name).write_text(text, encoding="utf-8")
    assert main(["build", name, "--out", "out.json"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert message in said
    assert said.count("\n") == 1


def test_lists_may_be_text_json_or_a_catalog(folder: Path) -> None:
    (folder / "l.txt").write_text("奥司他韦\r\n\n病毒\r\n", encoding="utf-8-sig")
    (folder / "l.json").write_text('["奥司他韦", {"term": "病毒", "zipf": 4}]', encoding="utf-8")
    for path in (folder / "l.txt", folder / "l.json", MEDICAL):
        terms = [line.term for line in read_term_list(path)]
        assert {"奥司他韦", "病毒"} <= set(terms)


def test_df_counts_overlapping_terms_too() -> None:
    answers = ["神经氨酸酶抑制剂", "神经", "酸酶"]
    df = document_frequencies(["神经", "氨酸", "酸酶", "酶抑", "神经氨酸酶", "癌症"], answers)
    assert df == {"神经": 2, "氨酸": 1, "酸酶": 2, "酶抑": 1, "神经氨酸酶": 1, "癌症": 0}


def test_terms_are_proposed_where_they_stand_free_and_cut_no_known_term() -> None:
    answers = [f"{a}奥司他韦{b}。" for a, b in zip("服用给予停口", "治防后时可也")]
    answers += ["".join(chr(0x5000 + i) for i in range(200))]
    proposed = [span for span, _, _ in propose_terms(answers, [], None)]
    assert proposed == ["奥司他韦"]
    assert propose_terms(answers, ["司他"], None) == propose_terms(answers, [], None)
    assert propose_terms(answers, ["奥司他韦"], None) == []


def test_everyday_words_are_less_key_than_rare_ones() -> None:
    answers = [f"{a}患者{b}，{b}胆汁{a}。" for a, b in zip("甲乙丙丁", "戊己庚辛")]
    background = Background({"患者": 90_000, "胆汁": 3}, 1_000_000, "b")
    proposals = propose_terms(answers, [], background)
    assert proposals[0][0] == "胆汁"
    assert "患者" not in [span for span, _, keyness in proposals if keyness > 20]


def test_validate_prints_a_line_for_each_defect(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    obj: dict[str, Any] = json.loads(Path(MEDICAL).read_text(encoding="utf-8"))
    obj["entries"][5]["term"] = "抗"
    obj["entries"][9]["id"] = obj["entries"][8]["id"]
    obj["documents"] = -1
    bad = tmp_path / "bad.json"
    bad.write_text(json.dumps(obj), encoding="utf-8")
    assert main(["validate", str(bad)]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 3
    assert all(line.startswith(f"error: {bad}: ") for line in said)
    assert "has 1 character" in said[1]


def test_validate_checks_answers_for_terms_and_bans(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "banned.txt").write_text("病·毒病\n", encoding="utf-8")
    assert build("--banned", "banned.txt") == 0
    assert main(["validate", "out.json", "--corpus", "corpus.jsonl"]) == 2
    assert "banned '病·毒病' stands in the answer of record 2" in capsys.readouterr().err
    (folder / "list.tsv").write_text("癌症\n", encoding="utf-8")
    assert build() == 0
    assert main(["validate", "out.json", "--corpus", "corpus.jsonl"]) == 2
    assert "no term stands in any train answer" in capsys.readouterr().err


def test_the_shipped_domain_is_sound(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", MEDICAL, "--corpus", CORPUS]) == 0
    assert "sound" in capsys.readouterr().out


def test_stats_show_lengths_kinds_weights_and_coverage(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    assert main(["stats", MEDICAL, "--corpus", CORPUS]) == 0
    said = capsys.readouterr().out
    for word in ("8 characters", "frame", "0.9-1.0", "█", "distinct terms an answer", "held out"):
        assert word in said


def test_diff_says_what_changed_and_refuses_a_moved_id(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert build("--banned", "banned.txt") == 0
    os.rename("out.json", "old.json")
    (folder / "list.tsv").write_text("病毒\tdisease\t6\n抗原\n奥司他韦\tdrug\n", encoding="utf-8")
    assert build("--previous", "old.json") == 0
    capsys.readouterr()
    assert main(["diff", "old.json", "out.json"]) == 0
    said = capsys.readouterr().out
    for words in ("1 added\n  抗原 #4", "1 removed\n  是一种 #3", "病毒: pathogen -> disease"):
        assert words in said
    assert "1 reweighted\n  病毒: 0.258" in said
    assert "2 no longer banned" in said
    assert build() == 0
    assert main(["diff", "old.json", "out.json"]) == 2
    assert "ids keep their meaning" in capsys.readouterr().err


def test_swap_puts_a_sound_version_into_the_inbox_of_a_run(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert build() == 0
    assert main(["swap", "out.json", "--run", "."]) == 2
    assert "is no run folder" in capsys.readouterr().err
    (folder / "catalogs").mkdir()
    (folder / "manifest.json").write_text("{}", encoding="utf-8")
    assert main(["swap", "out.json", "--run", "."]) == 0
    assert (folder / "catalogs/inbox/out.json").read_bytes() == (folder / "out.json").read_bytes()
    (folder / "out.json").write_text("{}", encoding="utf-8")
    assert main(["swap", "out.json", "--run", "."]) == 2
    assert load_catalog(folder / "catalogs/inbox/out.json").version == "1"


def test_a_run_on_a_gpu_takes_no_new_version_and_says_so(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert build() == 0
    (folder / "catalogs").mkdir()
    (folder / "manifest.json").write_text("{}", encoding="utf-8")
    settings = load_config("configs/medical.yaml", ["train.device=cuda"])
    (folder / "config.yaml").write_text(dump_config(settings), encoding="utf-8")
    assert main(["swap", "out.json", "--run", "."]) == 2
    assert "begin one with --set lexicon.catalog=out.json" in capsys.readouterr().err
    assert not (folder / "catalogs/inbox").exists()


class TestMedicalWeights:
    catalog = load_catalog(MEDICAL)

    def weight(self, term: str) -> float:
        entry = self.catalog.by_term[term]
        return term_weight(term, entry.df, self.catalog.documents, entry.zipf)

    def test_frames_are_cheap_and_terms_are_dear(self) -> None:
        frames = [entry.term for entry in self.catalog.entries if entry.kind == "frame"]
        assert {"是一种", "作用于", "主要用于"} <= set(frames)
        assert max(map(self.weight, frames)) <= 0.3
        assert min(map(self.weight, ("磷酸奥司他韦", "奥司他韦", "神经氨酸酶"))) > 0.6
        assert self.weight("磷酸奥司他韦") > self.weight("神经氨酸酶") > self.weight("抑制剂")
        assert self.weight("抑制剂") > self.weight("治疗") > self.weight("是一种")

    def test_train_answers_hold_six_terms_and_more_on_average(self) -> None:
        train = load_corpus(CORPUS).train
        counts = [len({t for _, t in find_terms(r.answer, self.catalog.by_term, 8)}) for r in train]
        assert min(counts) >= 1
        assert sum(counts) / len(counts) >= 6

    def test_df_is_what_a_plain_search_counts(self) -> None:
        answers = [record.answer for record in load_corpus(CORPUS).train]
        assert self.catalog.documents == len(answers)
        for entry in self.catalog.entries[::37]:
            assert entry.df == sum(entry.term in answer for answer in answers), entry.term


@pytest.mark.parametrize("verb", ["", "build", "validate", "stats", "diff", "swap"])
def test_help_shows_an_example(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([*verb.split(), "--help"])
    assert caught.value.code == 0
    assert "example:" in capsys.readouterr().out


def test_the_verb_needs_no_torch_and_ends_with_2_on_a_missing_file() -> None:
    code = (
        "import sys; from flexattn.catalog import main; c = main(['validate', 'none.json']);"
        "assert 'torch' not in sys.modules; sys.exit(c)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 2, run.stderr
    assert run.stderr.startswith("error: none.json: no such file")
    assert run.stderr.count("\n") == 1
