"""A generation strategy and its numbers: a name on the command line, an entry in the manifest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from flexattn.env.world import World
from flexattn.errors import FlexAttnError
from flexattn.evaluation.decoding import STRATEGIES, Decoding
from flexattn.generation.beam import search
from flexattn.generation.choosing import SCORES, best_of, majority
from flexattn.generation.request import Request
from flexattn.generation.sampling import Voice, write
from flexattn.generation.trace import Answer

SEVERAL = ("best_of", "majority")
NAMES = (*STRATEGIES, "beam", *SEVERAL)


@dataclass(frozen=True)
class Strategy:
    """How an answer is found.

    Attributes:
      name: one of `NAMES`; `best_of` and `majority` draw by `joint`.
      top_k, top_p, temperature: see `Decoding`.
      beams: answers that go on side by side, >= 1.
      samples: answers that one is chosen from, >= 2.
      score: what `best_of` prefers, one of `SCORES`.
    """

    name: str = "greedy"
    top_k: int = 20
    top_p: float = 0.9
    temperature: float = 1.0
    beams: int = 4
    samples: int = 8
    score: str = "likelihood"

    def __post_init__(self) -> None:
        """Refuse what has no meaning, in one line."""
        if self.name not in NAMES:
            raise FlexAttnError(f"--strategy is {self.name}, expected one of {', '.join(NAMES)}")
        if not 1 <= self.beams <= 64:
            raise FlexAttnError(f"--beams is {self.beams}, expected 1 to 64")
        if not 2 <= self.samples <= 1024:
            raise FlexAttnError(f"--samples is {self.samples}, expected 2 to 1024")
        if self.score not in SCORES:
            raise FlexAttnError(f"--score is {self.score}, expected one of {', '.join(SCORES)}")
        self.decoding  # noqa: B018  its own numbers are checked when it is made

    @property
    def decoding(self) -> Decoding:
        """How a single character is picked."""
        name = self.name if self.name in STRATEGIES else "joint"
        return Decoding(name, self.top_k, self.top_p, self.temperature)

    def settings(self) -> dict[str, Any]:
        """Its numbers for a manifest, which holds no floats."""
        return {k: str(v) if isinstance(v, float) else v for k, v in asdict(self).items()}


def answer(
    world: World,
    voice: Voice,
    requests: Sequence[Request],
    strategy: Strategy,
    seed: int,
    alternatives: int = 0,
) -> list[list[Answer]]:
    """The answers to each request, the one that is given first, [N][>= 1].

    Args:
      world: vocabulary, masks, question encoder.
      voice: who writes.
      requests: what is asked, N.
      strategy: how.
      seed: of the draws.
      alternatives: likeliest characters that each step keeps for a reader.
    """
    if strategy.name == "beam":
        return search(world, voice, requests, strategy.beams, alternatives=alternatives)
    several = strategy.name in SEVERAL
    drawn = write(
        world, voice, requests, strategy.decoding, seed,
        copies=strategy.samples if several else 1, alternatives=alternatives,
    )  # fmt: skip
    if strategy.name == "best_of":
        return [best_of(world, answers, strategy.score) for answers in drawn]
    if strategy.name == "majority":
        return [majority(answers) for answers in drawn]
    return drawn
