"""What counts say about a state: compiled, over arrays, without a world.

A context's key is a hash of its topic and of what it holds; keys of two contexts are the same by
one chance in 2^63. For that every hash begins with a seed larger than any id (an id that equals
what it is mixed into leaves nothing), and so is the tag in front of what a context holds.
`counting` says what the contexts are and makes the tables.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from flexattn.env.vocabulary import END, PAD
from flexattn.lexicon.bits import has, popcount, select
from flexattn.lexicon.compiled import compiled

Ids = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float64]

TOPICS = 6  # of a question, most telling first; 0 where there is none
KNOWN_TERMS = 3  # the first topics: the question and its terms; the others are of a term's end
NAME = 12  # characters of the term that is asked for, behind the topics; 0 where it ends
MANY = 3  # characters of it that were written, or more: they are counted together
ASKED = TOPICS + NAME
NOTHING = np.uint64(0xD1B54A32D192ED03)  # the topic that every answer has
SURE = 0.1  # share that a context with one follower passes on
LEAST = 5e-10  # weight that is no longer passed on

# seeds of terms, of a term's last two characters, of its last one
_TERM = np.uint64(0x8CB92BA72F3D8DD7)
_TWO = np.uint64(0xA0761D6478BD642F)
_LAST = np.uint64(0xE7037ED1A0B428DB)
# tags: the characters written before, their number, the step
_BEFORE, _LENGTH, _PLACE = 1 << 32, 1 << 33, 1 << 34
_MIX = np.uint64(0x9E3779B97F4A7C15)
_MIX2 = np.uint64(0xBF58476D1CE4E5B9)
_S29, _S32, _ONE = np.uint64(29), np.uint64(32), np.uint64(1)


class CountTables(NamedTuple):
    """Contexts and catalog terms, each in an open hash table, and what followed a context.

    Args:
      keys: [slots] uint64, hash of a context; 0 where the slot is empty.
      context: [slots] int32, number of that context.
      start: [contexts + 1] int64, its run in `char` and `times`.
      total: [contexts] float64, count(c).
      char: [.] int32, what followed.
      times: [.] float64, how often.
      term_keys: [term slots] uint64, hash of a term of a length in U.
      term: [term slots] int32, its index.
      weight: [terms] float64, the logged `idf`.
      mark: [A] bool, which ids are punctuation.
      copied: [2, MANY + 1, 2] float64, whether the answer began with it, characters of the name
        that were just written -> how often that was so, and how often the name went on.
    """

    keys: npt.NDArray[np.uint64]
    context: Ids
    start: npt.NDArray[np.int64]
    total: Floats
    char: Ids
    times: Floats
    term_keys: npt.NDArray[np.uint64]
    term: Ids
    weight: Floats
    mark: npt.NDArray[np.bool_]
    copied: Floats


@compiled()
def _mix(h: Any, value: Any) -> Any:
    """One more value into a hash; never 0."""
    h = (h ^ (np.uint64(value) + _ONE)) * _MIX
    h = (h ^ (h >> _S29)) * _MIX2
    return (h ^ (h >> _S32)) | _ONE


@compiled()
def _find(keys: Any, values: Any, key: Any) -> Any:
    """What the table holds for a key, -1 where it is not there."""
    mask = np.uint64(keys.shape[0] - 1)
    slot = (key >> _ONE) & mask
    while keys[slot] != 0:
        if keys[slot] == key:
            return np.int64(values[slot])
        slot = (slot + _ONE) & mask
    return np.int64(-1)


@compiled()
def put(keys: Any, values: Any, new: Any) -> None:
    """Put new[n] -> n into an empty table that has room to spare."""
    mask = np.uint64(keys.shape[0] - 1)
    for n in range(new.shape[0]):
        slot = (new[n] >> _ONE) & mask
        while keys[slot] != 0:
            slot = (slot + _ONE) & mask
        keys[slot], values[slot] = new[n], n


@compiled()
def topics_into(question: Any, out: Any) -> None:
    """Topics of one encoded question, most telling first, and the name, into out[ASKED]."""
    out[:] = np.uint64(0)
    size = 0
    while size < question.shape[0] and question[size] != PAD:
        size += 1
    if size > 0 and question[size - 1] == END:  # the cut fell behind a term
        size -= 1
    last = 0
    first_end = size
    for n in range(size):
        if question[n] == END:
            last = n + 1
            first_end = min(first_end, n)
    whole = _TERM
    tail = _TERM
    head = _TERM
    for n in range(size):
        whole = _mix(whole, question[n])
        if n >= last:
            tail = _mix(tail, question[n])
        if n < first_end:
            head = _mix(head, question[n])
    if size > 0:
        out[0] = whole
        if tail != whole:
            out[1] = tail
            if head != tail:
                out[2] = head
        if size - last >= 2:
            out[3] = _mix(_mix(_TWO, question[size - 2]), question[size - 1])
        out[4] = _mix(_LAST, question[size - 1])
    out[5] = NOTHING
    for n in range(last, min(size, last + NAME)):
        out[TOPICS + n - last] = np.uint64(question[n])


@compiled()
def _copying(line: Any, asked: Any, step: Any) -> Any:
    """Characters of the name that stand at the line's end while more of it follow, -1: no name."""
    size = 0
    while size < NAME and asked[TOPICS + size] != 0:
        size += 1
    seen = line.shape[0]
    for m in range(min(size - 1, int(step)), 0, -1):
        same = True
        for j in range(m):
            same = same and np.int64(line[seen - m + j]) == np.int64(asked[TOPICS + j])
        if same:
            return m
    return 0 if size > 0 else -1


