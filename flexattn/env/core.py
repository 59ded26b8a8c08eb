"""The batched step: one action an environment in, every logged number out.

All environments, vectorised training, the audit's derivation and the tests step here and nowhere
else; `kernel` holds the compiled arithmetic.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from flexattn.env.kernel import Out, State, start_all, step_all
from flexattn.env.mask import fill_legal, sample_legal
from flexattn.env.reward import TRIGRAM_WORDS
from flexattn.env.spec import Observation, Privileged, StepArrays
from flexattn.env.vocabulary import END, PAD
from flexattn.env.world import World
from flexattn.errors import EnvironmentSpecError
from flexattn.lexicon.bits import unpack, words_for

Ids = npt.NDArray[np.int32]

PARALLEL_FROM = 1024  # environments from which on a step is spread over threads
SHARE = 256  # environments that a thread steps before it takes more


def _compiled_step(arguments: tuple[Any, ...]) -> Callable[..., None]:
    """The compiled step for arguments of these types, all behind `which`.

    Finding it by the types of a hundred arrays takes Numba longer than a step does, so it is looked
    up once: the types are the same in every world and core.
    """
    step: Any = step_all
    step(0, 0, np.zeros(0, np.int64), *arguments)
    (compiled,) = step.overloads.values()
    return cast("Callable[..., None]", compiled.entry_point)


def _check_ids(name: str, ids: Ids, lowest: int, alphabet: int) -> None:
    if ids.min() < lowest or ids.max() >= alphabet:
        raise EnvironmentSpecError(
            f"Core.step: {name} holds ids {ids.min()}..{ids.max()}, "
            f"expected {lowest}..{alphabet - 1}"
        )


class Core:
    """N environments side by side; arrays in, arrays out."""

    def __init__(
        self,
        world: World,
        num_envs: int,
        seed: int = 0,
        *,
        gain_by_cap: bool = False,
        threads: int | None = None,
    ) -> None:
        """Allocate the state; nothing stands in an episode until `reset`.

        Args:
          world: tables of corpus, catalog and config.
          num_envs: N.
          seed: draws records where `reset` is given none.
          gain_by_cap: whether a step also fills `StepArrays.gain_by_cap`.
          threads: threads of a step of many environments; as many as there are cores where None.
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
            trigrams=np.zeros((n, TRIGRAM_WORDS), np.uint64),
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
        self._threads = threads or os.cpu_count() or 1
        self._entry: Callable[..., None] | None = None
        self._pool: ThreadPoolExecutor | None = None

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
                f"Core.reset: record_indices is {records.tolist()[:8]}, expected {len(envs)} "
                f"indices below {len(world.records)}"
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
        start_all(envs, world.answers, world.mask, self.state)

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
        on = self._all_active if active is None else np.ascontiguousarray(active, np.bool_)
        for name, shape in (("written", put.shape), ("active", on.shape)):
            if shape != (self.num_envs,):
                raise EnvironmentSpecError(
                    f"Core.step: {name} has shape {list(shape)}, expected [{self.num_envs}]"
                )
        _check_ids("written", put, -1, self.world.vocabulary.alphabet)
        if not enforce:
            _check_ids("char", chars, 0, self.world.vocabulary.alphabet)
        for group, tables in self.shared():
            self._run(group, on, lh, lp, chars, put, enforce, self.gain_by_cap, *tables)
        return self.steps

    def ban(
        self, banned: Sequence[str], which: npt.ArrayLike | None = None
    ) -> npt.NDArray[np.int64]:
        """Forbid strings from here on in answers that are being written; they keep their version.

        What stands written already stays; the next character may complete none of the strings.

        Args:
          banned: strings, beside those that their catalog bans.
          which: environments; all where None.

        Returns: those that are in an answer and did not know one of the strings, increasing.
        """
        asked = self._everybody if which is None else np.asarray(which, np.int64).ravel()
        running = np.sort(asked[~self.state.done[asked]])
        changed = []
        for world in list(self._worlds):
            group = running[[self.world_of(int(i)) is world for i in running]]
            if not len(group) or set(banned) <= set(world.banned):
                continue
            stricter = world.with_bans(banned)
            self._move(group, stricter)
            for i in group.tolist():
                self._stand_again(i, stricter)
            changed += group.tolist()
        return np.array(sorted(changed), np.int64)

    def _stand_again(self, i: int, world: World) -> None:
        """Bring automaton and A(s) of environment i to where its text stands in `world`."""
        state, text = self.state, self.written(i)
        place = 0
        for char in text.tolist():
            place = int(world.mask.goto[place, char])
        state.automaton[i] = place
        count, _ = fill_legal(state.legal[i], text, len(text), place, world.mask)
        state.n_legal[i] = count

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

    def shared(self) -> Iterator[tuple[npt.NDArray[np.int64], tuple[Any, ...]]]:
        """Environments that are in one world, and what the compiled step takes behind its actions.

        For loops over steps that are compiled themselves.
        """
        for number, group in enumerate(self._groups):
            yield group, (*self._worlds[number].tables, self.state, self._out)

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

    def _run(self, group: npt.NDArray[np.int64], *arguments: Any) -> None:
        """Step the environments of `group`, in several threads where there are many.

        Shares are taken from one iterator, so a thread that is held up takes fewer of them.
        """
        if self._entry is None:
            self._entry = _compiled_step(arguments)
        entry, count = self._entry, len(group)
        if count < PARALLEL_FROM or self._threads == 1:
            entry(0, count, group, *arguments)
            return
        shares = iter(range(0, count, SHARE))

        def work() -> None:
            for first in shares:
                entry(first, min(first + SHARE, count), group, *arguments)

        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._threads - 1, "flexattn-step")
        others = [self._pool.submit(work) for _ in range(self._threads - 1)]
        work()
        for other in others:
            other.result()

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
