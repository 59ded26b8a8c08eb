"""The batched step: one action a environment in, every logged number out.

All environments, vectorised training, the audit's derivation and the tests step here and nowhere else.
An environment's numbers depend on its own actions alone, so batch size and threads change no bit.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit, prange

from flexattn.env.mask import fill_legal, sample_legal
from flexattn.env.reward import (
    credits_of,
    lcs_gain,
    lexical_gain,
    next_pointer,
    penalty,
    soft_match,
)
from flexattn.env.sketch import push
from flexattn.env.spec import Observation, Privileged, StepArrays
from flexattn.env.vocabulary import END, PAD
from flexattn.env.world import World
from flexattn.errors import EnvironmentSpecError
from flexattn.lexicon.bits import has, select, unpack, words_for
from flexattn.lexicon.gate import (
    gram_weight,
    pair_count,
    saturation,
    window_jaccard,
    window_overlap,
)

Ids = npt.NDArray[np.int32]

PARALLEL_FROM = 512  # environments from which on a step is spread over threads


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


@njit(nogil=True, cache=True)
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


@njit(nogil=True, cache=True)
def _pair(first: Any, second: Any, first_slot: Any, second_slot: Any, r: Any, Y: Any, G: Any, k1: Any) -> Any:
    """(weight, share) of a bigram against answer r; slots of its characters are known."""
    weight = gram_weight(G.row, G.second, G.weight, G.unseen, first, second)
    if first_slot < 0 or second_slot < 0:
        return weight, 0.0
    tf = pair_count(Y.masks, Y.slot_mask[first_slot], Y.slot_mask[second_slot], Y.words[r])
    return weight, weight * saturation(tf, k1, Y.norm[r])


@njit(nogil=True, cache=True)
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


@njit(nogil=True, cache=True)
def _longest_hit(place: Any, char: Any, on_target: Any, cap: Any, left: Any, L: Any) -> Any:
    """Column of the longest hit within `cap` and `left` characters, -1 for none."""
    for k in range(L.lengths.shape[0]):
        n = L.lengths[k]
        if n <= cap and n <= left and _hit(place, char, on_target, k, L) >= 0:
            return np.int64(k)
    return np.int64(-1)


@njit(nogil=True, cache=True)
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
    for d in range(S.sketch.shape[1]):
        S.sketch[i, d] = np.float32(0.0)
    count, widened = fill_legal(S.legal[i], PAD, PAD, 0, 0, M)
    S.n_legal[i] = count
    S.widened[i] = widened


@njit(nogil=True, cache=True)
def _start_all(which: Any, Y: Any, M: Any, S: Any) -> None:
    for n in range(which.shape[0]):
        _start(which[n], Y, M, S)


@njit(nogil=True, cache=True)
def _step(
    i: Any, lh: Any, lp: Any, char: Any, written: Any, enforce: Any, every_cap: Any,
    Y: Any, L: Any, M: Any, G: Any, R: Any, S: Any, O: Any,
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
                raw = lexical_gain(similar, L.weight[found], R.lambda_lex, R.tau)
                gained = raw * L.repeat[credits_of(found, S.credited[i], S.credits[i])]
                before, before_ler = k, gained
                if c == lp:
                    term, length, weight, sim = found, n, L.weight[found], similar
                    delta, ler = raw, gained
            if every_cap:
                O.gain_by_cap[i, c] = gained
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
            history, t, char, Y.mark, M.follows, R.p_punct, R.p_repeat, R.p_noncompliant
        )
        if R.soft_teacher and Y.has_soft[r]:
            chi_soft = _teacher_probability(char, place, p < size, Y)
        else:
            chi_soft = soft_match(char, Y.ids, start, size, p, R.near, R.radius)
    base = R.progress * gain / max(1, size) - fine
    cost = L.cost[lh, lp]

    O.char[i] = char
    O.written[i] = written
    O.term[i] = term
    O.length[i] = length
    O.idf[i] = weight
    O.sim[i] = sim
    O.delta[i] = delta
    O.ler[i] = ler
    O.len_cost[i] = cost
    O.base[i] = base
    O.chi_soft[i] = chi_soft
    O.reward[i] = base + R.eta1 * chi_soft + R.eta2 * ler - cost
    O.n_legal[i] = S.n_legal[i]
    O.illegal[i] = illegal

    # what the next step starts from
    if is_end:
        S.pointer[i] = min(size, p + 1)
    else:
        S.pointer[i] = next_pointer(char, Y.ids, start, size, p, R.resync, R.radius)
    if written == END:
        O.terminated[i] = True
        S.done[i] = True
    else:
        if written != char:
            slot = _find_slot(written, r, Y)
            lcs_gain(S.lcs[i], Y.masks, Y.slot_mask[slot] if slot >= 0 else -1, words, True)
            if t > 0:
                pair_weight, pair_share = _pair(last, written, S.slot[i], slot, r, Y, G, R.k1)
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
            O.truncated[i] = True
            S.done[i] = True
    if S.done[i]:
        for w in range(S.legal.shape[1]):
            S.legal[i, w] = np.uint64(0)
        S.legal[i, 0] = np.uint64(1 << END)
        S.n_legal[i] = 1
    else:
        count, widened = fill_legal(
            S.legal[i], written, last, t, S.automaton[i], M
        )
        S.n_legal[i] = count
        S.widened[i] += widened


@njit(nogil=True, cache=True)
def _teacher_probability(char: Any, place: Any, inside: Any, Y: Any) -> Any:
    """The teacher's probability of `char` at this place, 0 where it gave none."""
    if inside:
        for j in range(Y.soft_start[place], Y.soft_start[place + 1]):
            if Y.soft_id[j] == char:
                return Y.soft_p[j]
    return 0.0


