"""What the step on a GPU is made of: searches, packed sets, weights of bigrams, the gate, A(s).

Each function is its namesake in `kernel`, `gate`, `reward`, `sketch` or `mask`, one lane an
environment, float64 and the same order of sums. `live` says which lanes ask; the others get zeros.
Rows of masks, histories and sketches are taken as tiles, several lanes to a row.
"""

from __future__ import annotations

import triton
import triton.language as tl

# rows of the integer state, [FIELDS, N] int32
RECORD = tl.constexpr(0)
QUESTION = tl.constexpr(1)
T = tl.constexpr(2)
POINTER = tl.constexpr(3)
COVERED = tl.constexpr(4)
AUTOMATON = tl.constexpr(5)
SLOT = tl.constexpr(6)
CREDITS = tl.constexpr(7)
N_LEGAL = tl.constexpr(8)
WIDENED = tl.constexpr(9)
DONE = tl.constexpr(10)
LAST = tl.constexpr(11)
BEFORE = tl.constexpr(12)
DRAWS = tl.constexpr(13)

# columns of the record table, [R, 8] int32
START = tl.constexpr(0)
SIZE = tl.constexpr(1)
WORDS = tl.constexpr(2)
SLOT_FIRST = tl.constexpr(3)
SLOT_STOP = tl.constexpr(4)
QUESTION_FIRST = tl.constexpr(5)
QUESTIONS = tl.constexpr(6)
HAS_SOFT = tl.constexpr(7)

# entries of the rules, [.] float64
LAMBDA_LEX = tl.constexpr(0)
TAU = tl.constexpr(1)
ETA1 = tl.constexpr(2)
ETA2 = tl.constexpr(3)
PROGRESS = tl.constexpr(4)
P_PUNCT = tl.constexpr(5)
P_REPEAT = tl.constexpr(6)
P_NONCOMPLIANT = tl.constexpr(7)
NEAR = tl.constexpr(8)
MIX = tl.constexpr(9)
K1 = tl.constexpr(10)
UNSEEN = tl.constexpr(11)

# bits of a character
IS_MARK = tl.constexpr(1)
NO_DOUBLE = tl.constexpr(2)
SENTENCE_END = tl.constexpr(4)

PAD = tl.constexpr(0)
END = tl.constexpr(1)
FEWEST = tl.constexpr(3)
DECAY = tl.constexpr(0.95)
CHUNK = tl.constexpr(8)  # words of a mask that are taken together
SPAN = tl.constexpr(32)  # characters of a history that are


@triton.jit
def popcount(x):  # type: ignore[no-untyped-def]
    """Ones in a 64-bit word, int32."""
    x = x - ((x >> 1) & 0x5555555555555555)
    x = (x & 0x3333333333333333) + ((x >> 2) & 0x3333333333333333)
    x = (x + (x >> 4)) & 0x0F0F0F0F0F0F0F0F
    return ((x * 0x0101010101010101) >> 56).to(tl.int32)


@triton.jit
def load_word(at, live):  # type: ignore[no-untyped-def]
    """Load 64 bits."""
    return tl.load(at, mask=live, other=0).to(tl.uint64, bitcast=True)


@triton.jit
def has(row, member, live):  # type: ignore[no-untyped-def]
    """Is `member` in the packed set that starts at `row`?"""
    word = load_word(row + (member >> 6), live)
    return live & (((word >> (member & 63).to(tl.uint64)) & 1) != 0)


@triton.jit
def search(table, low, stop, wanted, live, STEPS: tl.constexpr):  # type: ignore[no-untyped-def]
    """Where `wanted` stands in the increasing table[low:stop], -1 for nowhere."""
    high = stop
    for _ in range(STEPS):
        go = live & (low < high)
        middle = (low + high) >> 1
        less = go & (tl.load(table + middle, mask=go, other=0) < wanted)
        low = tl.where(less, middle + 1, low)
        high = tl.where(go & (less == 0), middle, high)
    inside = live & (low < stop)
    return tl.where(inside & (tl.load(table + low, mask=inside, other=-1) == wanted), low, -1)


