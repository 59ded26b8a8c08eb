from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import orjson
import pytest

from flexattn import report
from flexattn.audit.folder import RunFolder
from flexattn.audit.writer import RunLog
from flexattn.config import Config, dump_config, load_config
from flexattn.evaluation.rows import REGIMES, Decisions, Scorer
from flexattn.lexicon.entries import parse_catalog

ROOT = Path(__file__).parents[1]
CONFIG = load_config(ROOT / "configs" / "medical.yaml")
TERMS = ["奥司他韦", "神经氨酸酶", "抑制剂", "流感"]
CATALOG = {
    "schema": "flexattn.catalog/1", "name": "tiny", "version": "1", "language": "zh",
    "lengths": [2, 3, 4, 5], "documents": 4, "banned": [],
    "entries": [{"id": i, "term": t, "df": 1, "zipf": None} for i, t in enumerate(TERMS)],
}  # fmt: skip
ANSWERS = {
    "a": "奥司他韦是神经氨酸酶的抑制剂。", "b": "流感是一种病。", "c": "抑制剂用于流感的治疗。",
}  # fmt: skip
CORPUS = b"\n".join(
    orjson.dumps({"id": i, "term": i * 2, "question": "?", "answer": y, "split": "train"})
    for i, y in ANSWERS.items()
)
SCORER = Scorer.of(ANSWERS.values(), dict.fromkeys(TERMS, 1), (2, 3, 4, 5, 6, 8), (3, 4, 5, 6))


def make_run(folder: Path, seed: int, quality: int) -> str:
    """A finished run whose student writes the reference up to `quality` characters from its end."""
    config: Config = CONFIG.model_copy(update={"seed": seed})
    catalog = parse_catalog(CATALOG, "tiny.json")
    run = RunFolder.create(
        folder,
        config=dump_config(config).encode(),
        corpus=CORPUS,
        catalogs={"tiny.json": catalog.canonical_bytes()},
    )
    lines = []
    for step in (10, 20):
        for regime in REGIMES if step == 20 else ("greedy",):
            for name, answer in ANSWERS.items():
                output = answer[: len(answer) - quality - seed % 2 + (step == 20)] + "<i>"
                n = len(output)
                made = Decisions([2] * n, [3] * n, list(range(n)), ["-"] * n, [0.0] * n, [0.1] * n)
                row = SCORER.row(regime, step, name, f"<b>{name}</b>?", output, answer, made)
                lines.append(replace(row, characters=step * 90).line())
    (folder / "evaluations.jsonl").write_bytes(b"".join(lines))
    with RunLog(run, config.log) as log:
        log.event("end")
    return str(folder)


@pytest.fixture(scope="module")
def arms(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], list[str]]:
    place = tmp_path_factory.mktemp("logs")
    return (
        [make_run(place / f"base-{seed}", seed, quality=6) for seed in (1, 2, 3)],
        [make_run(place / f"flex-{seed}", seed, quality=2) for seed in (1, 2, 3)],
    )


def run_report(baseline: list[str], candidate: list[str], *more: str) -> int:
    return report.main(
        ["--baseline", *baseline, "--candidate", *candidate, "--draws", "200", *more]
    )


def test_a_report_is_printed_and_written_and_says_what_was_not_measured(
    arms: tuple[list[str], list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = run_report(*arms, "--out", str(tmp_path / "out"), "--arm", *arms[0])
    printed = capsys.readouterr().out
    tree = orjson.loads((tmp_path / "out" / "report.json").read_bytes())
    assert tree["schema"] == "flexattn.report/1"
    words = {(kpi["name"], kpi["regime"]): kpi["verdict"] for kpi in tree["kpis"]}
    assert words["rouge_l", "greedy"] == "PASS"
    assert words["tokens_per_s", ""] == "INCONCLUSIVE"
    assert words["word_noncompliance", "noise_10"] in ("ERROR", "FAIL", "INCONCLUSIVE")
    assert code == {"FAIL": 1, "ERROR": 1, "INCONCLUSIVE": 3}[tree["verdict"]]
    assert f"verdict: {tree['verdict']}" in printed
    assert len(tree["arms"]) == 3
    assert tree["arms"][0]["regimes"]["greedy"]["rouge_l"] > 0.7


def test_the_page_needs_nothing_beside_itself_and_escapes_what_a_run_wrote(
    arms: tuple[list[str], list[str]], tmp_path: Path
) -> None:
    run_report(*arms, "--out", str(tmp_path))
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"<(script|link|img|iframe)|https?://|url\(", page)
    assert "&lt;i&gt;" in page
    assert "<i>" not in page
    assert "&lt;b&gt;a&lt;/b&gt;?" in page
    for part in ("Learning curves", "Choices of Lh and Lp", "Policy beside the exact optimum"):
        assert part in page
    assert page.count("<svg") == 8


def test_the_same_seed_writes_the_same_report(
    arms: tuple[list[str], list[str]], tmp_path: Path
) -> None:
    for name in ("one", "two"):
        run_report(*arms, "--out", str(tmp_path / name))
    for file in ("report.json", "index.html"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_what_cannot_be_compared_is_refused_in_one_line(
    arms: tuple[list[str], list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    baseline, candidate = arms
    cases = [
        (baseline[:2], candidate, "expected the same seeds in both arms"),
        ([baseline[0], baseline[0]], candidate, "has seed 1 like"),
        ([str(tmp_path / "none")], candidate, "is no folder, expected a run folder"),
        (baseline, [str(tmp_path)], "holds no manifest.json"),
    ]
    for one, two, message in cases:
        assert run_report(one, two) == 2
        said = capsys.readouterr().err
        assert said.startswith("error: ")
        assert message in said
        assert said.count("\n") == 1
    assert run_report(baseline, candidate, "--seed", "-1") == 2
    assert "expected 100 or more and 0 or more" in capsys.readouterr().err


def test_changed_evaluations_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = make_run(tmp_path / "one", 1, 3), make_run(tmp_path / "two", 1, 3)
    file = tmp_path / "two" / "evaluations.jsonl"
    file.write_bytes(file.read_bytes().replace(b'"rouge_l":0.', b'"rouge_l":1.', 1))
    assert run_report([one], [two]) == 2
    assert "it was changed after the run" in capsys.readouterr().err
    file.unlink()
    assert run_report([one], [two]) == 2
    assert "is missing, expected the evaluations" in capsys.readouterr().err


def test_an_unfinished_run_is_refused_with_the_way_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = make_run(tmp_path / "one", 1, 3), make_run(tmp_path / "two", 1, 3)
    for file in (tmp_path / "two").glob("steps-*"):
        file.unlink()
    assert run_report([one], [two]) == 2
    assert "isn't finished" in (said := capsys.readouterr().err)
    assert "--resume" in said
