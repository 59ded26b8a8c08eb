"""The step itself, compiled: the oracle's arithmetic, looked up instead of searched.

An environment's numbers depend on its own actions alone, so batch size and threads change no bit.
Capital letters are tables: Y answers, L terms, M mask, G bigram weights, R rules, S state.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from flexattn.env.mask import fill_legal
from flexattn.env.reward import (
    credits_of,
    lcs_gain,
    lexical_gain,
    next_pointer,
    penalty,
    soft_match,
    trigram_bit,
)
from flexattn.env.sketch import push
from flexattn.env.vocabulary import END, PAD
from flexattn.lexicon.bits import has, select
from flexattn.lexicon.compiled import compiled
from flexattn.lexicon.gate import (
    gram_weight,
    pair_count,
    saturation,
    window_jaccard,
    window_overlap,
)

Ids = npt.NDArray[np.int32]


class State(NamedTuple):
    """Everything an episode remembers, one row an environment."""

    record: Ids
    question: Ids
    t: Ids
    pointer: Ids
    covered: Ids
    automaton: Ids
    slot: Ids
    credits: Ids
    n_legal: Ids
    widened: Ids
    done: npt.NDArray[np.bool_]
    history: Ids
    credited: Ids
    lcs: npt.NDArray[np.uint64]
    trigrams: npt.NDArray[np.uint64]
    legal: npt.NDArray[np.uint64]
    ring_weight: npt.NDArray[np.float64]
    ring_share: npt.NDArray[np.float64]
    sketch: npt.NDArray[np.float32]
    scratch: npt.NDArray[np.int64]


class Out(NamedTuple):
    """StepArrays as the compiled step sees them."""

    char: Ids
    written: Ids
    term: Ids
    length: Ids
    idf: npt.NDArray[np.float64]
    sim: npt.NDArray[np.float64]
    delta: npt.NDArray[np.float64]
    ler: npt.NDArray[np.float64]
    len_cost: npt.NDArray[np.float64]
    base: npt.NDArray[np.float64]
    chi_soft: npt.NDArray[np.float64]
    reward: npt.NDArray[np.float64]
    n_legal: Ids
    illegal: npt.NDArray[np.bool_]
    terminated: npt.NDArray[np.bool_]
    truncated: npt.NDArray[np.bool_]
    gain_by_cap: npt.NDArray[np.float64]


@compiled()
def _find_slot(char: Any, r: Any, Y: Any) -> Any:
    """Which distinct character of answer r `char` is, -1 for none."""
    low, stop = Y.slot_start[r], Y.slot_start[r + 1]
    high = stop
    while low < high:
        middle = (low + high) >> 1
        if Y.slot_id[middle] < char:
            low = middle + 1
        else:
            high = middle
    return low if low < stop and Y.slot_id[low] == char else np.int64(-1)


@compiled()
def _pair(
    first: Any, second: Any, first_slot: Any, second_slot: Any, r: Any, Y: Any, G: Any, k1: Any
) -> Any:
    """(weight, share) of a bigram against answer r; slots of its characters are known."""
    weight = gram_weight(G.row, G.second, G.weight, G.unseen, first, second)
    if first_slot < 0 or second_slot < 0:
        return weight, 0.0
    tf = pair_count(Y.masks, Y.slot_mask[first_slot], Y.slot_mask[second_slot], Y.words[r])
    return weight, weight * saturation(tf, k1, Y.norm[r])


@compiled()
def _hit(place: Any, char: Any, on_target: Any, k: Any, L: Any) -> Any:
    """Term of length L.lengths[k] that starts with `char` at this place, -1 for none."""
    if on_target:
        return L.target[place, k]
    node = L.tail[place, k]
    if node < 0:
        return np.int32(-1)
    low, stop = L.child_start[node], L.child_start[node + 1]
    high = stop
    while low < high:
        middle = (low + high) >> 1
        if L.child_id[middle] < char:
            low = middle + 1
        else:
            high = middle
    if low < stop and L.child_id[low] == char:
        return L.child_term[low]
    return np.int32(-1)


@compiled()
def _longest_hit(place: Any, char: Any, on_target: Any, cap: Any, left: Any, L: Any) -> Any:
    """Column of the longest hit within `cap` and `left` characters, -1 for none."""
    for k in range(L.lengths.shape[0]):
        n = L.lengths[k]
        if n <= cap and n <= left and _hit(place, char, on_target, k, L) >= 0:
            return np.int64(k)
    return np.int64(-1)


@compiled()
def _start(i: Any, Y: Any, M: Any, S: Any) -> None:
    """Make environment i stand at the start of the answer S.record[i]."""
    S.t[i] = 0
    S.pointer[i] = 0
    S.covered[i] = 0
    S.automaton[i] = 0
    S.slot[i] = -1
    S.credits[i] = 0
    S.widened[i] = 0
    S.done[i] = False
    for k in range(Y.words[S.record[i]]):
        S.lcs[i, k] = ~np.uint64(0)
    for k in range(S.trigrams.shape[1]):
        S.trigrams[i, k] = np.uint64(0)
    for d in range(S.sketch.shape[1]):
        S.sketch[i, d] = np.float32(0.0)
    count, widened = fill_legal(S.legal[i], S.history[i], 0, 0, M)
    S.n_legal[i] = count
    S.widened[i] = widened


@compiled()
def start_all(which: Any, Y: Any, M: Any, S: Any) -> None:
    """Begin an episode in each environment of `which`, [.] int64; S.record says which answer."""
    for n in range(which.shape[0]):
        _start(which[n], Y, M, S)


@compiled(inline="always")
def _step(
    i: Any, lh: Any, lp: Any, char: Any, written: Any, enforce: Any, every_cap: Any,
    Y: Any, L: Any, M: Any, G: Any, R: Any, S: Any, out: Any,
) -> None:  # fmt: skip
    """One step of environment i; the oracle's arithmetic, looked up instead of searched."""
    r = S.record[i]
    start, size, words = Y.start[r], Y.size[r], Y.words[r]
    t, p = S.t[i], S.pointer[i]
    place = start + p
    history = S.history[i]

    illegal = char < 0 or char >= R.size or not has(S.legal[i], char)
    if illegal and enforce:
        char = np.int32(select(S.legal[i], 0))
    if written < 0:
        written = char
    is_end = char == END
    last = history[t - 1] if t > 0 else np.int32(PAD)
    on_target = p < size and Y.ids[place] == char

    slot = np.int64(-1)
    pair_weight = pair_share = 0.0
    if not is_end:
        slot = np.int64(Y.slot[place]) if on_target else _find_slot(char, r, Y)
        if t > 0:
            if on_target and p > 0 and Y.ids[place - 1] == last:
                pair_weight, pair_share = Y.weight_at[place], Y.share_at[place]
            else:
                pair_weight, pair_share = _pair(last, char, S.slot[i], slot, r, Y, G, R.k1)

    # hit, gate, gain
    for c in range(out.gain_by_cap.shape[1]):
        out.gain_by_cap[i, c] = 0.0
    term = np.int32(-1)
    length = np.int64(0)
    weight = sim = delta = ler = 0.0
    if not is_end and p + 1 < size and not Y.mark[char]:
        left = size - p
        column = _longest_hit(place, char, on_target, L.caps[lp], left, L)
        before = np.int64(-1)
        before_ler = 0.0
        first = 0 if every_cap else lp
        final = L.caps.shape[0] if every_cap else lp + 1
        for c in range(first, final):
            k = column if c == lp else _longest_hit(place, char, on_target, L.caps[c], left, L)
            gained = 0.0
            if k >= 0:
                n = L.lengths[k]
                if not R.nested and t < S.covered[i] and t + n <= S.covered[i]:
                    k = np.int64(-1)
            if k >= 0 and k == before and c != lp:
                gained = before_ler
            elif k >= 0:
                n = L.lengths[k]
                found = _hit(place, char, on_target, k, L)
                skip = max(0, n - R.window)
                kept = min(np.int64(t), R.window - n + skip)
                next_weight = next_share = 0.0
                if skip == 0:
                    if on_target:
                        next_weight, next_share = Y.weight_at[place + 1], Y.share_at[place + 1]
                    else:
                        next_weight, next_share = _pair(
                            char, Y.ids[place + 1], slot, Y.slot[place + 1], r, Y, G, R.k1
                        )
                jaccard = window_jaccard(
                    S.scratch[i], history, t, kept, char, Y.ids, place, start, skip, n
                )
                overlap = window_overlap(
                    S.ring_weight[i], S.ring_share[i], t, kept, pair_weight, pair_share,
                    next_weight, next_share, Y.weight_at, Y.share_at, place, skip, n,
                )  # fmt: skip
                similar = R.mix * jaccard + (1.0 - R.mix) * overlap
                raw = lexical_gain(similar, L.weight[found], R.lambda_lex, R.tau, R.hard)
                gained = raw * L.repeat[credits_of(found, S.credited[i], S.credits[i])]
                before, before_ler = k, gained
                if c == lp:
                    term, length, weight, sim = found, n, L.weight[found], similar
                    delta, ler = raw, gained
            if every_cap:
                out.gain_by_cap[i, c] = gained
        if delta > 0.0:
            S.credited[i, S.credits[i]] = term
            S.credits[i] += 1
            if written == char:
                S.covered[i] = max(np.int64(S.covered[i]), t + length)

    # progress, penalties, soft match
    gain = np.int64(0)
    fine = 0.0
    if is_end:
        chi_soft = 1.0 if p >= size else 0.0
    else:
        gain = lcs_gain(
            S.lcs[i], Y.masks, Y.slot_mask[slot] if slot >= 0 else -1, words, written == char
        )
        fine = penalty(
            history, t, char, S.trigrams[i], Y.mark, M.follows,
            R.p_punct, R.p_repeat, R.p_noncompliant,
        )  # fmt: skip
        if R.soft_teacher and Y.has_soft[r]:
            chi_soft = _teacher_probability(char, place, p < size, Y)
        else:
            chi_soft = soft_match(char, Y.ids, start, size, p, R.near, R.radius)
    base = R.progress * gain / max(1, size) - fine
    cost = L.cost[lh, lp]

    out.char[i] = char
    out.written[i] = written
    out.term[i] = term
    out.length[i] = length
    out.idf[i] = weight
    out.sim[i] = sim
    out.delta[i] = delta
    out.ler[i] = ler
    out.len_cost[i] = cost
    out.base[i] = base
    out.chi_soft[i] = chi_soft
    out.reward[i] = base + R.eta1 * chi_soft + R.eta2 * ler - cost
    out.n_legal[i] = S.n_legal[i]
    out.illegal[i] = illegal
    out.terminated[i] = out.truncated[i] = False

    # what the next step starts from
    if is_end:
        S.pointer[i] = min(size, p + 1)
    else:
        S.pointer[i] = next_pointer(char, Y.ids, start, size, p, R.resync, R.radius)
    if written == END:
        out.terminated[i] = True
        S.done[i] = True
    else:
        if written != char:
            slot = _find_slot(written, r, Y)
            lcs_gain(S.lcs[i], Y.masks, Y.slot_mask[slot] if slot >= 0 else -1, words, True)
            if t > 0:
                pair_weight, pair_share = _pair(last, written, S.slot[i], slot, r, Y, G, R.k1)
        if t > 1:
            bit = trigram_bit(history, t, written)
            S.trigrams[i, bit >> 6] |= np.uint64(1) << np.uint64(bit & 63)
        history[t] = written
        S.slot[i] = slot
        ring = S.ring_weight.shape[1] - 1
        S.ring_weight[i, t & ring] = pair_weight
        S.ring_share[i, t & ring] = pair_share
        S.automaton[i] = M.goto[S.automaton[i], written]
        t += 1
        S.t[i] = t
        if t > R.max_history:
            push(S.sketch[i], history[t - 1 - R.max_history])
        if t >= size + R.slack:
            out.truncated[i] = True
            S.done[i] = True
    if S.done[i]:
        for w in range(S.legal.shape[1]):
            S.legal[i, w] = np.uint64(0)
        S.legal[i, 0] = np.uint64(1 << END)
        S.n_legal[i] = 1
    else:
        count, widened = fill_legal(S.legal[i], history, t, S.automaton[i], M)
        S.n_legal[i] = count
        S.widened[i] += widened


