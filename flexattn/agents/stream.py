"""Experience as a stream on the device: environments that never stop, every character used once.

N environments write S characters each; the learner takes the N x S characters with the state
behind the last, then the environments go on where they stood. So nothing is padded, no shape
changes, and no character is in two updates. The first `demos` environments are the teacher's
(windows by curriculum, noise in the history), the others the student's. An environment that ended
spends one row on its last state, which a cut-off answer bootstraps from, and begins again.
Shapes: N environments, S steps, X characters before them that a window may reach, W mask words.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flexattn.agents.batches import Batches
from flexattn.agents.networks import Actor
from flexattn.agents.rows import PADDED, row_sample
from flexattn.agents.trunks import policy_step
from flexattn.config import Config
from flexattn.env.device import DeviceCore
from flexattn.env.vocabulary import SPECIALS, UNK
from flexattn.env.world import World

__all__ = ["Chunk", "Stream"]


@dataclass(frozen=True)
class Chunk:
    """What N environments wrote in S steps; column s of a state is before step s.

    Attributes:
      token: character written last, [N, X + S + 1] int32; column X + s belongs to state s.
      asked: row of the question, [N, X + S + 1] int32.
      step: index within the answer, [N, S + 1] int32.
      sketch: [N, S + 1, .] bfloat16.
      legal: A(s), [N, S + 1, W] int64 packed.
      n_legal: |A(s)|, [N, S + 1] int32.
      record, pointer, covered: where the teacher stands, [N, S + 1] int32.
      taken: character taken, [N, S] int32.
      written: character that the history got, [N, S] int32.
      teacher: target character, UNK where it can't be written, [N, S] int32.
      accepted: it is legal, [N, S] bool.
      history_choice, cap_choice: indices into H and P, [N, S] int32.
      char_reward: base + eta1 chi_soft, [N, S] float32.
      gain_by_cap: [N, S, |P|] float32.
      terminated: the step ended the answer, [N, S] bool.
      valid: a step was taken, [N, S] bool.
      term: hit term, -1 for none, [N, S] int32.
    """

    token: Tensor
    asked: Tensor
    step: Tensor
    sketch: Tensor
    legal: Tensor
    n_legal: Tensor
    record: Tensor
    pointer: Tensor
    covered: Tensor
    taken: Tensor
    written: Tensor
    teacher: Tensor
    accepted: Tensor
    history_choice: Tensor
    cap_choice: Tensor
    char_reward: Tensor
    gain_by_cap: Tensor
    terminated: Tensor
    valid: Tensor
    term: Tensor

    @classmethod
    def empty(
        cls, n: int, s: int, x: int, *, words: int, caps: int, sketch: int, device: torch.device
    ) -> Chunk:
        """Room for one chunk."""

        def make(*shape: int, kind: torch.dtype = torch.int32) -> Tensor:
            return torch.zeros(shape, dtype=kind, device=device)

        yes = torch.bool
        return cls(
            token=make(n, x + s + 1), asked=make(n, x + s + 1), step=make(n, s + 1),
            sketch=make(n, s + 1, sketch, kind=torch.bfloat16),
            legal=make(n, s + 1, words, kind=torch.int64), n_legal=make(n, s + 1),
            record=make(n, s + 1), pointer=make(n, s + 1), covered=make(n, s + 1),
            taken=make(n, s), written=make(n, s), teacher=make(n, s),
            accepted=make(n, s, kind=yes), history_choice=make(n, s), cap_choice=make(n, s),
            char_reward=make(n, s, kind=torch.float32),
            gain_by_cap=make(n, s, caps, kind=torch.float32), terminated=make(n, s, kind=yes),
            valid=make(n, s, kind=yes), term=make(n, s),
        )  # fmt: skip


class Stream:
    """N environments on the device, and the chunk that they wrote last."""

    def __init__(
        self, config: Config, world: World, actor: Actor, alphabet: Tensor, device: torch.device,
        speed: Callable[[Any], Any],
    ) -> None:  # fmt: skip
        """Allocate environments and chunk; every environment begins an answer.

        Args:
          config: `train.rollout_answers` is N, `train.rollout_chars` S.
          world: the tables.
          actor: who writes; read, never changed.
          alphabet: ids that noise may write, [K] int32.
          device: where everything lives.
          speed: compiles a function, or leaves it as it is.
        """
        train, settings = config.train, world.settings
        self.agent, self.world, self.actor, self.alphabet = config.agent, world, actor, alphabet
        self.n, self.s = train.rollout_answers, train.rollout_chars
        self.x = max(settings.history_chars) - 1
        self.core = DeviceCore(
            world, self.n, device, config.seed, gain_by_cap=True, autoreset=True, bootstrap=True
        )
        self.chunk = Chunk.empty(
            self.n, self.s, self.x, words=self.core.legal_words.shape[1],
            caps=len(settings.hit_cap_chars), sketch=settings.sketch_dim, device=device,
        )  # fmt: skip
        self.actions = -(-world.size // PADDED) * PADDED
        self.questions = self.core.tables.question_ids
        self.edges = torch.ones(
            len(settings.history_chars) * len(settings.hit_cap_chars), device=device
        )
        self.beta = torch.zeros((), device=device)
        self.eta1 = world.rules.eta1
        self._decide = speed(policy_step)
        self._windows = torch.tensor(settings.history_chars, dtype=torch.int32, device=device)
        self.core.reset()

    def rows_of_teacher(self, share: float) -> int:
        """Environments that the teacher writes, of all."""
        return round(self.n * share)

    @torch.no_grad()
    def collect(self, demos: int) -> None:
        """Fill the chunk: S steps of every environment, the first `demos` the teacher's."""
        chunk, x, s = self.chunk, self.x, self.s
        for kept in (chunk.token, chunk.asked):
            kept[:, :x].copy_(kept[:, s : s + x].clone())
        table = None
        if demos < self.n:
            with torch.autocast(self.core.device.type, torch.bfloat16):
                table = self.actor.question(self.questions).float()
        for column in range(s):
            self._note(column)
            self._step(column, demos, table)
        self._note(s)

    def _note(self, column: int) -> None:
        """Write down the state that every environment is in."""
        chunk, state = self.chunk, self.core.state
        last = torch.where(state["last"] < self.world.size, state["last"], UNK)
        chunk.token[:, self.x + column] = last
        chunk.asked[:, self.x + column] = state["question"]
        chunk.step[:, column] = state["t"]
        chunk.sketch[:, column] = self.core.sketch
        chunk.legal[:, column] = self.core.legal_words
        chunk.n_legal[:, column] = state["n_legal"]
        chunk.record[:, column] = state["record"]
        chunk.pointer[:, column] = state["pointer"]
        chunk.covered[:, column] = (state["covered"] - state["t"]).clamp(min=0)

    def _step(self, column: int, demos: int, table: Tensor | None) -> None:
        core, chunk = self.core, self.chunk
        uniform = torch.rand(6, self.n, device=core.device)
        teacher = core.teacher()
        allowed = _holds(core.legal_words, teacher) & (teacher < self.world.size)
        chunk.teacher[:, column] = torch.where(allowed, teacher, UNK)
        chunk.valid[:, column] = core.state["done"] == 0
        lh, lp, char, written = self._demonstrate(demos, uniform, teacher, allowed)
        if table is not None:
            choices = self._write(column, demos, uniform[:, demos:], table)
            put = self._dagger(demos, uniform, teacher, allowed, choices[2])
            lh, lp, char, written = (
                torch.cat(pair) for pair in zip((lh, lp, char, written), (*choices, put))
            )
        steps = core.step(lh, lp, char, written)
        valid = chunk.valid[:, column]
        chunk.accepted[:, column] = allowed & valid
        chunk.taken[:, column] = steps.char
        chunk.written[:, column] = steps.written
        chunk.history_choice[:, column] = lh
        chunk.cap_choice[:, column] = lp
        chunk.char_reward[:, column] = steps.base + self.eta1 * steps.chi_soft
        chunk.gain_by_cap[:, column] = steps.gain_by_cap
        chunk.terminated[:, column] = steps.terminated
        chunk.term[:, column] = steps.term

    def _demonstrate(
        self, demos: int, uniform: Tensor, teacher: Tensor, allowed: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The teacher's characters, relabelled where they are not legal, noise in the history."""
        core, u = self.core, uniform[:, :demos]
        caps = len(self.world.settings.hit_cap_chars)
        drawn = torch.searchsorted(self.edges, (u[0] * self.edges[-1]).contiguous(), right=True)
        drawn = drawn.clamp(max=len(self.edges) - 1).int()
        words = core.legal_words[:demos]
        other = row_sample(None, words, u[1], self.actions)
        char = torch.where(allowed[:demos], teacher[:demos], other)
        noise = self.alphabet[(u[2] * len(self.alphabet)).int()]
        banned = core.tables.blocked[core.state["automaton"][:demos]]
        replace = (u[3] < self.agent.history_noise) & (char >= SPECIALS) & ~_holds(banned, noise)
        return drawn // caps, drawn % caps, char, torch.where(replace, noise, -1)

    def _write(
        self, column: int, demos: int, uniform: Tensor, table: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The student's own choices."""
        chunk, x = self.chunk, self.x
        near = slice(column, column + x + 1)
        lh, lp, logits = self._decide(
            self.actor, chunk.token[demos:, near].contiguous(), table,
            chunk.asked[demos:, near].contiguous(), chunk.step[demos:, column].contiguous(),
            chunk.sketch[demos:, column].contiguous(), self._windows,
            uniform[0].contiguous(), uniform[1].contiguous(), self.actions,
        )  # fmt: skip
        return lh, lp, row_sample(logits, self.core.legal_words[demos:], uniform[2], self.actions)

    def _dagger(
        self, demos: int, uniform: Tensor, teacher: Tensor, allowed: Tensor, char: Tensor
    ) -> Tensor:
        """With chance beta the teacher's character is written, -1 for the student's own."""
        replace = (uniform[4, demos:] < self.beta) & allowed[demos:]
        replace &= (teacher[demos:] >= SPECIALS) & (char >= SPECIALS)
        return torch.where(replace, teacher[demos:], -1)


class Offers:
    """What the index offers at each place of each answer, and the characters to come."""

    def __init__(self, world: World, device: torch.device) -> None:
        """Copy the tables that `Batches` lays out."""
        laid = Batches(world, torch.device("cpu"))

        def put(values: Any, kind: torch.dtype) -> Tensor:
            return torch.as_tensor(values).to(device, kind)

        self.future = put(laid.future, torch.int32)
        self.gains = put(laid.gains, torch.float32)
        self.sizes = put(laid.sizes, torch.int32)
        self.cap_cost = put(laid.cap_cost, torch.float32)
        self.history_cost = put(laid.history_cost, torch.float32)
        self.ahead = torch.arange(world.settings.future_chars + 1, device=device)
        self.nested = world.settings.nested

    def at(self, chunk: Chunk) -> tuple[Tensor, Tensor]:
        """Future characters [N, S + 1, 1 + F] int32 and offers [N, S + 1, |P|] of every state."""
        pointer = chunk.pointer.clamp(max=self.future.shape[1] - len(self.ahead))
        record = chunk.record.long()
        future = self.future[record[..., None], pointer[..., None] + self.ahead]
        place = chunk.pointer.clamp(max=self.gains.shape[1] - 1)
        gains = self.gains[record, place]
        if not self.nested:
            # a hit that ends inside the segment credited last counts as none
            gains = torch.where(self.sizes[record, place] > chunk.covered[..., None], gains, 0.0)
        return future, gains - self.cap_cost


def _holds(words: Tensor, member: Tensor) -> Tensor:
    """Is `member` in the packed set of its row, [N] bool; one past the row is not."""
    at = (member >> 6).long()
    inside = at < words.shape[1]
    word = words.gather(1, at.clamp(max=words.shape[1] - 1)[:, None]).squeeze(1)
    return inside & (((word >> (member & 63)) & 1) != 0)
