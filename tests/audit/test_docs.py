from __future__ import annotations

from pathlib import Path

import pytest

from flexattn.audit.findings import CODES
from flexattn.audit.schema import EVENTS, GENERATION_FIELDS, TRAIN_FIELDS

DOCS = Path(__file__).parents[2] / "docs"
ROWS = [(n, f) for n, fields in EVENTS.items() for f in fields]
ROWS += [("step", f) for f in (*TRAIN_FIELDS, *GENERATION_FIELDS)]


def test_every_field_stands_in_the_english_page_with_unit_and_meaning() -> None:
    text = (DOCS / "audit.md").read_text(encoding="utf-8")
    for _, f in ROWS:
        assert f"| `{f.name}`{'?' if f.optional else ''} | {f.kind} | {f.unit} | {f.text} |" in text
    for code, (layer, meaning) in CODES.items():
        assert f"| `{code}` | {layer} | {meaning} |" in text


@pytest.mark.parametrize("name", ["audit.md", "audit.zh.md"])
def test_every_field_and_event_is_named_in_both_languages(name: str) -> None:
    text = (DOCS / name).read_text(encoding="utf-8")
    for event, f in ROWS:
        assert f"`{event}`" in text or event == "step"
        assert f"| `{f.name}`" in text
    for code in CODES:
        assert f"| `{code}` |" in text
