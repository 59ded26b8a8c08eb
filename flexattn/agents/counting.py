"""Stage A's characters: counts of what followed, the most telling context first.

    p(a|s) = sum over contexts c, most telling first, of  w_c (1 - e(c)) count(c, a) / count(c)
    w_1 = 1,   w_{c+1} = w_c e(c);   the contexts end where w falls below LEAST
    what is left then, LEAST or more, is spread over A(s)
    e(c) = kinds(c) / (count(c) + kinds(c)),   or SURE where kinds(c) = 1

A context is a topic of the question with the number of the step and the last character written,
with the last k <= Lh characters, or with the number of the step. Topics, most telling first: the
whole question, its last term, its first term, the last two characters of a term, the last one (a
term's end says what kind of thing it is), nothing. Before a term's end comes the name: how often an
answer goes on copying the term that is asked for, where it has written some of it, is counted too,
so an answer about an unseen term begins with that term.
Counted over train answers alone; an unseen context passes its whole weight on.
Sources: e(c) is Witten and Bell 1991, IEEE Transactions on Information Theory 37; contexts that one
character alone ever followed are trusted more since Cleary, Teahan and Witten 1995, PPM*.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from flexattn.agents.counting_kernel import (
    ASKED,
    MANY,
    NOTHING,
    TOPICS,
    CountTables,
    Floats,
    Ids,
    count_copies,
    decide,
    emit,
    know,
    openness_into,
    put,
    term_key,
    topics_into,
)
from flexattn.env.vocabulary import UNK
from flexattn.env.world import World

OPENNESS = 6  # values of `CountingModel.openness`


class Writing(NamedTuple):
    """What the counts say about n states.

    Attributes:
      size: characters of the longest term up to each cap that begins what is expected, [n, |P|]
        int64, 0 for none.
      worth: its weight, [n, |P|].
      inside: an earlier term ends no sooner than the longest of them, [n] bool.
      char: likeliest legal character, the lowest id of several, [n] int32.
      probability: of that character over A(s), [n].
      pi: over A(s), [n, V], 0 where illegal; no rows where it was not asked for.
    """

    size: npt.NDArray[np.int64]
    worth: Floats
    inside: npt.NDArray[np.bool_]
    char: Ids
    probability: Floats
    pi: Floats


class Known(NamedTuple):
    """What the counts give a network in n states.

    Attributes:
      log_p: log p(a|s) of every legal pair, [J] float32.
      expected: weights and lengths / L_max of the terms that are expected under each cap, and
        whether an earlier term covers them, [n, 2 |P| + 1] float32; no rows if not asked for.
    """

    log_p: npt.NDArray[np.float32]
    expected: npt.NDArray[np.float32]


class CountingModel:
    """Counts over the train answers of one world, and the terms of its catalog."""

    def __init__(self, world: World) -> None:
        """Count; a few seconds for a few thousand answers."""
        settings = world.settings
        self.world = world
        self.windows = np.array(settings.history_chars, np.int64)
        self.caps = np.array(settings.hit_cap_chars, np.int64)
        self.longest = max(settings.lengths)
        self.tables = _count(world, int(self.windows[-1]))
        alphabet = world.vocabulary.alphabet
        self._weight = np.zeros(alphabet)
        self._touched = np.zeros(alphabet, np.int32)
        self._line = np.zeros(settings.max_history + int(self.caps[-1]), np.int32)

    @property
    def counts_sha256(self) -> str:
        """Hash of all counts, 64 hex digits; the catalog's terms are not among them."""
        tables = self.tables
        digest = hashlib.sha256()
        counts = (tables.keys, tables.context, tables.start, tables.char, tables.times)
        for array in (*counts, tables.copied):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def asked(self) -> Callable[[Ids], npt.NDArray[np.uint64]]:
        """A function from encoded questions to topics that remembers the last questions."""
        last: list[npt.NDArray[Any]] = []

        def topics(question: Ids) -> npt.NDArray[np.uint64]:
            if not last or not np.array_equal(last[0], question):
                last[:] = [question.copy(), topics_of(question)]
            return last[1]

        return topics

    def openness(
        self, envs: npt.NDArray[np.int64], history: Ids, topics: npt.NDArray[np.uint64], step: Ids
    ) -> npt.NDArray[np.int64]:
        """What the smallest Lh leaves open in the rows `envs`, [n] below `OPENNESS`.

        0 a context that train answers don't have, 1 one character, 2 several; 3 more where a clause
        begins.
        """
        out = np.zeros(len(envs), np.int64)
        openness_into(envs, history, topics, step, self.windows[0], self.tables, out)
        return out

    def write(
        self,
        envs: npt.NDArray[np.int64],
        history: Ids,
        topics: npt.NDArray[np.uint64],
        step: Ids,
        window: npt.NDArray[np.int64],
        legal: npt.NDArray[np.uint64],
        dense: bool,
    ) -> Writing:
        """What the counts say in the rows `envs`.

        Args:
          envs: which rows, n of them.
          history: [N, max_history] ids.
          topics: [N, ASKED].
          step: [N], characters written.
          window: Lh of each of the n rows, characters.
          legal: packed A(s), [N, W].
          dense: whether to fill `pi`.
        """
        n = len(envs)
        made = Writing(
            np.zeros((n, len(self.caps)), np.int64), np.zeros((n, len(self.caps))),
            np.zeros(n, np.bool_), np.zeros(n, np.int32), np.zeros(n),
            np.zeros((n if dense else 0, self.world.size)),
        )  # fmt: skip
        decide(
            envs, history, topics, step, window, legal, self.caps, self.longest,
            self._weight, self._touched, self._line, self.tables,
            made.size, made.worth, made.inside, made.char, made.probability, made.pi,
        )  # fmt: skip
        return made

    def know(
        self,
        lines: Ids,
        topics: npt.NDArray[np.uint64],
        step: npt.NDArray[np.int64],
        window: npt.NDArray[np.int64],
        legal: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]],
        foresee: bool,
    ) -> Known:
        """What the counts give a network.

        Args:
          lines: [n, max_history] ids, right-aligned.
          topics: [n, ASKED].
          step: [n], characters written.
          window: Lh of each, characters, [n].
          legal: first pair of each state, [n + 1], and the pairs' ids, [J].
          foresee: whether to fill `expected`.
        """
        rows = len(lines) if foresee else 0
        size, worth = np.zeros((rows, len(self.caps)), np.int64), np.zeros((rows, len(self.caps)))
        inside = np.zeros(rows, np.bool_)
        log_p = np.empty(len(legal[1]), np.float32)
        know(
            lines, topics, step, window, *legal, self.caps, self.longest,
            self._weight, self._touched, self._line, self.tables, log_p, size, worth, inside,
        )  # fmt: skip
        return Known(log_p, self.expected(size, worth, inside))

    def expected(
        self, size: npt.NDArray[np.int64], worth: Floats, inside: npt.NDArray[np.bool_]
    ) -> npt.NDArray[np.float32]:
        """What is expected, as a network sees it, [n, 2 |P| + 1]; see `Writing` and `Known`."""
        columns = [worth, size / self.longest, inside[:, None]]
        return np.concatenate(columns, 1).astype(np.float32)


