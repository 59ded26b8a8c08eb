"""The map in the README and the map in the package's docstring name what lies on the disk."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import flexattn

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "flexattn"
MODULES = {
    path.stem
    for path in PACKAGE.iterdir()
    if (path.suffix == ".py" and not path.stem.startswith("_")) or (path / "__init__.py").exists()
}
TRANSLATIONS = ["README.md", "README.zh.md"]


def tree_of(readme: str) -> tuple[set[str], set[str]]:
    """Top-level folders, and modules of the package, that a README's map names."""
    text = (ROOT / readme).read_text(encoding="utf-8")
    blocks = re.findall(r"^```\w*\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    block = next(block for block in blocks if "\nflexattn/\n" in block)
    folders = set(re.findall(r"^(\w+)/", block, re.MULTILINE))
    modules = re.findall(r"^  (\w+(?:\.py)?)", block, re.MULTILINE)
    return folders, {name.removesuffix(".py") for name in modules}


@pytest.mark.parametrize("readme", TRANSLATIONS)
def test_the_readme_names_every_module_and_no_other(readme: str) -> None:
    assert tree_of(readme)[1] == MODULES


@pytest.mark.parametrize("readme", TRANSLATIONS)
def test_the_readme_names_folders_that_exist(readme: str) -> None:
    folders = tree_of(readme)[0]
    assert {name for name in folders if not (ROOT / name).is_dir()} == set()
    assert folders >= {"configs", "catalogs", "corpora", "docs", "tests", "flexattn"}


def test_the_docstring_of_the_package_is_a_map_of_all_modules() -> None:
    text = flexattn.__doc__ or ""
    # a column of the map is a name, two blanks or more, and what it is
    named = set(re.findall(r"(?:^|\s{2,})([a-z]+)\s{2,}\S", text, re.MULTILINE))
    verbs = re.search(r"Verbs, each `python -m flexattn\.<verb>`: ([\w, ]+)\.", text)
    assert verbs is not None
    assert named | set(verbs[1].split(", ")) == MODULES


def test_every_verb_of_the_script_is_a_module_and_the_other_way_round() -> None:
    from flexattn.__main__ import VERBS

    listed = re.search(r"<verb>`: ([\w, ]+)\.", flexattn.__doc__ or "")
    assert listed is not None
    assert set(listed[1].split(", ")) == set(VERBS)
    assert set(VERBS) <= MODULES


@pytest.mark.parametrize(
    "room",
    ["agents", "attention", "audit", "env", "evaluation", "generation", "lexicon", "stages"],
)
def test_the_docstring_of_a_room_names_its_files(room: str) -> None:
    text = ast.get_docstring(ast.parse((PACKAGE / room / "__init__.py").read_text("utf-8"))) or ""
    files = {path.stem for path in (PACKAGE / room).glob("*.py")} - {"__init__"}
    assert files - set(re.findall(r"\w+", text)) == set()


def test_every_link_inside_the_documents_leads_somewhere() -> None:
    broken = []
    pages = [
        page for name in ("docs", "catalogs", "corpora") for page in (ROOT / name).rglob("*.md")
    ]
    for page in [*ROOT.glob("*.md"), *pages]:
        text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        broken += [
            f"{page.relative_to(ROOT)}: {target}"
            for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text)
            if "://" not in target and not (page.parent / target).exists()
        ]
    assert broken == []
