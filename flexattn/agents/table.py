"""Stage A's policy: a table from state class to Lh and Lp, learnt by counting exact rewards.

    Lp(class) = argmax over P of  mean(eta2 ler under that cap) - cost(Lp)
    Lh(class) = argmax over H of  mean(base + eta1 chi_soft after that Lh) - cost(Lh)

Of equally good choices the smallest is taken, and a choice that was never tried is none. The step
tells the gain under every cap at once, so only Lh has to be tried: evenly, while the table learns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from flexattn.agents.counting import OPENNESS, CountingModel, Writing
from flexattn.agents.decision import Choose, Decision, nothing
from flexattn.env.reward import length_costs
from flexattn.env.settings import Settings
from flexattn.env.spec import Observation
from flexattn.errors import CheckpointError, MaskError

Ids = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float64]
Places = npt.NDArray[np.int64]

BINS = 5  # of a term's weight


class PolicyTable:
    """Sums of rewards by state class and choice; the choices follow from them."""

    def __init__(self, settings: Settings) -> None:
        """Begin with nothing tried."""
        h, p = settings.history_chars, settings.hit_cap_chars
        longest = max(settings.lengths)
        alphas = (settings.alpha_h, settings.alpha_p)
        self.history_cost = length_costs(h, p, longest, settings.lambda_h, 0.0, *alphas)[:, 0]
        self.cap_cost = length_costs(h, p, longest, 0.0, settings.lambda_p, *alphas)[0]
        self.settings = settings
        cap_classes = (len(p) + 1) * BINS * BINS * 2
        self.history_sum = np.zeros((OPENNESS, len(h)))
        self.history_tries = np.zeros((OPENNESS, len(h)))
        self.cap_sum = np.zeros((cap_classes, len(p)))
        self.cap_tries = np.zeros(cap_classes)

    def arrays(self) -> dict[str, Floats]:
        """Every array by its name, for a checkpoint."""
        return {
            "history_sum": self.history_sum,
            "history_tries": self.history_tries,
            "cap_sum": self.cap_sum,
            "cap_tries": self.cap_tries,
        }

    def restore(self, arrays: dict[str, Floats]) -> None:
        """Put back what `arrays` gave.

        Raises: CheckpointError where it is the table of another configuration.
        """
        for name, mine in self.arrays().items():
            if name not in arrays or arrays[name].shape != mine.shape:
                raise CheckpointError(
                    f"the checkpoint's table has no {name} of shape {list(mine.shape)}; it was "
                    f"made with another configuration or version"
                )
            mine[...] = arrays[name]

    def history(self, classes: Places) -> Places:
        """Index into H for each state class."""
        worth = self.history_sum / np.maximum(self.history_tries, 1.0) - self.history_cost
        worth[self.history_tries == 0] = -np.inf
        return worth.argmax(1)[classes]

    def cap(self, classes: Places) -> Places:
        """Index into P for each state class."""
        worth = self.cap_sum / np.maximum(self.cap_tries, 1.0)[:, None] - self.cap_cost
        return worth.argmax(1)[classes]

    def learn(
        self, history_class: Places, history: Ids, reward: Floats, cap_class: Places, gain: Floats
    ) -> None:
        """Count n steps.

        Args:
          history_class: state class of Lh, [n].
          history: the Lh that was taken, index into H, [n].
          reward: base + eta1 chi_soft, [n].
          cap_class: state class of Lp, [n].
          gain: eta2 times the credited gain under each cap, [n, |P|].
        """
        np.add.at(self.history_sum, (history_class, history), reward)
        np.add.at(self.history_tries, (history_class, history), 1.0)
        np.add.at(self.cap_sum, cap_class, gain)
        np.add.at(self.cap_tries, cap_class, 1.0)

    def rows(self) -> list[dict[str, Any]]:
        """The table as a reader sees it: one row for each state class that was met."""
        h, p = self.settings.history_chars, self.settings.hit_cap_chars
        found: list[dict[str, Any]] = [
            {
                "head": "Lh",
                "open": ("unseen", "one character", "several characters")[n % 3],
                "begins a clause": bool(n >= 3),
                "steps": int(self.history_tries[n].sum()),
                "choice": h[int(self.history(np.array([n]))[0])],
            }
            for n in np.flatnonzero(self.history_tries.sum(1))
        ]
        for n in np.flatnonzero(self.cap_tries):
            code, inside = divmod(int(n), 2)
            code, narrow = divmod(code, BINS)
            place, worth = divmod(code, BINS)
            found.append({
                "head": "Lp",
                "expected term": "none" if place == 0 else f"fits {p[place - 1]}",
                "its weight": _range(worth),
                "weight under the smallest cap": _range(narrow),
                "inside another term": bool(inside),
                "steps": int(self.cap_tries[n]),
                "choice": p[int(self.cap(np.array([n]))[0])],
            })  # fmt: skip
        return found


def cap_classes(made: Writing, caps: Places) -> Places:
    """State class of Lp, [n]: the cap that the expected term needs, its weight, the smallest cap's.

    Args:
      made: what the counts say, n states.
      caps: P, [|P|].
    """
    longest = made.size[:, -1]
    place = np.where(longest > 0, np.searchsorted(caps, longest) + 1, 0)
    code = place * BINS + np.minimum(BINS - 1, (made.worth[:, -1] * BINS).astype(np.int64))
    code = code * BINS + np.minimum(BINS - 1, (made.worth[:, 0] * BINS).astype(np.int64))
    return 2 * code + made.inside


def _range(place: int) -> str:
    return f"{place / BINS:.1f}-{(place + 1) / BINS:.1f}"


@dataclass
class Counted:
    """Stage A as a policy: the table's Lh and Lp, the counts' characters.

    Attributes:
      model: the counts.
      table: the choices.
      choose: picks the character from pi(.|s); the likeliest where it is None.
      tries: draws Lh evenly, as learning needs it; None: the table's choice.
    """

    model: CountingModel
    table: PolicyTable
    choose: Choose | None = None
    tries: np.random.Generator | None = None

    def __post_init__(self) -> None:
        """Nothing has been seen yet."""
        self._topics = self.model.asked()
        self.history_class = self.cap_class = np.zeros(0, np.int64)

    def __call__(
        self, seen: Observation, legal: npt.NDArray[np.uint64], active: npt.NDArray[np.bool_]
    ) -> Decision:
        """Decide for the active environments; the others get zeros."""
        envs = np.flatnonzero(active)
        topics = self._topics(seen.question)
        model = self.model
        self.history_class = model.openness(envs, seen.history, topics, seen.step)
        if self.tries is None:
            history = self.table.history(self.history_class)
        else:
            history = self.tries.integers(0, len(model.windows), len(envs))
        window = model.windows[history]
        made = model.write(
            envs, seen.history, topics, seen.step, window, legal, self.choose is not None
        )
        self.cap_class = cap_classes(made, model.caps)
        char, probability, kept = made.char, made.probability, np.ones(len(envs))
        if self.choose is not None:
            picked, kept = self.choose(made.pi / made.pi.sum(-1, keepdims=True))
            char, probability = picked.astype(np.int32), made.pi[np.arange(len(envs)), picked]
        if not (probability > 0.0).all():
            raise MaskError("the counts chose a character outside A(s)")
        decision = nothing(len(active))
        decision.history[envs] = history
        decision.cap[envs] = self.table.cap(self.cap_class)
        decision.char[envs] = char
        decision.probability[envs] = probability
        decision.kept[envs] = kept
        return decision

    def take(self, rows: npt.NDArray[np.int64]) -> None:
        """Answer `rows[i]` now stands in place i: nothing of an answer is remembered here."""
