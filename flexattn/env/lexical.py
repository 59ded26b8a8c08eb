"""`flexattn/Lexical-v0`, one environment: an episode is one teacher answer, a step one character.

An illegal character is never written: the legal one of the lowest id is, and `info["illegal"]` says
so. After the end only the end is legal. The numbers are the core's, so the vector environment has
the same ones.
"""

from __future__ import annotations

from os import PathLike
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from flexattn.config import Config, load_config, resolve_path
from flexattn.corpus import Corpus, load_corpus
from flexattn.env.core import Core
from flexattn.env.spec import Observation
from flexattn.env.world import World
from flexattn.errors import EnvironmentSpecError
from flexattn.lexicon.entries import Catalog, load_catalog

SKETCH_LIMIT = 21.0  # entries stay within 1 / (1 - decay) = 20

DEFAULT_CONFIG = "configs/medical.yaml"
OPTIONS = frozenset({"record", "question"})

Path = str | PathLike[str]


def open_world(
    config: Path | Config | None = None,
    corpus: Path | Corpus | None = None,
    catalog: Path | Catalog | None = None,
) -> World:
    """World of a configuration; corpus and catalog replace the ones that it names.

    Args:
      config: a file or a loaded configuration; the medical default where None.
      corpus: a file or a loaded corpus.
      catalog: a file or a loaded catalog.

    Raises: FlexAttnError, one line, where a file can't be used.
    """
    if not isinstance(config, Config):
        config = load_config(str(config or DEFAULT_CONFIG))
    if not isinstance(corpus, Corpus):
        named, limit = (corpus, 0) if corpus else (config.corpus.path, config.corpus.records)
        every = config.corpus.heldout == "all"
        corpus = load_corpus(resolve_path(str(named)), limit, heldout=every)
    if not isinstance(catalog, Catalog):
        catalog = load_catalog(resolve_path(str(catalog or config.lexicon.catalog)))
    return World.build(corpus, catalog, config)


def observation_space(world: World) -> spaces.Dict:
    """Space of one observation."""
    settings = world.settings
    most = world.longest_answer + settings.slack
    return spaces.Dict(
        {
            "history": spaces.Box(0, world.size - 1, (settings.max_history,), np.int32),
            "sketch": spaces.Box(-SKETCH_LIMIT, SKETCH_LIMIT, (settings.sketch_dim,), np.float32),
            "question": spaces.Box(0, world.size - 1, (settings.question_chars,), np.int32),
            "step": spaces.Box(0, most, (1,), np.int32),
        }
    )


def action_space(world: World) -> spaces.MultiDiscrete:
    """Indices of Lh in H, of Lp in P, and the character's id."""
    settings = world.settings
    return spaces.MultiDiscrete(
        [len(settings.history_chars), len(settings.hit_cap_chars), world.size]
    )


def as_batch(observation: Observation) -> dict[str, npt.NDArray[Any]]:
    """An observation as the vector environment gives it."""
    return {
        "history": observation.history,
        "sketch": observation.sketch,
        "question": observation.question,
        "step": observation.step[:, None],
    }


def draw(world: World, rng: np.random.Generator, options: dict[str, Any] | None) -> tuple[int, int]:
    """Record and question of the next episode: given in `options`, or drawn from the train split.

    Raises: EnvironmentSpecError for an unknown option, record or question.
    """
    options = options or {}
    for name in options:
        if name not in OPTIONS:
            raise EnvironmentSpecError(
                f"reset: options has {name!r}, expected some of {sorted(OPTIONS)}"
            )
    if "record" in options:
        record = world.record_index(options["record"])
    else:
        record = int(world.train[rng.integers(len(world.train))])
    asked = world.records[record].questions
    if "question" in options:
        question = int(options["question"])
        if not 0 <= question < len(asked):
            raise EnvironmentSpecError(
                f"reset: options['question'] is {question}, record {world.records[record].id} has "
                f"questions 0 to {len(asked) - 1}"
            )
    else:
        question = int(rng.integers(len(world.records[record].train_questions)))
    return record, question


