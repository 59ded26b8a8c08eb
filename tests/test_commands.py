"""What the README and the guide tell a reader to type runs, at a small size; what is wrong is said.

A command is run as it stands; a training gets further `--set` so that it takes seconds.
"""

from __future__ import annotations

import glob
import importlib
import json
import re
import shlex
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "README.zh.md", *sorted((ROOT / "docs" / "guide").glob("*.md"))]
TINY = {
    "train.clone_steps": "3", "train.warmup_steps": "1", "train.sac_steps": "2",
    "train.clone_batch_answers": "2", "train.batch_answers": "2", "train.rollout_answers": "2",
    "train.rollout_every": "1", "train.evaluate_every": "3", "train.evaluate_answers": "2",
    "train.final_answers": "2", "train.checkpoint_every": "3", "train.threads": "1",
    "agent.hidden": "16", "agent.char_dim": "16", "agent.buffer_answers": "4", "env.num_envs": "2",
}  # fmt: skip
# pages whose commands make what others use come first
ORDER = ("README", "train", "own-data")


def blocks(page: Path, language: str) -> list[str]:
    """Fenced blocks of one language."""
    text = page.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def commands() -> list[str]:
    """Every distinct `python -m flexattn...` of the documents, in the order in which they work."""
    found: dict[str, None] = {}
    rank = {name: n for n, name in enumerate(ORDER)}
    for page in sorted(PAGES, key=lambda page: rank.get(page.name.split(".")[0], len(ORDER))):
        for block in blocks(page, "bash"):
            for line in block.replace("\\\n", " ").splitlines():
                for part in line.split(" #")[0].split("&&"):
                    if part.strip().startswith("python -m flexattn"):
                        found[" ".join(part.split())] = None
    return list(found)


def run(words: Sequence[str]) -> int:
    """Run `flexattn...` words in this process, shell patterns expanded."""
    module, *rest = words
    expanded = [name for word in rest for name in (sorted(glob.glob(word)) or [word])]
    verb = importlib.import_module("flexattn.__main__" if module == "flexattn" else module)
    try:
        code: int = verb.main(expanded)
    except SystemExit as stop:  # argparse
        return int(stop.code or 0)
    return code


def tiny(words: Sequence[str]) -> list[str]:
    """The same training in seconds; a resumed one is already as small as its folder says."""
    if "--resume" in words:
        return list(words)
    sets = dict(TINY)
    if not any(word.startswith("corpus.path=") for word in words):
        sets["corpus.path"] = "tiny.jsonl"
    return [*words, *(part for key, value in sets.items() for part in ("--set", f"{key}={value}"))]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A reader's folder: golden cases, a small corpus, the files that the guide tells to save."""
    torch = pytest.importorskip("torch")
    folder = tmp_path_factory.mktemp("reader")
    shutil.copytree(ROOT / "tests" / "golden", folder / "tests" / "golden")
    records = (ROOT / "corpora" / "medical.jsonl").read_text(encoding="utf-8").splitlines()
    chosen = [line for line in records if "奥司他韦" in line or "扎那米韦" in line][:6]
    (folder / "tiny.jsonl").write_text("\n".join(chosen) + "\n", encoding="utf-8")
    page = ROOT / "docs" / "guide" / "own-data.md"
    (folder / "finance.jsonl").write_text(blocks(page, "json")[0], encoding="utf-8")
    page = ROOT / "docs" / "guide" / "generate.md"
    (folder / "asked.jsonl").write_text(blocks(page, "json")[0], encoding="utf-8")
    page = ROOT / "docs" / "guide" / "own-data.md"
    (folder / "finance.txt").write_text(blocks(page, "text")[0], encoding="utf-8")
    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(strict)