def topics_of(question: Ids) -> npt.NDArray[np.uint64]:
    """Topics of encoded questions, most telling first, and names, [N, Q] -> [N, ASKED] uint64."""
    out = np.zeros((len(question), ASKED), np.uint64)
    for n in range(len(question)):
        topics_into(question[n], out[n])
    return out


def _count(world: World, orders: int) -> CountTables:
    keys, chars, copied = _pairs(world, orders)
    order = np.lexsort((chars, keys))
    keys, chars = keys[order], chars[order]
    new_key = np.append(True, keys[1:] != keys[:-1])
    new_pair = new_key | np.append(True, chars[1:] != chars[:-1])
    pair = np.flatnonzero(new_pair)
    count = np.diff(np.append(pair, len(keys))).astype(np.float64)
    start = np.flatnonzero(new_key[pair])
    contexts = keys[pair[start]]
    total = np.add.reduceat(count, start)
    slots, numbers = _table(contexts)
    vocabulary = world.vocabulary
    hashes = np.zeros(len(world.term_list), np.uint64)
    for n, term in enumerate(world.term_list):
        ids = vocabulary.encode(term)
        if len(term) in world.settings.lengths and (ids != UNK).all():
            term_key(ids, hashes[n : n + 1])
    usable = np.flatnonzero(hashes)
    term_slots, places = _table(hashes[usable])
    return CountTables(
        keys=slots,
        context=numbers,
        start=np.append(start, len(pair)).astype(np.int64),
        total=total,
        char=chars[pair].astype(np.int32),
        times=count,
        term_keys=term_slots,
        term=usable.astype(np.int32)[places] if len(usable) else places,
        weight=world.terms.weight,
        mark=vocabulary.marks,
        copied=copied,
    )


def _pairs(world: World, orders: int) -> tuple[npt.NDArray[np.uint64], Ids, Floats]:
    """(context, character) of every place of every train answer under each topic; copies."""
    keys, chars, copied = [], [], np.zeros((2, MANY + 1, 2))
    for record in world.train.tolist():
        answer = world.answer(record)
        first, last = world.question_start[record : record + 2]
        asked = world.question_ids[first : max(first + 1, last - 1)]
        name = world.encode_question(world.records[record].term)[None]
        count_copies(answer, topics_of(name)[0], copied)
        topics = np.unique(topics_of(np.concatenate([asked, name]))[:, :TOPICS])
        topics = topics[topics != 0]
        room = len(topics) * (len(answer) + 1) * (orders + 3)
        key, char, n = np.zeros(room, np.uint64), np.zeros(room, np.int32), 0
        for topic in topics:
            n = emit(answer, topic, orders, topic == NOTHING, key, char, n)
        keys.append(key[:n])
        chars.append(char[:n])
    return np.concatenate(keys), np.concatenate(chars), copied


def _table(hashes: npt.NDArray[np.uint64]) -> tuple[npt.NDArray[np.uint64], Ids]:
    """An open table of distinct hashes, at most three quarters full: slots, the hash's number."""
    room = 1 << max(4, (4 * len(hashes) // 3).bit_length())
    slots, numbers = np.zeros(room, np.uint64), np.zeros(room, np.int32)
    put(slots, numbers, hashes)
    return slots, numbers