@triton.jit
def select(row, rank, live, i_c, CHUNKS: tl.constexpr):  # type: ignore[no-untyped-def]
    """The member with `rank` smaller members; the packed sets start at `row`, [BLOCK] pointers."""
    base = rank * 0
    word = base.to(tl.uint64)
    at = base
    left = base
    for chunk in range(CHUNKS):
        col = chunk * CHUNK + i_c
        words = load_word(row[:, None] + col[None, :], live[:, None])
        ones = popcount(words)
        upto = tl.cumsum(ones, 1) + base[:, None]
        here = (upto > rank[:, None]) & (upto - ones <= rank[:, None])
        word += tl.sum(tl.where(here, words.to(tl.int64, bitcast=True), 0), 1).to(
            tl.uint64, bitcast=True
        )
        at += tl.sum(tl.where(here, col[None, :] * 64, 0), 1)
        left += tl.sum(tl.where(here, rank[:, None] - (upto - ones), 0), 1)
        base += tl.sum(ones, 1)
    for half in tl.static_range(6):
        low = popcount(word & ((1 << (32 >> half)) - 1))
        up = left >= low
        left = tl.where(up, left - low, left)
        at = tl.where(up, at + (32 >> half), at)
        word = tl.where(up, word >> (32 >> half), word)
    return at


@triton.jit
def pair(  # type: ignore[no-untyped-def]
    first, second, first_slot, second_slot, words, norm, live,
    gram_row, gram_second, gram_weight, slot_mask, masks, rules,
    GRAM_STEPS: tl.constexpr, LCS_WORDS: tl.constexpr,
):  # fmt: skip
    """(weight, share) of a bigram against an answer; slots of its characters are known."""
    low = tl.load(gram_row + first, mask=live, other=0)
    stop = tl.load(gram_row + first + 1, mask=live, other=0)
    at = search(gram_second, low, stop, second, live, GRAM_STEPS)
    seen = live & (at >= 0)
    weight = tl.where(
        seen, tl.load(gram_weight + at, mask=seen, other=0.0), tl.load(rules + UNSEEN)
    )
    both = live & (first_slot >= 0) & (second_slot >= 0)
    a = tl.load(slot_mask + first_slot, mask=both, other=0)
    b = tl.load(slot_mask + second_slot, mask=both, other=0)
    count = first * 0
    carry = count.to(tl.uint64)
    for k in tl.static_range(LCS_WORDS):
        on = both & (k < words)
        word = load_word(masks + a + k, on)
        count += popcount(((word << 1) | carry) & load_word(masks + b + k, on))
        carry = word >> 63
    tf = count.to(tl.float64)
    k1 = tl.load(rules + K1)
    clipped = tl.minimum(1.0, tf * (k1 + 1.0) / (tf + norm))
    share = weight * tl.where(count > 0, clipped, 0.0)
    return tl.where(live, weight, 0.0), tl.where(both, share, 0.0)


@triton.jit
def letter_of(  # type: ignore[no-untyped-def]
    k, kept, skip, t, char, place, row, ids, live
):  # fmt: skip
    """Character k of our window: history, the emitted character, the teacher's behind it."""
    past = tl.load(row + (t - kept + k), mask=live & (k < kept), other=0).to(tl.int32)
    beyond = k - kept + skip
    ahead = tl.load(ids + place + beyond, mask=live & (beyond > 0) & (k >= kept), other=0)
    return tl.where(k < kept, past, tl.where(beyond == 0, char, ahead))


@triton.jit
def window_jaccard(  # type: ignore[no-untyped-def]
    t, kept, skip, n, char, place, start, row, ids, live, WINDOW: tl.constexpr
):  # fmt: skip
    """Jaccard of the bigram sets of our window and the teacher's; see `gate.window_jaccard`."""
    size = kept + n - skip
    stop = place + n
    theirs = tl.maximum(start, stop - size)
    mine = ()
    yours = ()
    before = letter_of(0, kept, skip, t, char, place, row, ids, live & (size > 0))
    tl.static_assert(WINDOW >= 2)
    teacher = tl.load(ids + theirs, mask=live & (theirs < stop), other=0)
    for k in tl.static_range(1, WINDOW):
        on = live & (k < size)
        letter = letter_of(k, kept, skip, t, char, place, row, ids, on)
        mine = mine + (tl.where(on, (before << 16) | letter, -1),)  # type: ignore[assignment]
        before = letter
        on = live & (theirs + k < stop)
        letter = tl.load(ids + theirs + k, mask=on, other=0)
        yours = yours + (tl.where(on, (teacher << 16) | letter, -1),)  # type: ignore[assignment]
        teacher = letter
    ours = t * 0
    others = t * 0
    common = t * 0
    for k in tl.static_range(WINDOW - 1):
        fresh = mine[k] != -1  # type: ignore[var-annotated]
        new = yours[k] != -1  # type: ignore[var-annotated]
        shared = new & (new == 0)  # type: ignore[var-annotated]
        for j in tl.static_range(WINDOW - 1):
            if j < k:
                fresh = fresh & (mine[j] != mine[k])
                new = new & (yours[j] != yours[k])
            shared = shared | (mine[j] == yours[k])
        ours += fresh.to(tl.int32)
        others += new.to(tl.int32)
        common += (new & shared).to(tl.int32)
    union = ours + others - common
    share = common.to(tl.float64) / tl.maximum(union, 1).to(tl.float64)
    return tl.where(union > 0, share, 1.0)