@compiled()
def count_copies(answer: Any, asked: Any, copied: Any) -> None:
    """Where one answer goes on with the name that is asked for, added to `copied`."""
    for t in range(answer.shape[0]):
        m = _copying(answer[:t], asked, t)
        if m >= 0:
            first, many = np.int64(t == m), min(m, MANY)
            copied[first, many, 0] += 1.0
            copied[first, many, 1] += np.int64(answer[t]) == np.int64(asked[TOPICS + m])


@compiled()
def emit(answer: Any, topic: Any, orders: Any, nothing: Any, keys: Any, chars: Any, n: Any) -> Any:
    """Every (context, character) of one answer under one topic; returns the next free place."""
    size = answer.shape[0]
    for t in range(size + 1):
        char = answer[t] if t < size else np.int32(END)
        h = _mix(topic, _BEFORE)
        for k in range(orders + 1):
            if k > 0:
                back = t - k
                h = _mix(h, answer[back] if back >= 0 else np.int32(PAD))
            keys[n], chars[n] = _mix(h, _LENGTH + k), char
            n += 1
        if not nothing:
            place = _mix(_mix(topic, _PLACE), t)
            last = answer[t - 1] if t > 0 else np.int32(PAD)
            keys[n], chars[n] = place, char
            keys[n + 1], chars[n + 1] = _mix(place, last), char
            n += 2
    return n


@compiled()
def _order(turn: Any, window: Any) -> Any:
    """Characters of the turn-th context under a topic, Lh .. 2, then 1, 0.

    The first one is the step with the last character (-2); the step alone (-1) stands before 1.
    """
    if turn == 0:
        return np.int64(-2)
    if turn < window:
        return np.int64(window + 1 - turn)
    return np.int64(-1) if turn == window else np.int64(window + 2 - turn)


@compiled()
def _context(history: Any, topic: Any, step: Any, order: Any, C: Any) -> Any:
    """Number of a context, -1 where train answers don't have it."""
    if order < 0:
        place = _mix(_mix(topic, _PLACE), step)
        if order == -2:
            place = _mix(place, history[history.shape[0] - 1])
        return _find(C.keys, C.context, place)
    h = _mix(topic, _BEFORE)
    for j in range(order):
        h = _mix(h, history[history.shape[0] - 1 - j])
    return _find(C.keys, C.context, _mix(h, _LENGTH + order))


