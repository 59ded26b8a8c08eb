from __future__ import annotations

import pytest

from flexattn.env.vocabulary import END, PAD, UNK, Vocabulary


@pytest.fixture
def vocabulary() -> Vocabulary:
    return Vocabulary.build(["热寒，", "寒"], ["热寒，", "虚A"])


def test_ids_are_specials_then_train_characters_then_others_by_code_point(
    vocabulary: Vocabulary,
) -> None:
    assert [vocabulary.char(n) for n in range(8)] == ["", "", "\ufffd", "寒", "热", "，", "A", "虚"]
    assert (vocabulary.size, vocabulary.alphabet) == (6, 8)


def test_text_comes_back_from_its_ids(vocabulary: Vocabulary) -> None:
    ids = vocabulary.encode("虚热，")
    assert ids.tolist() == [7, 4, 5]
    assert vocabulary.decode([*ids, END, PAD]) == "虚热，"


def test_an_unknown_character_is_unk_and_an_other_one_is_seen_as_unk(
    vocabulary: Vocabulary,
) -> None:
    ids = vocabulary.encode("肝虚寒")
    assert ids.tolist() == [UNK, 7, 3]
    assert vocabulary.visible(ids).tolist() == [UNK, UNK, 3]


def test_many_texts_stand_two_pads_apart(vocabulary: Vocabulary) -> None:
    assert vocabulary.encode_all(["寒", "热肝"]).tolist() == [0, 0, 3, 0, 0, 4, UNK, 0, 0]
