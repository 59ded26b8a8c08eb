"""N environments in one: the numbers of N single ones, from one batched step.

Environment i seeded with s draws like a single environment seeded with s + i. Autoreset is
NEXT_STEP: the step after an episode's end begins the next one, takes no action and gives no reward.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from flexattn.config import Config
from flexattn.corpus import Corpus
from flexattn.env.core import Core
from flexattn.env.lexical import Path, action_space, as_batch, draw, observation_space, open_world
from flexattn.env.world import World
from flexattn.errors import EnvironmentSpecError
from flexattn.lexicon.entries import Catalog

Batch = dict[str, npt.NDArray[Any]]


class LexicalVectorEnv(VectorEnv[Batch, npt.NDArray[np.int64], npt.NDArray[Any]]):
    """`gymnasium.make_vec("flexattn/Lexical-v0", num_envs=64)`.

    Spaces and infos are those of `LexicalEnv`, batched as Gymnasium batches them. `world` may be
    set to a new catalog version (`World.with_catalog`), which each environment takes up at its
    next episode's start.
    """

    metadata = {  # noqa: RUF012
        "render_modes": [],
        "autoreset_mode": AutoresetMode.NEXT_STEP,
    }

    def __init__(
        self,
        num_envs: int = 1,
        config: Path | Config | None = None,
        corpus: Path | Corpus | None = None,
        catalog: Path | Catalog | None = None,
        *,
        world: World | None = None,
        privileged: bool = False,
        action_mask: bool = True,
        render_mode: str | None = None,
    ) -> None:
        """Open N environments.

        Args:
          num_envs: N.
          config: configuration file or object; the medical default where None.
          corpus: corpus file or object in place of the configured one.
          catalog: catalog file or object likewise.
          world: tables that are there already; the three above are not read then.
          privileged: whether `info` also holds what only critics may see.
          action_mask: whether `info` holds the [N, V] bool mask; `core.legal_packed` has it anyway.
          render_mode: None.

        Raises: FlexAttnError, one line, for what can't be used.
        """
        if num_envs < 1:
            raise EnvironmentSpecError(f"num_envs is {num_envs}, expected 1 or more")
        self.world = world or open_world(config, corpus, catalog)
        self.num_envs = num_envs
        self.render_mode = render_mode
        self.single_observation_space = observation_space(self.world)
        self.single_action_space: spaces.MultiDiscrete = action_space(self.world)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.core = Core(self.world, num_envs)
        self._privileged = privileged
        self._action_mask = action_mask
        self._rngs: list[np.random.Generator] = []
        self._over = np.zeros(num_envs, np.bool_)

    def reset(
        self,
        *,
        seed: int | list[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Batch, dict[str, Any]]:
        """Begin an answer in every environment.

        Args:
          seed: s for s, s + 1, ..; or a list, one for each.
          options: {"record": id, "question": index}, the same for all.
        """
        if seed is None and not self._rngs:
            seed = [None] * self.num_envs
        if isinstance(seed, int):
            seed = [seed + i for i in range(self.num_envs)]
        if seed is not None:
            if len(seed) != self.num_envs:
                raise EnvironmentSpecError(
                    f"reset: seed has {len(seed)} entries, expected {self.num_envs}"
                )
            kept = self._rngs
            self._rngs = [
                kept[i] if kept and s is None else seeding.np_random(s)[0]
                for i, s in enumerate(seed)
            ]
        self._over[:] = False
        self._begin(np.arange(self.num_envs), options)
        return as_batch(self.core.observe()), self._info(np.ones(self.num_envs, np.bool_))

    def step(
        self, actions: npt.ArrayLike
    ) -> tuple[
        Batch, npt.NDArray[np.float64], npt.NDArray[np.bool_], npt.NDArray[np.bool_], dict[str, Any]
    ]:
        """One action each, [N, 3]; where an episode is over, the next one begins."""
        rows = np.asarray(actions, np.int32).T
        again = self._over
        steps = self.core.step(rows[0], rows[1], rows[2], active=~again)
        if again.any():
            self._begin(np.flatnonzero(again), None)
        self._over = steps.terminated | steps.truncated
        info = self._info(np.ones(self.num_envs, np.bool_))
        info["illegal"] = steps.illegal.copy()
        if not again.all():
            for name, values in (
                ("term", steps.term.astype(np.int64)),
                ("ler", steps.ler.copy()),
                ("len_cost", steps.len_cost.copy()),
            ):
                values[again] = 0
                info[name] = values
                info[f"_{name}"] = ~again
        return (
            as_batch(self.core.observe()),
            steps.reward.copy(),
            steps.terminated.copy(),
            steps.truncated.copy(),
            info,
        )

    def action_masks(self) -> npt.NDArray[np.bool_]:
        """Legal actions as sb3-contrib wants them, [N, |H| + |P| + |V|] bool."""
        windows = np.ones((self.num_envs, int(self.single_action_space.nvec[:2].sum())), np.bool_)
        return np.concatenate([windows, self.core.legal()], axis=1)

    def _begin(self, envs: npt.NDArray[np.int64], options: dict[str, Any] | None) -> None:
        drawn = np.array([draw(self.world, self._rngs[i], options) for i in envs])
        self.core.reset(envs, drawn[:, 0], drawn[:, 1], world=self.world)

    def _info(self, everybody: npt.NDArray[np.bool_]) -> dict[str, Any]:
        state = self.core.state
        info: dict[str, Any] = {}
        if self._action_mask:
            info["action_mask"] = self.core.legal()
        info["n_legal"] = state.n_legal.astype(np.int64)
        info["illegal"] = np.zeros(self.num_envs, np.bool_)
        info["record"] = state.record.astype(np.int64)
        if self._privileged:
            seen = self.core.privileged()
            inner: dict[str, Any] = {
                "target": seen.target.astype(np.int64),
                "future": seen.future,
                "covered": seen.covered.astype(np.int64),
            }
            inner |= {f"_{name}": everybody.copy() for name in list(inner)}
            info["privileged"] = inner
        info |= {f"_{name}": everybody.copy() for name in list(info)}
        return info