@njit(nogil=True, cache=True)
def _clear(i: Any, O: Any) -> None:
    O.char[i] = PAD
    O.written[i] = PAD
    O.term[i] = -1
    O.length[i] = 0
    O.idf[i] = 0.0
    O.sim[i] = 0.0
    O.delta[i] = 0.0
    O.ler[i] = 0.0
    O.len_cost[i] = 0.0
    O.base[i] = 0.0
    O.chi_soft[i] = 0.0
    O.reward[i] = 0.0
    O.n_legal[i] = 0
    O.illegal[i] = False
    O.terminated[i] = False
    O.truncated[i] = False
    for c in range(O.gain_by_cap.shape[1]):
        O.gain_by_cap[i, c] = 0.0


@njit(nogil=True, cache=True)
def _step_all(
    which: Any, active: Any, lh: Any, lp: Any, char: Any, written: Any, enforce: Any,
    every_cap: Any, Y: Any, L: Any, M: Any, G: Any, R: Any, S: Any, O: Any,
) -> None:  # fmt: skip
    for n in range(which.shape[0]):
        i = which[n]
        _clear(i, O)
        if active[i] and not S.done[i]:
            _step(
                i, lh[i], lp[i], char[i], written[i], enforce, every_cap, Y, L, M, G, R, S, O
            )  # fmt: skip


@njit(nogil=True, cache=True, parallel=True)
def _step_all_threads(
    which: Any, active: Any, lh: Any, lp: Any, char: Any, written: Any, enforce: Any,
    every_cap: Any, Y: Any, L: Any, M: Any, G: Any, R: Any, S: Any, O: Any,
) -> None:  # fmt: skip
    for n in prange(which.shape[0]):
        i = which[n]
        _clear(i, O)
        if active[i] and not S.done[i]:
            _step(
                i, lh[i], lp[i], char[i], written[i], enforce, every_cap, Y, L, M, G, R, S, O
            )  # fmt: skip