@compiled()
def _weigh(
    history: Any, topics: Any, step: Any, window: Any, best: Any, weight: Any, touched: Any, C: Any
) -> Any:
    """Weights of the characters seen in the contexts of one state.

    Args:
      history: ids written, right-aligned, PAD on the left.
      topics: [ASKED] uint64.
      step: characters written.
      window: Lh, characters.
      best: stop where one character stands so far ahead that no further context can change it.
      weight: [A] float64, zeros; filled.
      touched: [A] int32, the ids that got a weight.
      C: CountTables.

    Returns: (number of touched ids, weight that is left for all legal characters).
    """
    n, left = 0, 1.0
    for m in range(TOPICS):
        if m == KNOWN_TERMS:
            place = _copying(history, topics, step)
            first, many = np.int64(step == place), min(place, MANY)
            if place >= 0 and C.copied[first, many, 1] > 0.0:
                times, of = C.copied[first, many, 1], C.copied[first, many, 0]
                given = left * (1.0 - (SURE if times == of else 2.0 / (of + 2.0))) * times / of
                char = np.int32(topics[TOPICS + place])
                if weight[char] == 0.0:
                    touched[n] = char
                    n += 1
                weight[char] += given
                left -= given
                if left < LEAST or (best and n == 1 and weight[touched[0]] > left):
                    return n, left
        if topics[m] == 0:
            continue
        for turn in range(window + 3):
            order = _order(turn, window)
            if order < 0 and topics[m] == NOTHING:
                continue
            c = _context(history, topics[m], step, order, C)
            if c < 0:
                continue
            first, stop = C.start[c], C.start[c + 1]
            kinds = stop - first
            passed = SURE if kinds == 1 else kinds / (C.total[c] + kinds)
            for i in range(first, stop):
                char = C.char[i]
                if weight[char] == 0.0:
                    touched[n] = char
                    n += 1
                weight[char] += left * (1.0 - passed) * C.times[i] / C.total[c]
            left *= passed
            if left < LEAST or (best and n == 1 and weight[touched[0]] > left):
                return n, left
    return n, left


@compiled()
def _likeliest(weight: Any, touched: Any, n: Any) -> Any:
    """The touched id of the largest weight, the lowest of several; -1 where none is touched."""
    best = np.int64(-1)
    for i in range(n):
        char = np.int64(touched[i])
        if (
            best < 0
            or weight[char] > weight[best]
            or (weight[char] == weight[best] and char < best)
        ):
            best = char
    return best


@compiled()
def _clear(weight: Any, touched: Any, n: Any) -> None:
    for i in range(n):
        weight[touched[i]] = 0.0


@compiled()
def _expect(line: Any, seen: Any, ahead: Any, topics: Any, step: Any, window: Any,
            weight: Any, touched: Any, C: Any) -> Any:  # fmt: skip
    """Write what the counts would go on with behind line[:seen]; returns how many characters."""
    for n in range(ahead):
        count, _ = _weigh(line[: seen + n], topics, step + n, window, True, weight, touched, C)
        best = _likeliest(weight, touched, count)
        _clear(weight, touched, count)
        if best <= END:
            return n
        line[seen + n] = best
    return ahead


@compiled()
def _term_at(line: Any, start: Any, stop: Any, C: Any) -> Any:
    """Index of the catalog term that line[start:stop] is, -1 for none."""
    key = _TERM
    for n in range(start, stop):
        key = _mix(key, line[n])
    return _find(C.term_keys, C.term, key)


@compiled()
def term_key(ids: Any, out: Any) -> None:
    """The key that `_term_at` asks for, into out[0]."""
    key = _TERM
    for n in range(ids.shape[0]):
        key = _mix(key, ids[n])
    out[0] = key


@compiled()
def _offer(line: Any, seen: Any, expected: Any, cap: Any, C: Any) -> Any:
    """(characters, weight) of the longest term up to `cap` that begins what is expected."""
    if expected == 0 or C.mark[line[seen]]:
        return 0, 0.0
    for size in range(min(cap, expected), 1, -1):
        term = _term_at(line, seen, seen + size, C)
        if term >= 0:
            return size, C.weight[term]
    return 0, 0.0


@compiled()
def _inside(line: Any, seen: Any, expected: Any, size: Any, longest: Any, C: Any) -> Any:
    """Whether a term that began earlier ends no sooner than the next `size` characters."""
    for back in range(1, min(longest, seen + 1)):
        for ahead in range(size, min(longest - back, expected) + 1):
            if _term_at(line, seen - back, seen + ahead, C) >= 0:
                return True
    return False


@compiled()
def _foresee(
    line: Any, seen: Any, caps: Any, longest: Any, topics: Any, step: Any, window: Any,
    weight: Any, touched: Any, C: Any, size: Any, worth: Any,
) -> Any:  # fmt: skip
    """Longest term under each cap of what is expected behind line[:seen], into `size`, `worth`.

    Returns: whether an earlier term ends no sooner than the longest of them.
    """
    ahead = _expect(line, seen, caps[-1], topics, step, window, weight, touched, C)
    for p in range(caps.shape[0]):
        size[p], worth[p] = _offer(line, seen, ahead, caps[p], C)
    last = size[caps.shape[0] - 1]
    return last > 0 and _inside(line, seen, ahead, last, longest, C)


