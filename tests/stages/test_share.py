from __future__ import annotations

import math

import pytest

from flexattn.stages.share import goes_newer

IDS = [f"request-{n}" for n in range(20_000)]


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.9])
def test_the_share_is_what_was_asked_within_four_standard_errors(share: float) -> None:
    found = sum(goes_newer(name, share) for name in IDS) / len(IDS)
    assert abs(found - share) < 4 * math.sqrt(share * (1 - share) / len(IDS))


def test_nobody_goes_at_0_and_everybody_at_1() -> None:
    assert not any(goes_newer(name, 0.0) for name in IDS)
    assert all(goes_newer(name, 1.0) for name in IDS)


def test_a_larger_share_takes_nobody_back() -> None:
    small = {name for name in IDS if goes_newer(name, 0.1)}
    assert small <= {name for name in IDS if goes_newer(name, 0.3)}


def test_an_id_goes_the_same_way_in_every_version() -> None:
    # the first ids that a tenth takes; a change here would move users between stages
    assert [n for n, name in enumerate(IDS) if goes_newer(name, 0.1)][:5] == [11, 27, 49, 55, 65]