@triton.jit
def window_overlap(  # type: ignore[no-untyped-def]
    i, t, kept, skip, n, place, pair_weight, pair_share, next_weight, next_share,
    ring, weight_at, share_at, N, live,
    WINDOW: tl.constexpr, RING: tl.constexpr, LONGEST: tl.constexpr,
):  # fmt: skip
    """BM25-lite of our window against the answer, summed in `gate.window_overlap`'s order."""
    mass = pair_weight * 0.0
    got = mass
    for d in tl.static_range(WINDOW - 1):
        j = t - kept + 1 + d
        on = live & (j < t)
        slot = (j & (RING - 1)) * N + i
        mass += tl.load(ring + slot, mask=on, other=0.0)
        got += tl.load(ring + RING * N + slot, mask=on, other=0.0)
    mass += tl.where(kept > 0, pair_weight, 0.0)
    got += tl.where(kept > 0, pair_share, 0.0)
    mass += next_weight
    got += next_share
    for j in tl.static_range(2, LONGEST):
        on = live & (j > skip) & (j < n)
        mass += tl.load(weight_at + place + j, mask=on, other=0.0)
        got += tl.load(share_at + place + j, mask=on, other=0.0)
    return tl.where(mass > 0.0, got / tl.where(mass > 0.0, mass, 1.0), 0.0)


@triton.jit
def longest_hit(found, lengths, cap, left, live, K: tl.constexpr):  # type: ignore[no-untyped-def]
    """(term, length) of the longest hit within `cap` and `left`; -1 and 0 for none."""
    term = left * 0 - 1
    length = left * 0
    for j in tl.static_range(K):
        n = tl.load(lengths + K - 1 - j)
        ok = live & (found[K - 1 - j] >= 0) & (n <= cap) & (n <= left)
        term = tl.where(ok, found[K - 1 - j], term)
        length = tl.where(ok, n, length)
    return term, length


@triton.jit
def lcs_gain(lcs, masks, at, words, i, N, live, keep, LCS_WORDS: tl.constexpr):  # type: ignore[no-untyped-def]
    """LCS(h c, y) - LCS(h, y), 0 or 1; where `keep` the row then stands for h c."""
    carry = (words * 0).to(tl.uint64)
    for k in tl.static_range(LCS_WORDS):
        on = live & (k < words)
        v = load_word(lcs + k * N + i, on)
        match = v & load_word(masks + at + k, on)
        total = v + match
        over = total < v
        total += carry
        over = over | (total < carry)
        carry = tl.where(on, over.to(tl.uint64), carry)
        tl.store(lcs + k * N + i, (total | (v - match)).to(tl.int64, bitcast=True), mask=on & keep)
    return carry.to(tl.int32)


@triton.jit
def repeats_trigram(row, char, last, before, t, live, i_s):  # type: ignore[no-untyped-def]
    """Does `char` close a trigram that stands among the t characters written?"""
    asked = live & (t >= 3)
    most = tl.max(tl.where(asked, t, 0), 0)
    found = t * 0
    base = 0
    while base < most:
        col = base + i_s
        on = asked[:, None] & (col[None, :] >= 2) & (col[None, :] < t[:, None])
        at = row[:, None] + col[None, :]
        same = tl.load(at, mask=on, other=0).to(tl.int32) == char[:, None]
        same = same & (tl.load(at - 1, mask=on, other=0).to(tl.int32) == last[:, None])
        same = same & (tl.load(at - 2, mask=on, other=0).to(tl.int32) == before[:, None])
        found = tl.maximum(found, tl.max((same & on).to(tl.int32), 1))
        base += SPAN
    return found != 0


@triton.jit
def push(sketch, row, char, live, i_d, DIM: tl.constexpr):  # type: ignore[no-untyped-def]
    """Let `char` leave the history: decay the sketch and add e(char); see `sketch.push`."""
    half: tl.constexpr = DIM - DIM // 2
    bits = (char.to(tl.uint64) + 1) * 0x9E3779B97F4A7C15
    bits = (bits ^ (bits >> 31)) * 0xBF58476D1CE4E5B9
    bits = bits ^ (bits >> 32)
    first = ((bits >> 7) & 0xFFFFF).to(tl.int32) % half
    up = tl.where((bits & 1) != 0, 1.0, -1.0)
    second = first
    also = up
    if half < DIM:
        second = half + ((bits >> 32) & 0xFFFFF).to(tl.int32) % (DIM - half)
        also = tl.where((bits & 2) != 0, 1.0, -1.0)
    for base in range(0, DIM, 16):
        col = base + i_d
        on = live[:, None] & (col[None, :] < DIM)
        at = sketch + row[:, None] * DIM + col[None, :]
        value = tl.load(at, mask=on, other=0.0) * DECAY
        value = tl.where(col[None, :] == first[:, None], value + up[:, None], value)
        if half < DIM:
            value = tl.where(col[None, :] == second[:, None], value + also[:, None], value)
        tl.store(at, value, mask=on)