class LexicalEnv(gymnasium.Env[dict[str, npt.NDArray[Any]], npt.NDArray[np.int64]]):
    """One environment.

    Observation, what an actor may see: `history` int32 [max_history], written ids, right-aligned,
    PAD on the left; `sketch` float32 [sketch_dim] of what lies further back; `question` int32
    [question_chars]; `step` int32 [1].

    Action: indices of Lh in H, Lp in P, and the character's id.

    `info`: `action_mask` bool [V], `n_legal`, `illegal`, `record` (index); after a step also `term`
    (index, -1 without a hit), `ler`, `len_cost`; with `privileged=True` also `privileged`, a dict
    of `target`, `future`, `covered` for critics.

    Example:
      >>> import gymnasium, flexattn
      >>> env = gymnasium.make("flexattn/Lexical-v0")
      >>> observation, info = env.reset(seed=1)
      >>> bool(info["action_mask"].any())
      True
    """

    metadata = {"render_modes": ["ansi"], "render_fps": 4}  # noqa: RUF012

    def __init__(
        self,
        config: Path | Config | None = None,
        corpus: Path | Corpus | None = None,
        catalog: Path | Catalog | None = None,
        *,
        world: World | None = None,
        privileged: bool = False,
        render_mode: str | None = None,
    ) -> None:
        """Open an environment.

        Args:
          config: configuration file or object; the medical default where None.
          corpus: corpus file or object in place of the configured one.
          catalog: catalog file or object likewise.
          world: tables that are there already; the three above are not read then.
          privileged: whether `info` also holds what only critics may see.
          render_mode: None or "ansi", the text written so far.

        Raises: FlexAttnError, one line, for what can't be used.
        """
        self.world = world or open_world(config, corpus, catalog)
        self.render_mode = render_mode
        self._privileged = privileged
        self._core = Core(self.world, 1)
        self.observation_space: spaces.Dict = observation_space(self.world)  # type: ignore[assignment]
        self.action_space: spaces.MultiDiscrete = action_space(self.world)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
        """Begin an answer.

        Args:
          seed: of the draws to come.
          options: {"record": id, "question": index}, both optional.
        """
        super().reset(seed=seed)
        record, question = draw(self.world, self.np_random, options)
        self._core.reset([0], [record], [question])
        return self._observation(), self._info()

    def step(
        self, action: npt.ArrayLike
    ) -> tuple[dict[str, npt.NDArray[Any]], float, bool, bool, dict[str, Any]]:
        """Take one action; see the class for what comes back."""
        lh, lp, char = np.asarray(action, np.int32).reshape(3, 1)
        steps = self._core.step(lh, lp, char)
        info = self._info()
        info["illegal"] = bool(steps.illegal[0])
        info["term"] = int(steps.term[0])
        info["ler"] = float(steps.ler[0])
        info["len_cost"] = float(steps.len_cost[0])
        return (
            self._observation(),
            float(steps.reward[0]),
            bool(steps.terminated[0]),
            bool(steps.truncated[0]),
            info,
        )

    def action_masks(self) -> npt.NDArray[np.bool_]:
        """Legal actions as sb3-contrib wants them for MultiDiscrete, [|H| + |P| + |V|] bool."""
        windows = np.ones(int(self.action_space.nvec[:2].sum()), np.bool_)
        return np.concatenate([windows, self._core.legal()[0]])

    def render(self) -> str | None:
        """The text written so far, with render_mode "ansi"."""
        if self.render_mode != "ansi":
            return None
        return self.world.vocabulary.decode(self._core.written(0).tolist())

    def _observation(self) -> dict[str, npt.NDArray[Any]]:
        return {name: rows[0] for name, rows in as_batch(self._core.observe()).items()}

    def _info(self) -> dict[str, Any]:
        info: dict[str, Any] = {
            "action_mask": self._core.legal()[0],
            "n_legal": int(self._core.state.n_legal[0]),
            "illegal": False,
            "record": int(self._core.state.record[0]),
        }
        if self._privileged:
            seen = self._core.privileged()
            info["privileged"] = {
                "target": int(seen.target[0]),
                "future": seen.future[0],
                "covered": int(seen.covered[0]),
            }
        return info
