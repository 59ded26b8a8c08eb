from __future__ import annotations

import inspect
import re
from pathlib import Path

import flexattn
from flexattn.audit.schema import GENERATION_FIELDS, TRAIN_FIELDS
from flexattn.config import load_config
from flexattn.env.spec import GLOSSARY, Observation, Privileged, StepArrays

PACKAGE = Path(flexattn.__file__).parent


def test_the_glossary_has_every_key_of_a_step_line_and_no_other() -> None:
    keys = [field.name for field in (*TRAIN_FIELDS, *GENERATION_FIELDS)]
    assert {name.key for name in GLOSSARY if name.key} == set(keys)


def test_a_symbol_and_a_setting_have_one_row() -> None:
    for column in ("symbol", "key", "setting"):
        found = [getattr(name, column) for name in GLOSSARY if getattr(name, column)]
        assert len(set(found)) == len(found)


def test_the_glossarys_settings_are_keys_of_the_configuration() -> None:
    tree = load_config("configs/medical.yaml").model_dump()
    named = {name.setting for name in GLOSSARY if name.setting}
    for setting in named:
        node = tree
        for key in setting.split("."):
            node = node[key]
    greek = {f"reward.{key}" for key in tree["reward"] if re.match("lambda|alpha|eta", key)}
    assert greek <= named


def test_the_glossarys_names_stand_in_the_code() -> None:
    files = [f for f in PACKAGE.rglob("*.py") if f.name != "spec.py"]
    words = set(re.findall(r"\w+", "\n".join(f.read_text(encoding="utf-8") for f in files)))
    assert {name.code for name in GLOSSARY} <= words


def test_what_only_critics_may_see_is_in_no_observation() -> None:
    seen, hidden = (set(inspect.get_annotations(kind)) for kind in (Observation, Privileged))
    assert hidden == {"target", "future", "covered"}
    assert not seen & hidden
    assert not seen & set(inspect.get_annotations(StepArrays))
