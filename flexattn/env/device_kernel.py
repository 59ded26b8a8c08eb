"""The step of `kernel`, for a GPU: one launch a step, one lane an environment.

The arithmetic is that of `kernel`, in float64 and in the same order, so both give the same numbers.
Nothing is read back. The tables and the state's fields are laid out by `device`.
"""

from __future__ import annotations

import triton
import triton.language as tl

from flexattn.env.device_parts import (
    AUTOMATON,
    BEFORE,
    CHUNK,
    COVERED,
    CREDITS,
    DONE,
    DRAWS,
    END,
    ETA1,
    ETA2,
    HAS_SOFT,
    IS_MARK,
    LAMBDA_LEX,
    LAST,
    MIX,
    N_LEGAL,
    NEAR,
    P_NONCOMPLIANT,
    P_PUNCT,
    P_REPEAT,
    PAD,
    POINTER,
    PROGRESS,
    QUESTION,
    QUESTION_FIRST,
    QUESTIONS,
    RECORD,
    SIZE,
    SLOT,
    SLOT_FIRST,
    SLOT_STOP,
    SPAN,
    START,
    TAU,
    WIDENED,
    WORDS,
    T,
    clear,
    fill_legal,
    has,
    lcs_gain,
    longest_hit,
    pair,
    push,
    repeats_trigram,
    search,
    select,
    window_jaccard,
    window_overlap,
)


