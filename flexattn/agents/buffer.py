"""Experience, kept as whole answers: a ring of finished answers and exact sampling by quota.

The word *replay* is the audit's; what a learner samples from is a *buffer*.
Shapes: B answers, T steps of the longest one, W words of a packed mask, P cap choices.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np


@dataclass
class Answers:
    """Finished answers, padded to one length; row t = length holds the state after the last step.

    Attributes:
      record: index of the teacher's record, [B] int32.
      length: steps taken, the end included, [B] int32.
      terminated: ended by end-of-answer rather than cut off, [B] bool.
      question: encoded question, [B, Q] int32.
      emitted: character taken, [B, T] int32.
      written: character that the history got, [B, T] int32.
      teacher: target character at each step, [B, T] int32.
      history_choice: index into H, [B, T] int8.
      cap_choice: index into P, [B, T] int8.
      char_reward: base + eta1 chi_soft, [B, T] float32.
      gain_by_cap: credited gain under every cap, [B, T, P] float32.
      legal: packed A(s), [B, T + 1, W] uint64.
      pointer: teacher pointer, [B, T + 1] int32.
      covered: steps that stay inside the segment credited last, [B, T + 1] int16.
    """

    record: np.ndarray
    length: np.ndarray
    terminated: np.ndarray
    question: np.ndarray
    emitted: np.ndarray
    written: np.ndarray
    teacher: np.ndarray
    history_choice: np.ndarray
    cap_choice: np.ndarray
    char_reward: np.ndarray
    gain_by_cap: np.ndarray
    legal: np.ndarray
    pointer: np.ndarray
    covered: np.ndarray

    @classmethod
    def empty(
        cls, answers: int, steps: int, *, words: int, caps: int, question_chars: int
    ) -> Answers:
        """Room for `answers` answers of at most `steps` steps."""
        return cls(
            record=np.zeros(answers, np.int32),
            length=np.zeros(answers, np.int32),
            terminated=np.zeros(answers, bool),
            question=np.zeros((answers, question_chars), np.int32),
            emitted=np.zeros((answers, steps), np.int32),
            written=np.zeros((answers, steps), np.int32),
            teacher=np.zeros((answers, steps), np.int32),
            history_choice=np.zeros((answers, steps), np.int8),
            cap_choice=np.zeros((answers, steps), np.int8),
            char_reward=np.zeros((answers, steps), np.float32),
            gain_by_cap=np.zeros((answers, steps, caps), np.float32),
            legal=np.zeros((answers, steps + 1, words), np.uint64),
            pointer=np.zeros((answers, steps + 1), np.int32),
            covered=np.zeros((answers, steps + 1), np.int16),
        )

    def only(self, rows: np.ndarray) -> Answers:
        """Some of the answers, by index or [B] bool."""
        return Answers(**{name: values[rows] for name, values in self.arrays().items()})

    def arrays(self) -> dict[str, np.ndarray]:
        """Every array by its name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


class AnswerBuffer:
    """The newest `capacity` answers."""

    def __init__(
        self, capacity: int, steps: int, *, words: int, caps: int, question_chars: int
    ) -> None:
        """Allocate everything once, so that memory is known before training starts."""
        self.store = Answers.empty(
            capacity, steps, words=words, caps=caps, question_chars=question_chars
        )
        self.capacity = capacity
        self.steps = steps
        self.added = 0

    def __len__(self) -> int:
        """Answers that can be sampled."""
        return min(self.added, self.capacity)

    def add(self, answers: Answers) -> None:
        """Take answers in order; the oldest make room."""
        rows = (self.added + np.arange(len(answers.record))) % self.capacity
        steps = answers.emitted.shape[1]
        for name, values in answers.arrays().items():
            kept = getattr(self.store, name)
            if name in ("record", "length", "terminated", "question"):
                kept[rows] = values
            else:
                kept[rows, : values.shape[1]] = values
        self.added += len(rows)
        assert steps <= self.steps

    def take(self, rows: np.ndarray) -> Answers:
        """The answers in `rows`, cut to the longest of them."""
        steps = int(self.store.length[rows].max())
        cut: dict[str, np.ndarray] = {}
        for name, kept in self.store.arrays().items():
            if name in ("record", "length", "terminated", "question"):
                cut[name] = kept[rows]
            else:
                extra = kept.shape[1] - self.steps
                cut[name] = kept[rows, : steps + extra]
        return Answers(**cut)

    def sample(self, rng: np.random.Generator, answers: int) -> np.ndarray:
        """Rows drawn uniformly with replacement."""
        return rng.integers(0, len(self), answers)


def concatenate(parts: list[Answers]) -> Answers:
    """One batch of several, padded to the longest."""
    steps = max(part.emitted.shape[1] for part in parts)
    merged: dict[str, np.ndarray] = {}
    for name in parts[0].arrays():
        columns = []
        for part in parts:
            values = getattr(part, name)
            missing = steps - part.emitted.shape[1]
            if name not in ("record", "length", "terminated", "question") and missing:
                pad = [(0, 0), (0, missing)] + [(0, 0)] * (values.ndim - 2)
                values = np.pad(values, pad)
            columns.append(values)
        merged[name] = np.concatenate(columns)
    return Answers(**merged)