class Core:
    """N environments side by side; arrays in, arrays out."""

    def __init__(
        self, world: World, num_envs: int, seed: int = 0, *, gain_by_cap: bool = False
    ) -> None:
        """Allocate the state; nothing stands in an episode until `reset`.

        Args:
          world: tables of corpus, catalog and config.
          num_envs: N.
          seed: draws records where `reset` is given none.
          gain_by_cap: whether a step also fills `StepArrays.gain_by_cap`.
        """
        self.world = world
        self.num_envs = n = num_envs
        self.gain_by_cap = gain_by_cap
        self._rng = np.random.default_rng(seed)
        self._worlds = [world]
        self._world_of = np.zeros(n, np.int64)
        self._everybody = np.arange(n, dtype=np.int64)
        self._groups = [self._everybody]
        self._all_active = np.ones(n, np.bool_)
        self._no_written = np.full(n, -1, np.int32)
        settings = world.settings
        most = world.longest_answer + settings.slack + 2
        ring = 1 << max(1, (settings.gate_window - 1).bit_length())

        def ids(*shape: int) -> Ids:
            return np.zeros((n, *shape), np.int32)

        self.state = State(
            record=ids(), question=ids(), t=ids(), pointer=ids(), covered=ids(), automaton=ids(),
            slot=ids(), credits=ids(), n_legal=ids(), widened=ids(),
            done=np.ones(n, np.bool_),
            history=ids(most),
            credited=ids(most),
            lcs=np.zeros((n, int(world.answers.words.max())), np.uint64),
            legal=np.zeros((n, words_for(world.size)), np.uint64),
            ring_weight=np.zeros((n, ring)),
            ring_share=np.zeros((n, ring)),
            sketch=np.zeros((n, settings.sketch_dim), np.float32),
            scratch=np.zeros((n, 2 * settings.gate_window), np.int64),
        )  # fmt: skip
        self.state.legal[:, 0] = 1 << END
        self.state.n_legal[:] = 1
        self.steps = StepArrays(
            **{
                name: np.zeros(
                    (n, len(settings.hit_cap_chars)) if name == "gain_by_cap" else n,
                    np.int32 if kind == "Ids" else np.float64 if kind == "Floats" else np.bool_,
                )
                for name, kind in StepArrays.__annotations__.items()
            }
        )
        self._out = Out(**vars(self.steps))

    def reset(
        self,
        which: npt.ArrayLike | None = None,
        record_indices: npt.ArrayLike | None = None,
        question_indices: npt.ArrayLike | None = None,
        world: World | None = None,
    ) -> None:
        """Put environments at the start of an answer.

        Args:
          which: environments; all where None.
          record_indices: record of each, an index into `world.records`; drawn evenly from the train
            records where None.
          question_indices: which of the record's questions; the first where None.
          world: a new catalog version; these environments keep it until their next reset. The
            world of the last reset where None.

        Raises: EnvironmentSpecError where an index or the world does not fit.
        """
        envs = self._everybody if which is None else np.asarray(which, np.int64).ravel()
        if world is not None and world is not self.world:
            if world.answers is not self.world.answers:
                raise EnvironmentSpecError(
                    "Core.reset: the new world has another corpus; make it with World.with_catalog"
                )
            self.world = world
        world = self.world
        if record_indices is None:
            records = self._rng.choice(world.train, len(envs))
        else:
            records = np.asarray(record_indices, np.int64).ravel()
        if len(records) != len(envs) or (
            len(records) and not 0 <= records.min() <= records.max() < len(world.records)
        ):
            raise EnvironmentSpecError(
                f"Core.reset: record_indices is {records.tolist()[:8]}, expected {len(envs)} indices "
                f"below {len(world.records)}"
            )
        first = world.question_start[records]
        questions = first
        if question_indices is not None:
            questions = first + np.asarray(question_indices, np.int64).ravel()
            if (questions >= world.question_start[records + 1]).any() or (questions < first).any():
                raise EnvironmentSpecError(
                    "Core.reset: question_indices names a question that its record doesn't have"
                )
        self._move(envs, world)
        self.state.record[envs] = records
        self.state.question[envs] = questions
        _start_all(envs, world.answers, world.mask, self.state)

    def step(
        self,
        lh_index: npt.ArrayLike,
        lp_index: npt.ArrayLike,
        char: npt.ArrayLike,
        written: npt.ArrayLike | None = None,
        active: npt.ArrayLike | None = None,
        *,
        enforce: bool = True,
    ) -> StepArrays:
        """One action for each environment; those that are done or not active stand still.

        Args:
          lh_index: [N], index in H.
          lp_index: [N], index in P.
          char: [N], emitted id.
          written: [N], id that enters the history where it differs (the teacher's, or a
            perturbation); -1 for the emitted one.
          active: [N] bool, which environments step; all where None.
          enforce: whether an illegal character is replaced by the legal one of the lowest id.

        Returns: arrays that the next step overwrites.
        Raises: EnvironmentSpecError where a window index is outside H or P.
        """
        lh = np.ascontiguousarray(lh_index, np.int32)
        lp = np.ascontiguousarray(lp_index, np.int32)
        chars = np.ascontiguousarray(char, np.int32)
        self._check(lh, lp, chars)
        put = self._no_written if written is None else np.ascontiguousarray(written, np.int32)
        if written is not None and put.size and put.max() >= self.world.vocabulary.alphabet:
            raise EnvironmentSpecError(
                f"Core.step: written holds id {put.max()}, expected ids below "
                f"{self.world.vocabulary.alphabet}"
            )
        on = self._all_active if active is None else np.ascontiguousarray(active, np.bool_)
        for number, group in enumerate(self._groups):
            world = self._worlds[number]
            run = _step_all_threads if len(group) >= PARALLEL_FROM else _step_all
            run(
                group, on, lh, lp, chars, put, enforce, self.gain_by_cap,
                world.answers, world.terms, world.mask, world.grams, world.rules,
                self.state, self._out,
            )  # fmt: skip
        return self.steps

    def legal_packed(self) -> npt.NDArray[np.uint64]:
        """A(s) of every environment, [N, W] uint64, bit c % 64 of word c // 64; a view."""
        return self.state.legal

    def legal(self) -> npt.NDArray[np.bool_]:
        """A(s) of every environment, [N, V] bool."""
        return unpack(self.state.legal, self.world.size)

    def sample_legal(self, rng: np.random.Generator) -> Ids:
        """One legal id for each environment, uniformly, [N] int32."""
        out = np.empty(self.num_envs, np.int32)
        sample_legal(self.state.legal, self.state.n_legal, rng.random(self.num_envs), out)
        return out

    def world_of(self, env: int) -> World:
        """The world, so the catalog version, that environment `env` is writing under."""
        return self._worlds[self._world_of[env]]

    def teacher(self) -> Ids:
        """The target chi_t of every environment, [N] int32 internal ids; END past the answer."""
        answers, state = self.world.answers, self.state
        inside = state.pointer < answers.size[state.record]
        place = np.where(inside, answers.start[state.record] + state.pointer, 0)
        return np.where(inside, answers.ids[place], END).astype(np.int32)

    def observe(self) -> Observation:
        """What actors may see; fresh arrays."""
        state, settings = self.state, self.world.settings
        width = settings.max_history
        places = state.t[:, None].astype(np.int64) + np.arange(-width, 0)
        rows = np.take_along_axis(state.history, np.maximum(places, 0), axis=1)
        history = np.where(places >= 0, self.world.vocabulary.visible(rows), PAD)
        question = np.empty((self.num_envs, settings.question_chars), np.int32)
        for number, group in enumerate(self._groups):
            question[group] = self._worlds[number].question_ids[state.question[group]]
        return Observation(
            history=history.astype(np.int32),
            sketch=state.sketch.copy(),
            question=question,
            step=state.t.copy(),
        )

    def privileged(self) -> Privileged:
        """What critics may see besides; fresh arrays."""
        answers, state, vocabulary = self.world.answers, self.state, self.world.vocabulary
        size = answers.size[state.record]
        ahead = state.pointer[:, None] + np.arange(self.world.settings.future_chars + 1)
        place = np.minimum(ahead, size[:, None] - 1) + answers.start[state.record][:, None]
        ids = np.where(ahead < size[:, None], vocabulary.visible(answers.ids[place]), PAD)
        ids = np.where(ahead == size[:, None], END, ids).astype(np.int32)
        return Privileged(
            target=ids[:, 0].copy(),
            future=ids[:, 1:].copy(),
            covered=np.maximum(state.covered - state.t, 0),
        )

    def written(self, env: int) -> Ids:
        """Ids written so far in environment `env`, [t] int32."""
        return self.state.history[env, : self.state.t[env]].copy()

    def _check(self, lh: Ids, lp: Ids, char: Ids) -> None:
        settings = self.world.settings
        for name, values, choices in (
            ("lh_index", lh, settings.history_chars),
            ("lp_index", lp, settings.hit_cap_chars),
            ("char", char, None),
        ):
            if values.shape != (self.num_envs,):
                raise EnvironmentSpecError(
                    f"Core.step: {name} has shape {list(values.shape)}, expected [{self.num_envs}]"
                )
            if choices is not None and (values.min() < 0 or values.max() >= len(choices)):
                raise EnvironmentSpecError(
                    f"Core.step: {name} holds {values.min()}..{values.max()}, expected indices "
                    f"below {len(choices)}"
                )

    def _move(self, envs: npt.NDArray[np.int64], world: World) -> None:
        """Let environments go over to a world; forget worlds that nobody is in any more."""
        if len(self._worlds) == 1 and self._worlds[0] is world:
            return
        if world not in self._worlds:
            self._worlds.append(world)
        self._world_of[envs] = self._worlds.index(world)
        alive = np.unique(self._world_of)
        self._worlds = [self._worlds[n] for n in alive]
        self._world_of = np.searchsorted(alive, self._world_of)
        self._groups = [np.flatnonzero(self._world_of == n) for n in range(len(alive))]
