from __future__ import annotations

import inspect

from flexattn.audit.schema import TRAIN_FIELDS
from flexattn.env.spec import GLOSSARY, Observation, Privileged, StepArrays


def test_every_name_of_the_glossary_is_a_key_of_a_step_line() -> None:
    keys = {field.name for field in TRAIN_FIELDS}
    assert {name.key for name in GLOSSARY} <= keys
    assert len({name.symbol for name in GLOSSARY}) == len(GLOSSARY)


def test_what_only_critics_may_see_is_in_no_observation() -> None:
    seen, hidden = (set(inspect.get_annotations(kind)) for kind in (Observation, Privileged))
    assert hidden == {"target", "future", "covered"}
    assert not seen & hidden
    assert not seen & set(inspect.get_annotations(StepArrays))