@pytest.mark.parametrize("line", commands())
def test_a_documented_command_runs(
    line: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = shlex.split(line)[2:]
    if words[0] == "flexattn.train":
        words = tiny(words)
    code = run(words)
    said = capsys.readouterr()
    # two runs of five steps are no reason to accept; a report says so by its exit code
    judges = words[0] == "flexattn.report" and "--rollback" not in words
    assert code in ((1, 3) if judges else (0,)), said.err
    assert said.out.strip()


def test_the_readmes_have_exactly_two_installing_commands_and_they_are_the_same() -> None:
    for readme in PAGES[:2]:
        text = readme.read_text(encoding="utf-8")
        assert re.findall(r"^pip install .*$", text, re.MULTILINE) == [
            "pip install -c constraints.txt -e . "
            "&& python -m flexattn.train --config configs/smoke.yaml",
            "pip install -c constraints.txt -e '.[test]' && python -m pytest",
        ]


def test_the_chinese_guide_has_the_commands_of_the_english_one() -> None:
    for page in (ROOT / "docs" / "guide").glob("*.zh.md"):
        english = page.with_name(page.name.replace(".zh.md", ".md"))
        assert blocks(page, "bash") == blocks(english, "bash")


@pytest.mark.parametrize("verb", ["train", "generate", "replay", "report", "catalog", "bench"])
def test_every_verb_has_help_with_an_example(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([f"flexattn.{verb}", "--help"]) == 0
    assert "example" in (said := capsys.readouterr().out)
    assert f"python -m flexattn.{verb}" in said


# ---- what a user can do wrong ----------------------------------------------------------

MEDICAL = ROOT / "configs" / "medical.yaml"
GOOD = {"id": "1", "term": "流感", "question": "什么是流感？", "answer": "流感由病毒引起。"}
ENTRY = {"id": 1, "term": "流感", "df": 1, "zipf": None}


def catalog(*entries: dict[str, object]) -> str:
    lengths = sorted({len(str(entry["term"])) for entry in entries})
    return json.dumps({
        "schema": "flexattn.catalog/1", "name": "c", "version": "1", "language": "zh",
        "lengths": lengths, "documents": 1, "banned": [], "entries": list(entries),
    })  # fmt: skip


def corpus(*records: dict[str, object]) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def without(record: dict[str, object], key: str) -> dict[str, object]:
    return {name: value for name, value in record.items() if name != key}


CONFIG, CORPUS, CATALOG = "config.yaml", "corpus.jsonl", "catalog.json"
BAD_FILES = {
    "an unknown key": (CONFIG, lambda: edited("history_chars:", "histroy_chars:"),
                       "env.histroy_chars is not a known key; did you mean env.history_chars?"),
    "a wrong type": (CONFIG, lambda: edited("seed: 7", "seed: seven"), "seed is 'seven'"),
    "U containing 1": (CONFIG, lambda: edited("[2, 3, 4, 5, 6, 8]", "[1, 2, 3, 4, 5, 6, 8]"),
                       "lexicon.lengths contains 1"),
    "an empty configuration": (CONFIG, lambda: "", "expected sections"),
    "broken JSON in a catalog": (CATALOG, lambda: catalog(ENTRY)[:-1], CATALOG),
    "broken JSON in a corpus": (CORPUS, lambda: corpus(GOOD) + '{"id": ', f"{CORPUS}:2"),
    "a duplicate term": (CATALOG, lambda: catalog(ENTRY, ENTRY | {"id": 2}), "流感"),
    "a duplicate id": (CATALOG, lambda: catalog(ENTRY, ENTRY | {"term": "病毒"}), "id"),
    "a term with punctuation": (CATALOG, lambda: catalog(ENTRY | {"term": "流，感"}), "流，感"),
    "a term of one character": (CATALOG, lambda: catalog(ENTRY | {"term": "感"}), "single char"),
    "an empty corpus": (CORPUS, lambda: "", "holds no record"),
    "no answer holds any term": (CORPUS, lambda: corpus(GOOD | {"answer": "是一种病。"}), "term"),
    "an answer missing": (CORPUS, lambda: corpus(without(GOOD, "answer")), "answer is missing"),
    "a duplicate record": (CORPUS, lambda: corpus(GOOD, GOOD), "id"),
}  # fmt: skip


def edited(old: str, new: str) -> str:
    text = MEDICAL.read_text(encoding="utf-8")
    assert old in text
    return text.replace(old, new)


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_file_ends_with_2_and_one_line_that_names_it(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file, text, message = BAD_FILES[case]
    monkeypatch.chdir(tmp_path)
    good: dict[str, Callable[[], str]] = {
        CONFIG: lambda: MEDICAL.read_text(encoding="utf-8"),
        CORPUS: lambda: corpus(GOOD),
        CATALOG: lambda: catalog(ENTRY),
    }
    for name, content in (good | {file: text}).items():
        Path(name).write_text(content(), encoding="utf-8")
    words = ["flexattn.train", "--config", CONFIG, "--set", f"corpus.path={CORPUS}"]
    if case == "an empty configuration":
        words = words[:3]
    else:
        words += ["--set", f"lexicon.catalog={CATALOG}"]
    assert run(words) == 2
    assert one_line(capsys, file, message)
    assert not (tmp_path / "logs").exists(), "a refused run leaves no folder"


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        pytest.param("train --config none.yaml", ["none.yaml", "no such file"], id="no config"),
        pytest.param("train", ["--config"], id="neither --config nor --resume"),
        pytest.param("train --resume nowhere", ["nowhere", "expected a run folder"], id="resume"),
        pytest.param("replay nowhere", ["nowhere", "expected a run folder"], id="replay"),
        pytest.param("generate --run nowhere --question x", ["nowhere"], id="generate"),
        pytest.param("catalog validate none.json", ["none.json", "no such file"], id="catalog"),
        pytest.param("report --baseline a --candidate b", ["expected a run folder"], id="report"),
        pytest.param("train --config configs/smoke.yaml --set agent.gamma=2",
                     ["agent.gamma is 2"], id="out of range"),
        pytest.param("train --config configs/smoke.yaml --set corpus.path=gone.jsonl",
                     ["gone.jsonl", "no such file"], id="no corpus"),
        pytest.param("catalog build catalogs/medical.terms.tsv --name x --out .", [".: is a"],
                     id="a folder to write to"),
        pytest.param("catalog build catalogs/medical.terms.tsv --out no/such.json",
                     ["no/such.json: No such file"], id="a folder that isn't there"),
        pytest.param("catalog build catalogs/medical.terms.tsv --out a --propose ./a",
                     ["--propose ./a: is the file of --out too"], id="two texts, one file"),
        pytest.param("catalog build catalogs/medical.terms.tsv --out a --propose-top 0",
                     ["--propose-top 0: expected 1 or more"], id="no proposals"),
        pytest.param("catalog corpus x.tsv --out a --max-chars -1",
                     ["--max-chars -1: expected 0 or more"], id="a length below 0"),
        pytest.param("report --baseline a --candidate b --promote s --out o",
                     ["--promote: goes with --baseline and --candidate alone"], id="promote"),
        pytest.param("report --baseline a --candidate b --bench .",
                     [".: is a folder, expected a file"], id="a folder as bench"),
        pytest.param("generate --run a --questions .", [".: is a folder"], id="questions"),
        pytest.param("generate --run a --question x --values --out o", ["--values: goes with"],
                     id="values"),
    ],
)  # fmt: skip
def test_a_missing_thing_ends_with_2_and_one_line(
    line: str, parts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    verb, *rest = shlex.split(line)
    assert run([f"flexattn.{verb}", *rest]) == 2
    assert one_line(capsys, *parts)


def test_a_run_whose_catalog_was_changed_is_refused(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = place / "logs" / "smoke"
    if not source.exists():
        assert run(tiny(["flexattn.train", "--config", "configs/smoke.yaml"])) == 0
    changed = place / "logs" / "changed"
    shutil.copytree(source, changed)
    file = next((changed / "catalogs").iterdir())
    file.write_bytes(file.read_bytes().replace("奥司他韦".encode(), "奥司他伟".encode(), 1))
    capsys.readouterr()
    for words in (
        ["flexattn.replay", "logs/changed"],
        ["flexattn.generate", "--run", "logs/changed", "--question", "什么是奥司他韦？"],
        ["flexattn.train", "--resume", "logs/changed"],
    ):
        assert run(words) == 2
        assert one_line(capsys, "logs/changed/catalogs/", file.name[:8])


def one_line(capsys: pytest.CaptureFixture[str], *parts: str) -> bool:
    """Whether stderr is one line that starts with "error: " and holds all parts."""
    said = capsys.readouterr().err
    assert said.startswith("error: "), said
    assert said.count("\n") == 1, said
    for part in parts:
        assert part in said, said
    return True
