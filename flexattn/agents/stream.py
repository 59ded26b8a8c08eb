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
from flexattn.env.device import FIELDS, DeviceCore
from flexattn.env.vocabulary import END, PAD, SPECIALS, UNK
from flexattn.env.world import World

__all__ = ["Chunk", "Offers", "Stream"]

_CHOICES = ("history_choice", "cap_choice", "taken", "written", "teacher", "accepted")


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
      history_choice, cap_choice: indices into H and P, [N, S] int32.
      taken: character taken, [N, S] int32.
      written: character that the history got, [N, S] int32.
      teacher: target character, UNK where it can't be written, [N, S] int32.
      accepted: a step was taken and the target is legal, [N, S] bool.
      char_reward: base + eta1 chi_soft, [N, S] float32.
      gain_by_cap: [N, S, |P|] float32.
      terminated: the step ended the answer, [N, S] bool.
      valid: a step was taken, [N, S] bool.
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
    history_choice: Tensor
    cap_choice: Tensor
    taken: Tensor
    written: Tensor
    teacher: Tensor
    accepted: Tensor
    char_reward: Tensor
    gain_by_cap: Tensor
    terminated: Tensor
    valid: Tensor

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
            history_choice=make(n, s), cap_choice=make(n, s), taken=make(n, s),
            written=make(n, s), teacher=make(n, s), accepted=make(n, s, kind=yes),
            char_reward=make(n, s, kind=torch.float32),
            gain_by_cap=make(n, s, caps, kind=torch.float32), terminated=make(n, s, kind=yes),
            valid=make(n, s, kind=yes),
        )  # fmt: skip