@compiled()
def _teacher_probability(char: Any, place: Any, inside: Any, Y: Any) -> Any:
    """The teacher's probability of `char` at this place, 0 where it gave none."""
    if inside:
        for j in range(Y.soft_start[place], Y.soft_start[place + 1]):
            if Y.soft_id[j] == char:
                return Y.soft_p[j]
    return 0.0


@compiled()
def _clear(i: Any, out: Any) -> None:
    out.char[i] = PAD
    out.written[i] = PAD
    out.term[i] = -1
    out.length[i] = 0
    out.idf[i] = 0.0
    out.sim[i] = 0.0
    out.delta[i] = 0.0
    out.ler[i] = 0.0
    out.len_cost[i] = 0.0
    out.base[i] = 0.0
    out.chi_soft[i] = 0.0
    out.reward[i] = 0.0
    out.n_legal[i] = 0
    out.illegal[i] = False
    out.terminated[i] = False
    out.truncated[i] = False
    for c in range(out.gain_by_cap.shape[1]):
        out.gain_by_cap[i, c] = 0.0


@compiled()
def step_all(
    first: Any, last: Any, which: Any, active: Any, lh: Any, lp: Any, char: Any, written: Any,
    enforce: Any, every_cap: Any, Y: Any, L: Any, M: Any, G: Any, R: Any, S: Any, out: Any,
) -> None:  # fmt: skip
    """One step of each active environment of which[first:last]; the rest as in `Core.step`."""
    for n in range(first, last):
        i = which[n]
        if not active[i] or S.done[i]:
            _clear(i, out)
        else:
            _step(
                i, lh[i], lp[i], char[i], written[i], enforce, every_cap, Y, L, M, G, R, S, out
            )  # fmt: skip