@compiled()
def openness_into(
    envs: Any, history: Any, topics: Any, step: Any, window: Any, C: Any, out: Any
) -> None:
    """How many characters the narrowest window leaves open, and whether a clause begins."""
    for n in range(envs.shape[0]):
        i = envs[n]
        c = _context(history[i], topics[i, 0], np.int64(step[i]), window, C)
        kinds = 0 if c < 0 else min(2, C.start[c + 1] - C.start[c])
        last = history[i, history.shape[1] - 1]
        out[n] = kinds + 3 * (last == PAD or C.mark[last])


@compiled()
def decide(
    envs: Any, history: Any, topics: Any, step: Any, window: Any, legal: Any, caps: Any,
    longest: Any, weight: Any, touched: Any, line: Any, C: Any,
    size: Any, worth: Any, inside: Any, char: Any, probability: Any, pi: Any,
) -> None:  # fmt: skip
    """What is expected, the likeliest legal character and its probability; pi where it has rows.

    Args:
      envs: [n] int64, which rows of the arrays decide.
      window: [n] int64, Lh of each.
      legal: [N, W] uint64.
      caps: [|P|] int64, P.
      longest: max(U), characters.
      weight, touched, line: room for one state.
      pi: [n, V] float64, or no rows.
    """
    seen = history.shape[1]
    for n in range(envs.shape[0]):
        i = envs[n]
        t = np.int64(step[i])
        for n_seen in range(seen):
            line[n_seen] = history[i, n_seen]
        inside[n] = _foresee(
            line, seen, caps, longest, topics[i], t, window[n], weight, touched, C,
            size[n], worth[n],
        )  # fmt: skip
        count, left = _weigh(history[i], topics[i], t, window[n], False, weight, touched, C)
        row = legal[i]
        total = 0.0
        best: Any = np.int64(-1)
        allowed: Any = np.int64(0)
        for w in range(row.shape[0]):
            allowed += np.int64(popcount(row[w]))
        for k in range(count):
            a = np.int64(touched[k])
            if a < 64 * row.shape[0] and has(row, a):
                total += weight[a]
                if best < 0 or weight[a] > weight[best] or (weight[a] == weight[best] and a < best):
                    best = a
        left = max(left, LEAST)
        total += left
        if best < 0:
            best = select(row, 0)
        char[n] = best
        probability[n] = (weight[best] + left / allowed) / total
        if pi.shape[0]:
            for v in range(pi.shape[1]):
                if has(row, v):
                    pi[n, v] = (weight[v] + left / allowed) / total
        _clear(weight, touched, count)


@compiled()
def know(
    lines: Any, topics: Any, step: Any, window: Any, start: Any, ids: Any, caps: Any, longest: Any,
    weight: Any, touched: Any, line: Any, C: Any, log_p: Any, size: Any, worth: Any, inside: Any,
) -> None:  # fmt: skip
    """log p(a|s) of every legal pair, and what is expected where `size` has rows.

    Args:
      lines: [n, max history] int32, characters written, right-aligned.
      topics: [n, ASKED] uint64.
      step: [n] int64, characters written.
      window: [n] int64, Lh of each.
      start: [n + 1] int64, first pair of each state.
      ids: [J] int64, action of each pair.
      caps: [|P|] int64, P.
      longest: max(U), characters.
      weight, touched, line: room for one state.
      C: CountTables.
      log_p: [J] float32.
      size, worth, inside: as in `decide`, or no rows.
    """
    seen = lines.shape[1]
    for n in range(lines.shape[0]):
        first, stop = start[n], start[n + 1]
        count, left = _weigh(lines[n], topics[n], step[n], window[n], False, weight, touched, C)
        left = max(left, LEAST)
        total = left
        for j in range(first, stop):
            total += weight[ids[j]]
        for j in range(first, stop):
            log_p[j] = np.log((weight[ids[j]] + left / (stop - first)) / total)
        _clear(weight, touched, count)
        if size.shape[0]:
            for k in range(seen):
                line[k] = lines[n, k]
            inside[n] = _foresee(
                line, seen, caps, longest, topics[n], step[n], window[n], weight, touched, C,
                size[n], worth[n],
            )  # fmt: skip
