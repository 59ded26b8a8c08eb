from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from flexattn import jsontext
from flexattn.audit.folder import RunFolder
from flexattn.audit.reader import segments
from flexattn.audit.story import episodes_of
from flexattn.config import parse_config
from flexattn.corpus import parse_corpus
from flexattn.env.reference import Domain, Episode, common
from flexattn.env.world import Settings
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
    for told in episodes_of(segments(folder.step_files()), folder.run_fields(), lambda _: True):
        domain = domain_of(folder, told.header["catalog"])
        episode = Episode(domain, domain.records[told.header["record"]].answer)
        for line in told.lines:
            step = orjson.loads(line)
            found = episode.step(step["Lh"], step["Lp"], step["a"], step.get("w"))
            assert found.pop("legal")
            for name, value in found.items():
                expected = (
                    pytest.approx(step[name], abs=1e-9) if type(value) is float else step[name]
                )
                assert value == expected, (told.header["ep"], step["step"], name)
            count += 1
    assert count == 380


@pytest.mark.parametrize(
    ("a", "b", "length"), [("", "", 0), ("甲", "", 0), ("甲乙丙", "甲丙", 2), ("甲乙", "乙甲", 1)]
)
def test_common_is_the_longest_common_subsequence(a: str, b: str, length: int) -> None:
    assert common(a, b) == common(b, a) == length