@triton.jit
def step_kernel(  # type: ignore[no-untyped-def]
    # state
    state, history, credited, lcs, ring, sketch, legal,
    # actions
    lh, lp, char_in, written_in,
    # what comes out
    ints, floats, flags, gains,
    # answers
    ids, slots, records, slot_id, slot_mask, masks, norms, weight_at, share_at,
    soft_start, soft_id, soft_p,
    # terms
    lengths, weights, tail, target, child_start, child_id, child_term, cost, caps, repeat,
    # masks
    follows, skips, writable, opening, traits, goto, blocked,
    # bigrams, rules, train records
    gram_row, gram_second, gram_weight, rules, train,
    N, TRAIN, A, seed,
    BLOCK: tl.constexpr, RANDOM: tl.constexpr, WRITTEN: tl.constexpr, GAINS: tl.constexpr,
    AUTORESET: tl.constexpr, BOOTSTRAP: tl.constexpr,
    ROOM: tl.constexpr, CREDIT_ROOM: tl.constexpr, RING: tl.constexpr, DIM: tl.constexpr,
    LCS_WORDS: tl.constexpr, CHUNKS: tl.constexpr, WINDOW: tl.constexpr, LONGEST: tl.constexpr,
    K: tl.constexpr, HS: tl.constexpr, CAPS: tl.constexpr, RADIUS: tl.constexpr,
    SLOT_STEPS: tl.constexpr, GRAM_STEPS: tl.constexpr, CHILD_STEPS: tl.constexpr,
    SOFT_MOST: tl.constexpr, SLACK: tl.constexpr, MAX_HISTORY: tl.constexpr,
    SHORTEST: tl.constexpr, NESTED: tl.constexpr, RESYNC: tl.constexpr, HARD: tl.constexpr,
    GUIDED: tl.constexpr, REACH: tl.constexpr,
):  # fmt: skip
    """One step of every environment; see `kernel._step` for what each line means."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = i < N
    i_c = tl.arange(0, CHUNK)
    row = i.to(tl.int64)
    width: tl.constexpr = CHUNKS * CHUNK
    over = tl.load(state + DONE * N + i, mask=live, other=1) != 0
    go = live & (over == 0)
    record = tl.load(state + RECORD * N + i, mask=live, other=0)
    t = tl.load(state + T * N + i, mask=live, other=0)
    p = tl.load(state + POINTER * N + i, mask=live, other=0)
    covered = tl.load(state + COVERED * N + i, mask=live, other=0)
    automaton = tl.load(state + AUTOMATON * N + i, mask=live, other=0)
    last_slot = tl.load(state + SLOT * N + i, mask=live, other=-1)
    credits = tl.load(state + CREDITS * N + i, mask=live, other=0)
    n_legal = tl.load(state + N_LEGAL * N + i, mask=live, other=1)
    last = tl.load(state + LAST * N + i, mask=live, other=0)
    before = tl.load(state + BEFORE * N + i, mask=live, other=0)
    about = records + record * 8
    start = tl.load(about + START, mask=live, other=0)
    size = tl.load(about + SIZE, mask=live, other=1)
    words = tl.load(about + WORDS, mask=live, other=1)
    norm = tl.load(norms + record, mask=live, other=1.0)
    place = start + p
    mine = legal + row * width
    past = history + row * ROOM

    # the action
    r_h = i
    r_record = i
    if RANDOM or AUTORESET:
        draws = tl.load(state + DRAWS * N + i, mask=live, other=0)
        u0, u1, u2, u3 = tl.philox(seed, i, draws, i * 0, i * 0)
        tl.store(state + DRAWS * N + i, draws + 1, mask=live)
        r_h = u0
        r_record = u3
    if RANDOM:
        h = tl.umulhi(u0, (i * 0 + HS).to(tl.uint32)).to(tl.int32)
        c = tl.umulhi(u1, (i * 0 + CAPS).to(tl.uint32)).to(tl.int32)
        rank = tl.umulhi(u2, n_legal.to(tl.uint32)).to(tl.int32)
        char = select(mine, rank, go, i_c, CHUNKS)
        illegal = go & (go == 0)
        tl.store(lh + i, h, mask=go)
        tl.store(lp + i, c, mask=go)
    else:
        h = tl.load(lh + i, mask=go, other=0)
        c = tl.load(lp + i, mask=go, other=0)
        char = tl.load(char_in + i, mask=go, other=1)
        inside = go & (char >= 0) & (char < width * 64)
        illegal = go & (has(mine, char, inside) == 0)
        if tl.max(illegal.to(tl.int32), 0) > 0:
            char = tl.where(illegal, select(mine, i * 0, illegal, i_c, CHUNKS), char)
    written = char
    if WRITTEN:
        other = tl.load(written_in + i, mask=go, other=-1)
        written = tl.where(other < 0, char, other)
    is_end = char == END
    alive = go & (is_end == 0)
    aimed = tl.load(ids + place, mask=go & (p < size), other=-1)
    on_target = go & (aimed == char)

    # slots and weights of the bigram that ends here
    slot_first = tl.load(about + SLOT_FIRST, mask=live, other=0)
    slot_stop = tl.load(about + SLOT_STOP, mask=live, other=0)
    slot = search(slot_id, slot_first, slot_stop, char, alive & (on_target == 0), SLOT_STEPS)
    slot = tl.where(on_target, tl.load(slots + place, mask=on_target, other=-1), slot)
    ready = on_target & (p > 0) & (t > 0)
    ready = ready & (tl.load(ids + place - 1, mask=ready, other=-1) == last)
    pair_weight, pair_share = pair(
        last, char, last_slot, slot, words, norm, alive & (t > 0) & (ready == 0),
        gram_row, gram_second, gram_weight, slot_mask, masks, rules, GRAM_STEPS, LCS_WORDS,
    )  # fmt: skip
    pair_weight = tl.where(ready, tl.load(weight_at + place, mask=ready, other=0.0), pair_weight)
    pair_share = tl.where(ready, tl.load(share_at + place, mask=ready, other=0.0), pair_share)

    # hit, gate, gain
    trait = tl.load(traits + char, mask=alive, other=0)
    is_mark = (trait & IS_MARK) != 0
    term = i * 0 - 1
    length = i * 0
    weight = pair_weight * 0.0
    sim = weight
    delta = weight
    ler = weight
    chance = alive & (p + 1 < size) & (is_mark == 0)
    left = size - p
    found = ()
    for k in tl.static_range(K):
        exact = tl.load(target + place * K + k, mask=chance & on_target, other=-1)
        node = tl.load(tail + place * K + k, mask=chance & (on_target == 0), other=-1)
        some = node >= 0
        if tl.max(some.to(tl.int32), 0) > 0:
            first = tl.load(child_start + node, mask=some, other=0)
            stop = tl.load(child_start + node + 1, mask=some, other=0)
            at = search(child_id, first, stop, char, some, CHILD_STEPS)
            exact = tl.where(some, tl.load(child_term + at, mask=some & (at >= 0), other=-1), exact)
        found = found + (exact,)  # type: ignore[assignment]
    kept_n = i * 0
    kept_weight = weight
    kept_sim = weight
    kept_raw = weight
    kept_ler = weight
    for cap_index in range(CAPS if GAINS else 1):
        chosen = c if not GAINS else i * 0 + cap_index
        cap = tl.load(caps + chosen)
        term_c, n = longest_hit(found, lengths, cap, left, chance, K)
        hit = term_c >= 0
        if not NESTED:
            hit = hit & ((t >= covered) | (t + n > covered))
        new = hit & (n != kept_n)
        if tl.max(new.to(tl.int32), 0) > 0:
            skip = tl.maximum(0, n - WINDOW)
            kept = tl.minimum(t, WINDOW - n + skip)
            follow = new & (skip == 0)
            quick = follow & on_target
            behind = tl.load(ids + place + 1, mask=follow, other=0)
            behind_slot = tl.load(slots + place + 1, mask=follow, other=-1)
            next_weight, next_share = pair(
                char, behind, slot, behind_slot, words, norm, follow & (on_target == 0),
                gram_row, gram_second, gram_weight, slot_mask, masks, rules, GRAM_STEPS,
                LCS_WORDS,
            )  # fmt: skip
            next_weight = tl.where(
                quick, tl.load(weight_at + place + 1, mask=quick, other=0.0), next_weight
            )
            next_share = tl.where(
                quick, tl.load(share_at + place + 1, mask=quick, other=0.0), next_share
            )
            jaccard = window_jaccard(t, kept, skip, n, char, place, start, past, ids, new, WINDOW)
            overlap = window_overlap(
                i, t, kept, skip, n, place, pair_weight, pair_share, next_weight, next_share,
                ring, weight_at, share_at, N, new, WINDOW, RING, LONGEST,
            )  # fmt: skip
            mix = tl.load(rules + MIX)
            similar = mix * jaccard + (1.0 - mix) * overlap
            worth = tl.load(weights + term_c, mask=new, other=0.0)
            lambda_lex = tl.load(rules + LAMBDA_LEX)
            if HARD:
                raw = worth * 0.0 + lambda_lex
            else:
                raw = lambda_lex * tl.maximum(0.0, similar - tl.load(rules + TAU)) * worth
            times = i * 0
            most = tl.max(tl.where(new, credits, 0), 0)
            number = 0
            while number < most:  # range() of a tensor is more than the interpreter can do
                on = new & (number < credits)
                one = tl.load(credited + row * CREDIT_ROOM + number, mask=on, other=-1)
                times += (on & (one == term_c)).to(tl.int32)
                number += 1
            credit = raw * tl.load(repeat + times, mask=new, other=0.0)
            kept_n = tl.where(new, n, kept_n)
            kept_weight = tl.where(new, worth, kept_weight)
            kept_sim = tl.where(new, similar, kept_sim)
            kept_raw = tl.where(new, raw, kept_raw)
            kept_ler = tl.where(new, credit, kept_ler)
        taken = hit & (chosen == c)
        term = tl.where(taken, term_c, term)
        length = tl.where(taken, n, length)
        weight = tl.where(taken, kept_weight, weight)
        sim = tl.where(taken, kept_sim, sim)
        delta = tl.where(taken, kept_raw, delta)
        ler = tl.where(taken, kept_ler, ler)
        if GAINS:
            gained = tl.where(hit, kept_ler, 0.0).to(tl.float32)
            tl.store(gains + row * CAPS + cap_index, gained, mask=live)
    credit_now = alive & (delta > 0.0)
    tl.store(credited + row * CREDIT_ROOM + credits, term, mask=credit_now)
    credits = tl.where(credit_now, credits + 1, credits)
    covered = tl.where(credit_now & (written == char), tl.maximum(covered, t + length), covered)

    # progress, penalties, soft match
    at = tl.load(slot_mask + slot, mask=alive & (slot >= 0), other=0)
    gain = lcs_gain(lcs, masks, at, words, i, N, alive & (slot >= 0), written == char, LCS_WORDS)
    fine = tl.where(alive & is_mark, tl.load(rules + P_PUNCT), 0.0)
    again = repeats_trigram(past, char, last, before, t, alive, tl.arange(0, SPAN))
    fine += tl.where(again, tl.load(rules + P_REPEAT), 0.0)
    last_mark = (tl.load(traits + last, mask=alive, other=0) & IS_MARK) != 0
    plain = alive & (t > 0) & (is_mark == 0) & (last_mark == 0)
    strange = plain & (has(follows + last * width, char, plain) == 0)
    fine += tl.where(strange, tl.load(rules + P_NONCOMPLIANT), 0.0)
    near = go & (go == 0)
    resynced = i * 0
    for d in tl.static_range(2 * RADIUS + 1):
        j = p + RADIUS - d  # from far ahead backwards, so that the nearest wins
        on = alive & (j >= 0) & (j < size)
        same = on & (tl.load(ids + start + j, mask=on, other=-1) == char)
        near = near | same
        if d < RADIUS:
            resynced = tl.where(same, j + 1, resynced)
    chi = tl.where(near, tl.load(rules + NEAR), 0.0)
    chi = tl.where(on_target, 1.0, chi)
    if SOFT_MOST > 0:
        told = alive & (tl.load(about + HAS_SOFT, mask=live, other=0) != 0)
        first = tl.load(soft_start + place, mask=told & (p < size), other=0)
        stop = tl.load(soft_start + place + 1, mask=told & (p < size), other=0)
        soft = chi * 0.0
        for j in range(SOFT_MOST):
            on = told & (first + j < stop)
            same = on & (tl.load(soft_id + first + j, mask=on, other=-1) == char)
            soft = tl.where(same, tl.load(soft_p + first + j, mask=same, other=0.0), soft)
        chi = tl.where(told, soft, chi)
    chi = tl.where(is_end & go, tl.where(p >= size, 1.0, 0.0), chi)
    base = tl.load(rules + PROGRESS) * gain.to(tl.float64) / tl.maximum(1, size).to(tl.float64)
    base -= fine
    spent = tl.load(cost + h * CAPS + c, mask=go, other=0.0)
    reward = base + tl.load(rules + ETA1) * chi + tl.load(rules + ETA2) * ler - spent
    ended = go & (written == END)
    moved = go & (written != END)
    t_next = tl.where(moved, t + 1, t)
    cut = moved & (t_next >= size + SLACK)

    tl.store(ints + i, tl.where(go, char, PAD), mask=live)
    tl.store(ints + N + i, tl.where(go, written, PAD), mask=live)
    tl.store(ints + 2 * N + i, term, mask=live)
    tl.store(ints + 3 * N + i, length, mask=live)
    tl.store(ints + 4 * N + i, tl.where(go, n_legal, 0), mask=live)
    tl.store(floats + i, weight.to(tl.float32), mask=live)
    tl.store(floats + N + i, sim.to(tl.float32), mask=live)
    tl.store(floats + 2 * N + i, delta.to(tl.float32), mask=live)
    tl.store(floats + 3 * N + i, ler.to(tl.float32), mask=live)
    tl.store(floats + 4 * N + i, spent.to(tl.float32), mask=live)
    tl.store(floats + 5 * N + i, tl.where(go, base, 0.0).to(tl.float32), mask=live)
    tl.store(floats + 6 * N + i, tl.where(go, chi, 0.0).to(tl.float32), mask=live)
    tl.store(floats + 7 * N + i, tl.where(go, reward, 0.0).to(tl.float32), mask=live)
    tl.store(flags + i, illegal.to(tl.int8), mask=live)
    tl.store(flags + N + i, ended.to(tl.int8), mask=live)
    tl.store(flags + 2 * N + i, cut.to(tl.int8), mask=live)

    # what the next step starts from
    p_next = tl.minimum(size, p + 1)
    if RESYNC:
        p_next = tl.where(alive & (on_target == 0) & (resynced > 0), resynced, p_next)
    if WRITTEN:
        differs = moved & (written != char)
        if tl.max(differs.to(tl.int32), 0) > 0:
            slot_w = search(slot_id, slot_first, slot_stop, written, differs, SLOT_STEPS)
            slot = tl.where(differs, slot_w, slot)
            on = differs & (slot >= 0)
            at = tl.load(slot_mask + slot, mask=on, other=0)
            lcs_gain(lcs, masks, at, words, i, N, on, on, LCS_WORDS)
            weight_w, share_w = pair(
                last, written, last_slot, slot, words, norm, differs & (t > 0),
                gram_row, gram_second, gram_weight, slot_mask, masks, rules, GRAM_STEPS,
                LCS_WORDS,
            )  # fmt: skip
            pair_weight = tl.where(differs & (t > 0), weight_w, pair_weight)
            pair_share = tl.where(differs & (t > 0), share_w, pair_share)
    tl.store(past + t, written.to(tl.int16), mask=moved)
    at = (t & (RING - 1)) * N + i
    tl.store(ring + at, pair_weight, mask=moved)
    tl.store(ring + RING * N + at, pair_share, mask=moved)
    onward = tl.load(goto + automaton * A + written, mask=moved, other=0)
    automaton = tl.where(moved, onward, automaton)
    leaves = moved & (t_next > MAX_HISTORY)
    if tl.max(leaves.to(tl.int32), 0) > 0:
        gone = tl.load(past + (t_next - 1 - MAX_HISTORY), mask=leaves, other=0).to(tl.int32)
        push(sketch, row, gone, leaves, tl.arange(0, 16), DIM)
    before = tl.where(moved, last, before)
    last = tl.where(moved, written, last)
    slot = tl.where(moved, slot, last_slot)
    done = ended | cut
    single = ended if BOOTSTRAP else done
    fill = go
    if AUTORESET:
        again = live & over
        fill = live
        if tl.max(again.to(tl.int32), 0) > 0:
            at = tl.umulhi(r_record, (i * 0 + TRAIN).to(tl.uint32)).to(tl.int32)
            fresh = tl.load(train + at, mask=again, other=0)
            many = tl.load(records + fresh * 8 + QUESTIONS, mask=again, other=1)
            many = tl.maximum(1, many - 1)  # the last phrasing is held out
            which = tl.umulhi(r_h, many.to(tl.uint32)).to(tl.int32)
            which += tl.load(records + fresh * 8 + QUESTION_FIRST, mask=again, other=0)
            tl.store(state + RECORD * N + i, fresh, mask=again)
            tl.store(state + QUESTION * N + i, which, mask=again)
            for k in tl.static_range(LCS_WORDS):
                tl.store(lcs + k * N + i, (i * 0 - 1).to(tl.int64), mask=again)
            clear(sketch, row, again, tl.arange(0, 16), DIM)
            t_next = tl.where(again, 0, t_next)
            p_next = tl.where(again, 0, p_next)
            covered = tl.where(again, 0, covered)
            automaton = tl.where(again, 0, automaton)
            slot = tl.where(again, -1, slot)
            credits = tl.where(again, 0, credits)
            last = tl.where(again, PAD, last)
            before = tl.where(again, PAD, before)
    tl.store(state + T * N + i, t_next, mask=fill)
    tl.store(state + POINTER * N + i, p_next, mask=fill)
    tl.store(state + COVERED * N + i, covered, mask=fill)
    tl.store(state + AUTOMATON * N + i, automaton, mask=fill)
    tl.store(state + SLOT * N + i, slot, mask=fill)
    tl.store(state + CREDITS * N + i, credits, mask=fill)
    tl.store(state + LAST * N + i, last, mask=fill)
    tl.store(state + BEFORE * N + i, before, mask=fill)
    tl.store(state + DONE * N + i, done.to(tl.int32), mask=fill)
    tl.debug_barrier()  # every lane has read the old row
    count, widened = fill_legal(
        legal, row, past, last, before, t_next, automaton, single & live, fill,
        follows, skips, writable, opening, blocked, traits, A, i_c,
        CHUNKS, GUIDED, REACH, SHORTEST,
    )  # fmt: skip
    tl.store(state + N_LEGAL * N + i, count, mask=fill)
    ever = tl.load(state + WIDENED * N + i, mask=fill, other=0)
    ever = tl.where(over, 0, ever) + tl.where(done, 0, widened)
    tl.store(state + WIDENED * N + i, ever, mask=fill)
