"""What the environment's parts say to each other; the table that joins symbols, keys, settings.

An actor's signature takes an `Observation`; only critics and rewards take a `Privileged`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Observation:
    """What an actor may see; N environments.

    Attributes:
      history: [N, max_history] int32, written ids, right-aligned, PAD on the left; UNK for a
        character outside the train vocabulary.
      sketch: [N, sketch_dim] float32, decayed count of what lies further back.
      question: [N, question_chars] int32, PAD behind.
      step: [N] int32, characters written.
    """

    history: Ids
    sketch: npt.NDArray[np.float32]
    question: Ids
    step: Ids


@dataclass(frozen=True)
class Privileged:
    """What critics and rewards may see besides; never an actor.

    Attributes:
      target: [N] int32, chi_t; END past the answer, UNK outside the train vocabulary.
      future: [N, future_chars] int32, y_{p+1}.., END behind the answer, then PAD.
      covered: [N] int32, steps that the segment credited last still covers.
    """

    target: Ids
    future: Ids
    covered: Ids


class Action(NamedTuple):
    """Indices of one decision: Lh in H, Lp in P, and the character's id."""

    history: int
    cap: int
    char: int


@dataclass(frozen=True)
class StepArrays:
    """Every number of one batched step; [N] each, environments that did not step hold zeros.

    The arrays are overwritten by the next step; `copy` keeps them.

    Attributes:
      char: int32, emitted id after replacement of an illegal one.
      written: int32, id that entered the history.
      term: int32, index of the hit term, -1 for none.
      length: int32, its characters, 0 for none.
      idf: weight of the hit term.
      sim: similarity, 0 without a hit.
      delta: raw gain, reward.
      ler: credited gain, reward.
      len_cost: reward.
      base: progress minus penalties, reward.
      chi_soft: soft match, 0..1.
      reward: R_t.
      n_legal: int32, |A(s)| before the action.
      illegal: bool, the asked character was not legal.
      terminated: bool, the end was written.
      truncated: bool, |y| + slack characters were written without it.
      gain_by_cap: [N, |P|] ler that this character would have got under each cap; zeros unless the
        core was asked for it.
    """

    char: Ids
    written: Ids
    term: Ids
    length: Ids
    idf: Floats
    sim: Floats
    delta: Floats
    ler: Floats
    len_cost: Floats
    base: Floats
    chi_soft: Floats
    reward: Floats
    n_legal: Ids
    illegal: Bools
    terminated: Bools
    truncated: Bools
    gain_by_cap: Floats

    def copy(self) -> StepArrays:
        """The same numbers in arrays of their own."""
        return StepArrays(**{name: array.copy() for name, array in vars(self).items()})


class Name(NamedTuple):
    """One row of the glossary; "" where a name has none of the kind.

    Attributes:
      symbol: in the mathematics.
      code: in the code.
      key: of a step line.
      unit: of the value.
      setting: key of the configuration.
    """

    symbol: str
    code: str
    key: str
    unit: str
    setting: str = ""


GLOSSARY = (
    # what a step line holds
    Name("t", "step", "step", "characters, from 1"),
    Name("L_h", "history_chars", "Lh", "characters"),
    Name("L_p", "hit_cap_chars", "Lp", "characters"),
    Name("a_t", "char", "a", "character"),
    Name("s_t", "term", "seg", "term"),
    Name("|s_t|", "length", "len", "characters"),
    Name("w(s_t)", "idf", "idf", "1"),
    Name("sim_t", "sim", "sim", "1"),
    Name("delta_t", "delta", "delta", "reward"),
    Name("ler_t", "ler", "ler", "reward"),
    Name("c_t", "len_cost", "len_cost", "reward"),
    Name("b_t", "base", "base", "reward"),
    Name("chi_soft_t", "chi_soft", "chi_soft", "1"),
    Name("R_t", "reward", "reward", "reward"),
    Name("", "entry_ids", "file", "file#id"),
    Name("", "pos", "pos", "steps, from 0"),
    Name("", "catalog_short", "cat", "hash"),
    Name("", "ep", "ep", "episodes, from 0"),
    Name("", "env", "env", "index, from 0"),
    Name("|A(s_t)|", "n_legal", "n_legal", "actions"),
    Name("w_t", "written", "w", "character"),
    Name("", "notes", "note", "word"),
    Name("pi(a_t | s_t)", "p", "p", "probability"),
    Name("", "kept", "kept", "probability"),
    Name("", "among", "among", "characters"),
    # what a configuration sets
    Name("U", "lengths", "", "characters", "lexicon.lengths"),
    Name("L_max", "longest", "", "characters"),
    Name("H", "history_chars", "", "characters", "env.history_chars"),
    Name("P", "hit_cap_chars", "", "characters", "env.hit_cap_chars"),
    Name("tau", "tau", "", "similarity", "env.semantic_gate"),
    Name("", "reach", "", "characters", "env.guide_reach"),
    Name("k1", "k1", "", "1", "env.gate_k1"),
    Name("b", "b", "", "1", "env.gate_b"),
    Name("mix", "mix", "", "1", "env.gate_mix"),
    Name("lambda_lex", "lambda_lex", "", "reward", "reward.lambda_lex"),
    Name("lambda_h", "lambda_h", "", "reward", "reward.lambda_h"),
    Name("lambda_p", "lambda_p", "", "reward", "reward.lambda_p"),
    Name("alpha_h", "alpha_h", "", "1", "reward.alpha_h"),
    Name("alpha_p", "alpha_p", "", "1", "reward.alpha_p"),
    Name("eta1", "eta1", "", "reward", "reward.eta1"),
    Name("eta2", "eta2", "", "1", "reward.eta2"),
    Name("gamma", "gamma", "", "1", "agent.gamma"),
    Name("alpha", "alpha", "", "reward per nat", "agent.alpha_first"),
    Name("kappa", "kappa", "", "1", "agent.kappa"),
    Name("beta", "beta", "", "probability", "agent.dagger_beta"),
    Name("rho", "rho", "", "share", "agent.curriculum.rho"),
    Name("log p_counts", "log_p", "", "nats", "agent.prior"),
    Name("lambda_stab", "stability_weight", "", "reward", "agent.stability_weight"),
)
