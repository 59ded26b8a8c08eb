"""Who decides in an episode: the student, or the teacher with windows drawn from the curriculum."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from flexattn.agents.decision import (
    Choose,
    Decision,
    is_legal,
    nothing,
    would_complete_banned,
)
from flexattn.agents.masked import masked_log_softmax, sample, unpack_legal
from flexattn.agents.networks import Actor, Sequence
from flexattn.env.core import Core
from flexattn.env.spec import Observation
from flexattn.errors import MaskError

Ids = npt.NDArray[np.int32]


class Student:
    """The actor, one step at a time.

    With a `generator` all three heads are sampled, as training needs it. Without one, Lh and Lp are
    the likeliest, and `choose` picks the character from pi(.|s) (the likeliest where it is None).
    """

    def __init__(
        self,
        actor: Actor,
        *,
        generator: torch.Generator | None = None,
        choose: Choose | None = None,
    ) -> None:
        """Wrap an actor; its weights are read, never changed."""
        self.actor = actor
        self.generator = generator
        self.choose = choose
        self.device = next(actor.parameters()).device
        self._windows = torch.tensor(actor.windows, dtype=torch.int32, device=self.device)
        self.reads = max(actor.windows)  # characters of history that a step embeds

    @torch.no_grad()
    def __call__(
        self, seen: Observation, legal: npt.NDArray[np.uint64], active: npt.NDArray[np.bool_]
    ) -> Decision:
        """Decide for the active environments; the others get zeros."""
        rows = np.flatnonzero(active)
        actor, device = self.actor, self.device
        step = torch.from_numpy(seen.step[rows].astype(np.int64)).to(device)
        near = Sequence(
            token=torch.from_numpy(seen.history[rows, -self.reads :].astype(np.int64)).to(device),
            sketch=torch.from_numpy(seen.sketch[rows]).to(device).unsqueeze(1),
            question=torch.from_numpy(seen.question[rows].astype(np.int64)).to(device),
            step=step.unsqueeze(1),
        )
        token, fixed = actor.embed(near)  # [n, reads, dim], [n, 1, .]
        fixed = fixed[:, 0]
        log_h = masked_log_softmax(actor.history_logits(token[:, -1], fixed), None)
        history = self._pick(log_h)
        window = torch.minimum(self._windows[history], (step + 1).to(torch.int32))
        state = actor.state(self._look(rows, token, step, window), fixed)
        known = expected = None
        if actor.prior is not None:
            chars = self._windows[history].cpu().numpy()
            known, expected = actor.prior.states(
                seen, rows, chars, legal[rows], actor.char_head.out_features
            )
        caps = actor.cap_logits(state, token[:, -1], fixed, expected)
        cap = self._pick(masked_log_softmax(caps, None))
        allowed = unpack_legal(legal[rows], actor.char_head.out_features).to(device)
        logits = actor.char_head(state)
        log_a = masked_log_softmax(logits if known is None else logits + known, allowed)
        pi = log_a.double().exp().masked_fill(~allowed, 0.0)
        kept = np.ones(len(rows))
        if self.choose is None:
            char = self._pick(log_a)
        else:
            picked, kept = self.choose((pi / pi.sum(-1, keepdim=True)).cpu().numpy())
            char = torch.from_numpy(picked).to(device)
        if not bool(allowed.gather(-1, char.unsqueeze(-1)).all()):
            raise MaskError("the student chose a character outside A(s); its weights may hold NaN")
        chosen = pi.gather(-1, char.unsqueeze(-1)).squeeze(-1)
        decision = nothing(len(active))
        decision.history[rows] = history.cpu().numpy()
        decision.cap[rows] = cap.cpu().numpy()
        decision.char[rows] = char.cpu().numpy()
        decision.probability[rows] = chosen.cpu().numpy()
        decision.kept[rows] = kept
        return decision

    def _look(
        self, rows: npt.NDArray[np.int64], token: torch.Tensor, step: torch.Tensor,
        window: torch.Tensor,
    ) -> torch.Tensor:  # fmt: skip
        """What attention over the last `window` characters finds, [n, dim]."""
        windows = window.unsqueeze(1).expand(-1, self.reads).contiguous()
        return self.actor.encoder(token, windows, self.reads)[:, -1]

    def _pick(self, log_pi: torch.Tensor) -> torch.Tensor:
        return log_pi.argmax(-1) if self.generator is None else sample(log_pi, self.generator)


class Teacher:
    """The teacher's characters under windows drawn from the curriculum.

    A character that the mask forbids is relabelled by a random legal one and counted; `forbade`
    says in which environments that happened, [N] bool.
    """

    def __init__(
        self, env: Core, windows: npt.NDArray[np.float64], rng: np.random.Generator
    ) -> None:
        """Take the environment, probabilities of (Lh, Lp) [|H|, |P|], and the draws' source."""
        self.env, self.rng = env, rng
        self.edges = windows.ravel().cumsum()
        self.caps = windows.shape[1]
        self.relabelled = 0
        self.forbade = np.zeros(env.num_envs, np.bool_)

    def __call__(
        self, seen: Observation, legal: npt.NDArray[np.uint64], active: npt.NDArray[np.bool_]
    ) -> Decision:
        """Decide for every environment."""
        n = len(active)
        drawn = np.searchsorted(self.edges, self.rng.random(n) * self.edges[-1], side="right")
        drawn = np.minimum(drawn, len(self.edges) - 1)
        char = self.env.teacher()
        allowed = is_legal(legal, char)
        char = np.where(allowed, char, self.env.sample_legal(self.rng)).astype(np.int32)
        self.relabelled += int((~allowed & active).sum())
        self.forbade |= ~allowed & active
        return Decision(
            (drawn // self.caps).astype(np.int32), (drawn % self.caps).astype(np.int32), char,
            np.ones(n), np.ones(n),
        )  # fmt: skip


class TeacherWrites:
    """DAgger's mixture: with probability beta the teacher's character enters the history.

    Source: Ross et al. 2011, arXiv:1011.0686. Where the mask forbids the teacher's character the
    student's own is written.
    """

    def __init__(self, beta: float, rng: np.random.Generator) -> None:
        """Take beta, 0..1, and the draws' source."""
        self.beta, self.rng = beta, rng

    def __call__(self, env: Core, char: Ids, active: npt.NDArray[np.bool_]) -> Ids:
        """What is written, -1 for the student's own."""
        teacher = env.teacher()
        replace = (self.rng.random(len(char)) < self.beta) & is_legal(env.legal_packed(), teacher)
        # the end is the student's decision alone, so that an answer ends where it was ended
        replace &= (teacher > 2) & (char > 2)
        return np.where(replace, teacher, -1).astype(np.int32)


class NoiseWrites:
    """Noise in a history: a share of the characters is replaced at random, `beneath` elsewhere."""

    def __init__(
        self,
        share: float | npt.NDArray[np.float64],
        alphabet: Ids,
        rng: np.random.Generator,
        beneath: TeacherWrites | None = None,
    ) -> None:
        """Take the share, 0..1 or one for each environment, [N], and where characters come from.

        Args:
          share: of the characters written.
          alphabet: ids that may be written, [K].
          rng: the draws' source.
          beneath: what is written where no noise is; None: the emitted character.
        """
        self.share, self.alphabet, self.rng, self.beneath = share, alphabet, rng, beneath

    def __call__(self, env: Core, char: Ids, active: npt.NDArray[np.bool_]) -> Ids:
        """What is written, -1 for the emitted character."""
        noise = self.rng.choice(self.alphabet, len(char))
        replace = (self.rng.random(len(char)) < self.share) & (char > 2)
        replace &= ~would_complete_banned(env, noise)
        other = np.int32(-1) if self.beneath is None else self.beneath(env, char, active)
        return np.where(replace, noise, other).astype(np.int32)
