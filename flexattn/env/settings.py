"""The numbers of the step: as the config names them, and as the compiled step reads them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from flexattn.config import Config


@dataclass(frozen=True)
class Settings:
    """The part of the config that the step arithmetic needs; names as in the file."""

    lengths: tuple[int, ...]
    history_chars: tuple[int, ...]
    hit_cap_chars: tuple[int, ...]
    two_char: float = 0.7
    nested: bool = False
    repeat: float = 0.5
    learned: bool = False
    semantic_gate: float = 0.75
    gate_window: int = 12
    gate_mix: float = 0.5
    gate_k1: float = 1.2
    gate_b: float = 0.75
    align: str = "position"
    guide: str = "ngram"
    guide_reach: int = 2
    slack: int = 8
    question: str = "terms"
    question_chars: int = 24
    max_history: int = 16
    sketch_dim: int = 64
    future_chars: int = 8
    lambda_lex: float = 0.30
    lambda_h: float = 0.08
    lambda_p: float = 0.10
    alpha_h: float = 1.0
    alpha_p: float = 1.0
    eta1: float = 0.15
    eta2: float = 1.0
    progress: float = 1.0
    p_punct: float = 0.01
    p_repeat: float = 0.05
    p_noncompliant: float = 0.05
    near: float = 0.3
    radius: int = 2
    soft: str = "match"
    bonus: str = "gated"

    @classmethod
    def of(cls, config: Config) -> Settings:
        """Take the fields from the sections `lexicon`, `env` and `reward`."""
        sections = (config.lexicon, config.env, config.reward)
        names = [field.name for field in dataclasses.fields(cls)]
        return cls(**{name: _attribute(sections, name) for name in names})


def _attribute(sections: Sequence[object], name: str) -> Any:
    return next(getattr(section, name) for section in sections if hasattr(section, name))


class Rules(NamedTuple):
    """Numbers of the step arithmetic, as the compiled step reads them."""

    lambda_lex: float
    tau: float
    eta1: float
    eta2: float
    progress: float
    p_punct: float
    p_repeat: float
    p_noncompliant: float
    near: float
    radius: int
    nested: bool
    resync: bool
    soft_teacher: bool
    hard: bool
    window: int
    mix: float
    k1: float
    slack: int
    max_history: int
    size: int


def rules_of(settings: Settings, size: int) -> Rules:
    """The step's numbers under a vocabulary of `size` characters."""
    return Rules(
        lambda_lex=float(settings.lambda_lex),
        tau=float(settings.semantic_gate),
        eta1=float(settings.eta1),
        eta2=float(settings.eta2),
        progress=float(settings.progress),
        p_punct=float(settings.p_punct),
        p_repeat=float(settings.p_repeat),
        p_noncompliant=float(settings.p_noncompliant),
        near=float(settings.near),
        radius=settings.radius,
        nested=settings.nested,
        resync=settings.align == "resync",
        soft_teacher=settings.soft == "teacher",
        hard=settings.bonus == "hard",
        window=settings.gate_window,
        mix=float(settings.gate_mix),
        slack=settings.slack,
        max_history=settings.max_history,
        k1=float(settings.gate_k1),
        size=size,
    )