@triton.jit
def clear(sketch, row, live, i_d, DIM: tl.constexpr):  # type: ignore[no-untyped-def]
    """Nothing has left the history."""
    for base in range(0, DIM, 16):
        col = base + i_d
        on = live[:, None] & (col[None, :] < DIM)
        tl.store(sketch + row[:, None] * DIM + col[None, :], on.to(tl.float32) * 0.0, mask=on)


@triton.jit
def fill_legal(  # type: ignore[no-untyped-def]
    legal, row, past, last, before, t, automaton, single, live,
    follows, skips, writable, opening, blocked, traits, A, i_c,
    CHUNKS: tl.constexpr, GUIDED: tl.constexpr, REACH: tl.constexpr, SHORTEST: tl.constexpr,
):  # fmt: skip
    """Write A(s), see `mask.fill_legal`; where `single` only the end is legal.

    Returns: (number of legal actions, widened), int32.
    """
    width: tl.constexpr = CHUNKS * CHUNK
    trait = tl.load(traits + last, mask=live, other=0)
    drop = (trait & NO_DOUBLE) != 0
    bit = tl.where(drop, (last * 0 + 1).to(tl.uint64) << (last & 63).to(tl.uint64), 0)
    opens = t == 0
    fill = live & (single == 0)
    count = t * 0
    head = count.to(tl.uint64)
    narrow = fill
    widened = fill & (fill == 0)
    for attempt in tl.static_range(2 if GUIDED else 1):
        if attempt == 1:
            widened = fill & (count < FEWEST)
            narrow = widened
            count = tl.where(widened, 0, count)
            head = tl.where(widened, 0, head)
        if tl.max(narrow.to(tl.int32), 0) > 0:
            for chunk in range(CHUNKS):
                col = chunk * CHUNK + i_c
                on = narrow[:, None] & (col[None, :] >= 0)
                every = tl.load(writable + col).to(tl.uint64, bitcast=True)[None, :]
                first = tl.load(opening + col).to(tl.uint64, bitcast=True)[None, :]
                word = tl.where(opens[:, None], first, every)
                word -= word & load_word(blocked + automaton[:, None] * width + col[None, :], on)
                if GUIDED and attempt == 0:
                    near = load_word(follows + last[:, None] * width + col[None, :], on)
                    for k in tl.static_range(2, REACH + 1):
                        behind = before
                        if k > 2:
                            behind = tl.load(past + t - k, mask=fill & (t >= k), other=PAD)
                        # nothing stands behind the end: an empty row
                        behind = tl.where(t < k - 1, END, behind.to(tl.int32)) + (k - 2) * A
                        near |= load_word(skips + behind[:, None] * width + col[None, :], on)
                    word &= near
                without = word - (word & bit[:, None])
                word = tl.where(col[None, :] == (last >> 6)[:, None], without, word)
                word = tl.where(on, word, 0)
                count += tl.sum(popcount(word), 1)
                whole = word.to(tl.int64, bitcast=True)
                head |= tl.sum(tl.where(col[None, :] == 0, whole, 0), 1).to(tl.uint64, bitcast=True)
                tl.store(
                    legal + row[:, None] * width + col[None, :], whole,
                    mask=on & (col[None, :] > 0),
                )  # fmt: skip
    ends = fill & ((count == 0) | ((t > 0) & (((trait & SENTENCE_END) != 0) | (t >= SHORTEST))))
    if tl.max(single.to(tl.int32), 0) > 0:
        for chunk in range(CHUNKS):
            col = chunk * CHUNK + i_c
            on = (live & single)[:, None] & (col[None, :] > 0)
            tl.store(legal + row[:, None] * width + col[None, :], on.to(tl.int64) * 0, mask=on)
    ends = ends | single
    head = tl.where(ends, head | 2, head)  # the end's bit
    count = tl.where(ends, count + 1, count)
    tl.store(legal + row * width, head.to(tl.int64, bitcast=True), mask=live)
    return count, widened.to(tl.int32)
