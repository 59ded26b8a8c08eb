from __future__ import annotations

import pytest

from flexattn.env.questions import QuestionEncoder
from flexattn.env.vocabulary import END, PAD, UNK, Vocabulary

NAMES = {"奥司他韦": "奥司他韦", "达菲": "奥司他韦", "流感": "流感"}
TERMS = {"抗病毒", "病毒", "流感病毒"}


def encoder(raw: bool = False, chars: int = 12) -> QuestionEncoder:
    vocabulary = Vocabulary.build(["奥司他韦抗流感病毒。", "请问什么是"])
    return QuestionEncoder(vocabulary, NAMES, lambda: TERMS, chars, raw)


@pytest.mark.parametrize(
    ("question", "found"),
    [
        pytest.param("请问什么是‘奥司他韦’？", ["奥司他韦"], id="term"),
        pytest.param("达菲是什么？", ["奥司他韦"], id="an alias is its term"),
        pytest.param("达菲即奥司他韦吗？", ["奥司他韦"], id="once"),
        pytest.param("流感病毒与达菲", ["流感", "奥司他韦"], id="records before the catalog"),
        pytest.param("抗病毒是什么？", ["抗病毒"], id="catalog, leftmost-longest"),
        pytest.param("这是什么？", [], id="nothing"),
    ],
)
def test_a_question_is_the_terms_in_it(question: str, found: list[str]) -> None:
    assert encoder().find(question) == found


def test_terms_are_characters_with_end_between_and_pad_behind() -> None:
    vocabulary = Vocabulary.build(["奥司他韦抗流感病毒。", "请问什么是"])
    row = encoder().encode("流感和达菲").tolist()
    assert row[:7] == [*vocabulary.encode("流感"), END, *vocabulary.encode("奥司他韦")]
    assert set(row[7:]) == {PAD}


def test_a_question_without_a_term_is_its_characters_and_a_long_one_is_cut() -> None:
    row = encoder(chars=3).encode("什么东西")
    assert row.tolist()[2] == UNK
    assert len(row) == 3


def test_raw_keeps_everything() -> None:
    assert (encoder(raw=True).encode("请问什么是流感") != PAD).sum() == 7
