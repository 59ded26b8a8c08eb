from __future__ import annotations

from pathlib import Path

import pytest

from flexattn import jsontext
from flexattn.audit.episodes import episodes_of
from flexattn.audit.folder import RunFolder
from flexattn.config import parse_config
from flexattn.corpus import parse_corpus
from flexattn.env.reference import Domain, common, second_opinion
from flexattn.env.settings import Settings
from flexattn.errors import CatalogError
from flexattn.lexicon.entries import parse_catalog

GOLDEN = Path(__file__).parents[1] / "golden" / "sound"


def domain_of(folder: RunFolder, sha: str) -> Domain:
    catalog = parse_catalog(
        jsontext.parse(folder.catalog_bytes(sha), "tiny.json", CatalogError), "tiny.json"
    )
    settings = Settings.of(parse_config(folder.config_text(), "config.yaml"))
    return Domain(parse_corpus(folder.corpus_bytes(), "corpus.jsonl").records, catalog, settings)


def test_the_definition_gives_every_number_of_the_golden_log() -> None:
    folder = RunFolder.open(GOLDEN)
    count = 0
    for told, steps in episodes_of(folder):
        domain = domain_of(folder, told.header["catalog"])
        assert second_opinion(domain, told.header["record"], steps) is None
        count += len(steps)
    assert count == 380


@pytest.mark.parametrize("name", ["idf", "sim", "ler", "base", "reward", "n_legal", "seg", "a"])
def test_the_definition_names_the_first_step_that_parts(name: str) -> None:
    folder = RunFolder.open(GOLDEN)
    told, steps = next(episodes_of(folder))
    steps[4][name] = steps[4][name] + (1 if type(steps[4][name]) is not str else "龘")
    domain = domain_of(folder, told.header["catalog"])
    found = second_opinion(domain, told.header["record"], steps)
    assert found is not None
    assert found[0] == 4


@pytest.mark.parametrize(
    ("a", "b", "length"), [("", "", 0), ("甲", "", 0), ("甲乙丙", "甲丙", 2), ("甲乙", "乙甲", 1)]
)
def test_common_is_the_longest_common_subsequence(a: str, b: str, length: int) -> None:
    assert common(a, b) == common(b, a) == length
