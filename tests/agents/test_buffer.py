"""Whole answers go in and come out unchanged, the oldest leave first."""

from __future__ import annotations

import numpy as np

from flexattn.agents.buffer import AnswerBuffer, Answers, concatenate

ROOM = {"words": 2, "caps": 3, "question_chars": 4}


def _answers(lengths: list[int], first: int = 0) -> Answers:
    made = Answers.empty(len(lengths), max(lengths), **ROOM)
    made.record[:] = first + np.arange(len(lengths))
    made.length[:] = lengths
    for row, length in enumerate(lengths):
        made.emitted[row, :length] = 100 * (first + row) + np.arange(length)
        made.legal[row, : length + 1] = 7
    return made


def test_answers_come_back_as_they_went_in_cut_to_the_longest_drawn() -> None:
    buffer = AnswerBuffer(4, 9, **ROOM)
    buffer.add(_answers([3, 9, 2]))
    taken = buffer.take(np.array([2, 0]))
    assert taken.emitted.tolist() == [[200, 201, 0], [0, 1, 2]]
    assert taken.legal.shape == (2, 4, 2)
    assert taken.length.tolist() == [2, 3]


def test_the_oldest_answers_make_room() -> None:
    buffer = AnswerBuffer(3, 5, **ROOM)
    buffer.add(_answers([1, 2]))
    buffer.add(_answers([3, 4], first=2))
    assert sorted(buffer.store.record.tolist()) == [1, 2, 3]
    assert len(buffer) == 3
    assert buffer.added == 4


def test_a_batch_of_several_parts_is_padded_to_the_longest() -> None:
    both = concatenate([_answers([2]), _answers([4], first=1)])
    assert both.emitted.tolist() == [[0, 1, 0, 0], [100, 101, 102, 103]]
    assert both.legal.shape == (2, 5, 2)
