"""The tutorial of docs/your-own-domain.md, from its raw table to the way back, at a small size."""

from __future__ import annotations

import glob
import importlib
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"
PAGE = DOCS / "your-own-domain.md"
SMALL = {
    "train.clone_steps": 3, "train.warmup_steps": 1, "train.sac_steps": 2,
    "train.clone_batch_answers": 2, "train.batch_answers": 2, "train.rollout_answers": 4,
    "train.rollout_every": 1, "train.evaluate_every": 3, "train.evaluate_answers": 2,
    "train.final_answers": 3, "train.checkpoint_every": 3, "agent.hidden": 16,
    "agent.char_dim": 16, "agent.buffer_answers": 4, "env.num_envs": 2,
}  # fmt: skip
# a report on one seed decides nothing, and says so by its exit code
CODES = {"report --baseline": (1, 3)}


def blocks(page: Path, language: str) -> list[str]:
    text = page.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


COMMANDS = [line for block in blocks(PAGE, "bash") for line in block.splitlines()]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("reader")
    (folder / "law.tsv").write_text(blocks(PAGE, "tsv")[0], encoding="utf-8")
    (folder / "terms.txt").write_text(blocks(PAGE, "text")[0], encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_of_the_tutorial_runs(
    line: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program, *words = shlex.split(line)
    if program != "python":
        subprocess.run([program, *words], check=True)
        return
    module, *rest = words[1:]
    rest = [name for word in rest for name in (sorted(glob.glob(word)) or [word])]
    if module == "flexattn.train":
        rest[rest.index("--seeds") + 1] = "0"
        rest += ["--workers", "1"]
        rest += [part for key, n in SMALL.items() for part in ("--set", f"{key}={n}")]
    code = importlib.import_module(module).main(rest)
    said = capsys.readouterr()
    expected = next((codes for start, codes in CODES.items() if start in line), (0,))
    assert code in expected, said.err
    assert said.out.strip()


def test_the_folder_that_serves_has_gone_back_and_its_log_is_sound(place: Path) -> None:
    from flexattn.stages.serving import Serving

    state = Serving.open(place / "serving" / "own").state()
    assert (state.last, state.share) == ("rollback", 0.0)


def test_both_languages_have_the_same_files_and_commands() -> None:
    other = PAGE.with_name("your-own-domain.zh.md")
    for language in ("bash", "tsv", "text"):
        assert blocks(PAGE, language) == blocks(other, language)
