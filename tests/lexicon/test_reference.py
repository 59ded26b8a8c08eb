from __future__ import annotations

import pytest

from flexattn.lexicon.reference import completions, find_terms, grams, longest_capped_hit

TERMS = {"流感", "流感病毒", "流感病毒性", "病毒", "感病", "。流感"}
U = (2, 3, 4, 5)


@pytest.mark.parametrize(
    ("char", "future", "cap", "expected"),
    [
        pytest.param("流", "感病毒性肺炎", 5, "流感病毒性", id="longest first"),
        pytest.param("流", "感病毒性肺炎", 4, "流感病毒", id="within the cap"),
        pytest.param("流", "感病毒性肺炎", 3, "流感", id="the cap is no term's length"),
        pytest.param("流", "感病", 5, "流感", id="the future ends"),
        pytest.param("流", "行", 5, None, id="no hit is None"),
        pytest.param("毒", "", 5, None, id="one character never hits"),
        pytest.param("。", "流感", 5, None, id="punctuation never hits"),
        pytest.param("", "流感", 5, None, id="the end never hits"),
        pytest.param("病", "毒", 1, None, id="a cap below 2"),
    ],
)
def test_a_hit_is_the_longest_term_within_the_cap(
    char: str, future: str, cap: int, expected: str | None
) -> None:
    assert longest_capped_hit(char, future, TERMS, U, cap) == expected


def test_a_length_outside_u_never_hits() -> None:
    assert longest_capped_hit("流", "感病毒", TERMS, (2, 3), 8) == "流感"


def test_completions_are_the_characters_that_make_a_tail_a_term() -> None:
    assert completions("病", TERMS) == {"感": "感病"}
    assert completions("感病毒", TERMS) == {"流": "流感病毒"}
    assert completions("行", TERMS) == {}


def test_terms_are_found_leftmost_longest_without_overlap() -> None:
    assert find_terms("甲流感病毒病毒感", TERMS, 5) == [(1, "流感病毒"), (5, "病毒")]
    assert find_terms("", TERMS, 5) == []


def test_one_character_is_its_own_gram() -> None:
    assert [grams(text) for text in ("", "寒", "寒热寒")] == [[], ["寒"], ["寒热", "热寒"]]