class _Tape:
    """The environments' own rows, one behind the other as they come: few, large copies a step."""

    def __init__(self, core: DeviceCore, s: int, x: int) -> None:
        """Room for S steps, and for the states of X characters before them."""
        n, caps = core.num_envs, core.steps.gain_by_cap.shape[1]

        def make(*shape: int, kind: torch.dtype = torch.int32) -> Tensor:
            return torch.zeros(shape, dtype=kind, device=core.device)

        self.core, self.x, self.s = core, x, s
        self.state = make(x + s + 1, len(FIELDS), n)
        self.sketch = make(s + 1, n, core.sketch.shape[1], kind=torch.bfloat16)
        self.legal = make(s + 1, n, core.legal_words.shape[1], kind=torch.int64)
        self.choice = make(s, len(_CHOICES), n)
        self.done = make(2, s, n, kind=torch.float32)  # base, chi_soft
        self.ended = make(s, n, kind=torch.bool)
        self.gains = make(s, n, caps, kind=torch.float32)

    def rewind(self) -> None:
        """Keep the states of the last X characters for windows that reach back to them."""
        self.state[: self.x].copy_(self.state[self.s : self.s + self.x].clone())

    def before(self, step: int) -> None:
        """Note the state that every environment is in."""
        self.state[self.x + step].copy_(self.core.rows)
        self.sketch[step].copy_(self.core.sketch)
        self.legal[step].copy_(self.core.legal_words)

    def after(self, step: int) -> None:
        """Note what the step gave."""
        steps = self.core.steps
        self.done[0, step].copy_(steps.base)
        self.done[1, step].copy_(steps.chi_soft)
        self.ended[step].copy_(steps.terminated)
        self.gains[step].copy_(steps.gain_by_cap)

    def field(self, name: str) -> Tensor:
        """One field of the state over time, [X + S + 1, N]."""
        return self.state[:, FIELDS.index(name)]

    def fill(self, chunk: Chunk, size: int, eta1: float) -> None:
        """Turn everything, so that an environment's steps stand behind one another."""
        x = self.x
        last = self.field("last")
        chunk.token.copy_(torch.where(last < size, last, UNK).T)
        chunk.asked.copy_(self.field("question").T)
        for name, field in (
            ("step", "t"), ("n_legal", "n_legal"), ("record", "record"), ("pointer", "pointer"),
        ):  # fmt: skip
            getattr(chunk, name).copy_(self.field(field)[x:].T)
        chunk.covered.copy_((self.field("covered") - self.field("t"))[x:].clamp(min=0).T)
        chunk.valid.copy_(self.field("done")[x:-1].T == 0)
        chunk.sketch.copy_(self.sketch.transpose(0, 1))
        chunk.legal.copy_(self.legal.transpose(0, 1))
        for row, name in enumerate(_CHOICES):
            getattr(chunk, name).copy_(self.choice[:, row].T)
        chunk.accepted.logical_and_(chunk.valid)
        chunk.char_reward.copy_((self.done[0] + eta1 * self.done[1]).T)
        chunk.terminated.copy_(self.ended.T)
        chunk.gain_by_cap.copy_(self.gains.transpose(0, 1))


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
        self.world, self.actor, self.alphabet = world, actor, alphabet
        self.noise = config.agent.history_noise
        self.n, self.s = train.rollout_answers, train.rollout_chars
        self.x = max(settings.history_chars) - 1
        self.core = DeviceCore(
            world, self.n, device, config.seed, gain_by_cap=True, autoreset=True, bootstrap=True
        )
        self.chunk = Chunk.empty(
            self.n, self.s, self.x, words=self.core.legal_words.shape[1],
            caps=len(settings.hit_cap_chars), sketch=settings.sketch_dim, device=device,
        )  # fmt: skip
        self.tape = _Tape(self.core, self.s, self.x)
        self.actions = -(-world.size // PADDED) * PADDED
        self.questions = self.core.tables.question_ids
        self.edges = torch.ones(
            len(settings.history_chars) * len(settings.hit_cap_chars), device=device
        )
        self.beta = torch.zeros((), device=device)
        self._decide, self._teach, self._join = (
            speed(work) for work in (policy_step, _demonstrated, _joined)
        )
        self._windows = torch.tensor(settings.history_chars, dtype=torch.int32, device=device)
        self.core.reset()

    def rows_of_teacher(self, share: float) -> int:
        """Environments that the teacher writes, of all."""
        return round(self.n * share)

    @torch.no_grad()
    def collect(self, demos: int) -> None:
        """Fill the chunk: S steps of every environment, the first `demos` the teacher's."""
        core, tape = self.core, self.tape
        tape.rewind()
        table = None
        if demos < self.n:
            with torch.autocast(core.device.type, torch.bfloat16):
                table = self.actor.question(self.questions).float()
        for step in range(self.s):
            tape.before(step)
            tape.choice[step].copy_(self._choose(step, demos, table))
            core.step(*tape.choice[step, :4])
            tape.after(step)
        tape.before(self.s)
        tape.fill(self.chunk, self.world.size, self.world.rules.eta1)

    def _choose(self, step: int, demos: int, table: Tensor | None) -> Tensor:
        """What every environment does, rows of _CHOICES, [6, N] int32."""
        core = self.core
        uniform = torch.rand(8, self.n, device=core.device)
        other = row_sample(None, core.legal_words[:demos], uniform[0, :demos], self.actions)
        told = self._teach(
            core.rows, core.legal_words, core.tables.records, core.tables.ids,
            core.tables.blocked, uniform, other, self.alphabet, self.edges, demos,
            len(self.world.settings.hit_cap_chars), self.world.size, self.noise,
        )  # fmt: skip
        if table is None:
            made: Tensor = told
            return made
        near = slice(step, step + self.x + 1)
        tape, size = self.tape, self.world.size
        lh, lp, logits = self._decide(
            self.actor, tape.field("last")[near, demos:], table,
            tape.field("question")[near, demos:], tape.field("t")[self.x + step, demos:],
            tape.sketch[step, demos:], self._windows, uniform[4, demos:], uniform[5, demos:],
            self.actions, size,
        )  # fmt: skip
        char = row_sample(logits, core.legal_words[demos:], uniform[6, demos:], self.actions)
        joined: Tensor = self._join(told, lh, lp, char, uniform[7], self.beta, demos)
        return joined


def _demonstrated(
    rows: Tensor, legal: Tensor, records: Tensor, ids: Tensor, blocked: Tensor, uniform: Tensor,
    other: Tensor, alphabet: Tensor, edges: Tensor, demos: int, caps: int, size: int, noise: float,
) -> Tensor:  # fmt: skip
    """The teacher's choices for the first `demos` environments, its character for all.

    A character that is not legal is relabelled by `other`; noise enters the history of the
    demonstrations, never a character that would complete a banned term.

    Returns: rows of _CHOICES, [6, N] int32; those of the student's environments are empty in the
      first four.
    """
    record, pointer = rows[FIELDS.index("record")], rows[FIELDS.index("pointer")]
    start, length = records[record, 0], records[record, 1]
    inside = pointer < length
    teacher = torch.where(inside, ids[start + torch.minimum(pointer, length - 1)], END)
    allowed = _holds(legal, teacher) & (teacher < size)
    drawn = (edges <= uniform[1, :, None] * edges[-1]).sum(-1).clamp(max=len(edges) - 1)
    char = torch.where(allowed[:demos], teacher[:demos], other)
    noisy = alphabet[(uniform[2, :demos] * len(alphabet)).int()]
    banned = blocked[rows[FIELDS.index("automaton"), :demos]]
    replace = (uniform[3, :demos] < noise) & (char >= SPECIALS) & ~_holds(banned, noisy)
    written = torch.where(replace, noisy, char)
    rest = torch.full_like(teacher[demos:], PAD)
    return torch.stack(
        [
            (drawn // caps).int(), (drawn % caps).int(), torch.cat([char, rest]),
            torch.cat([written, rest]), torch.where(allowed, teacher, UNK), allowed.int(),
        ]
    )  # fmt: skip


def _joined(
    told: Tensor, lh: Tensor, lp: Tensor, char: Tensor, uniform: Tensor, beta: Tensor, demos: int
) -> Tensor:
    """The student's choices behind the teacher's.

    With chance beta the teacher's character enters the student's history (DAgger), the end apart.
    """
    teacher = told[4, demos:]
    replace = (uniform[demos:] < beta) & (teacher >= SPECIALS) & (char >= SPECIALS)
    written = torch.where(replace, teacher, char)
    own = torch.stack([lh, lp, char, written])
    return torch.cat([torch.cat([told[:4, :demos], own], 1), told[4:]], 0)


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
