"""The batched step on a GPU: state and corpus live there, a step is one launch, nothing comes back.

`DeviceCore` is `core.Core` in torch tensors: the same world, the same numbers (float64 inside,
float32 in what comes out), the same decisions. Its tables are built by `World` on the CPU and
copied once. A step reads and writes only tensors that were allocated at the start, so it can be
captured in a CUDA graph. A new catalog is a new `DeviceCore`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import triton
from torch import Tensor

from flexattn.env import device_parts as parts
from flexattn.env.device_kernel import step_kernel
from flexattn.env.mask import fill_legal
from flexattn.env.vocabulary import END, PAD, UNK
from flexattn.env.world import World
from flexattn.errors import EnvironmentSpecError

__all__ = ["FIELDS", "DeviceCore", "DeviceSteps"]

FIELDS = (
    "record", "question", "t", "pointer", "covered", "automaton", "slot", "credits", "n_legal",
    "widened", "done", "last", "before", "draws",
)  # fmt: skip
_CHUNK = parts.CHUNK.value
_SPAN = parts.SPAN.value
LARGEST_ALPHABET = 32767  # a history keeps ids in 16 bits


@dataclass(frozen=True)
class DeviceSteps:
    """What a step gave, `spec.StepArrays` on the device; the next step overwrites it.

    Attributes:
      char: emitted ids, after an illegal one was replaced, [N] int32; PAD where nothing stepped.
      written: ids that entered the history, [N] int32.
      term: hit term's index, -1 for none, [N] int32.
      length: its characters, 0 for none, [N] int32.
      n_legal: |A(s)| before the step, [N] int32.
      idf, sim, delta, ler, len_cost, base, chi_soft, reward: as in a step line, [N] float32.
      illegal, terminated, truncated: [N] bool.
      gain_by_cap: credited gain under each cap, [N, |P|] float32; zeros unless asked for.
    """

    char: Tensor
    written: Tensor
    term: Tensor
    length: Tensor
    n_legal: Tensor
    idf: Tensor
    sim: Tensor
    delta: Tensor
    ler: Tensor
    len_cost: Tensor
    base: Tensor
    chi_soft: Tensor
    reward: Tensor
    illegal: Tensor
    terminated: Tensor
    truncated: Tensor
    gain_by_cap: Tensor


class DeviceCore:
    """N environments side by side on one device; tensors in, tensors out."""

    def __init__(
        self,
        world: World,
        num_envs: int,
        device: torch.device | str = "cuda",
        seed: int = 0,
        *,
        gain_by_cap: bool = False,
        autoreset: bool = False,
        bootstrap: bool = False,
        block: int = 32,
    ) -> None:
        """Copy the world and allocate the state; nothing stands in an episode until `reset`.

        Args:
          world: tables of corpus, catalog and config.
          num_envs: N.
          device: a CUDA device; "cpu" under Triton's interpreter.
          seed: of the draws made on the device.
          gain_by_cap: whether a step also fills `DeviceSteps.gain_by_cap`.
          autoreset: whether the step after an end begins another train answer, drawn evenly
            (Gymnasium's NEXT_STEP); such an environment stands still otherwise.
          bootstrap: whether a cut-off answer's last state keeps its A(s), as a learner wants it.
          block: environments that one program steps.

        Raises: EnvironmentSpecError where the device can't hold this world.
        """
        settings = world.settings
        if world.vocabulary.alphabet > LARGEST_ALPHABET:
            raise EnvironmentSpecError(
                f"DeviceCore: the corpus has {world.vocabulary.alphabet} characters, expected at "
                f"most {LARGEST_ALPHABET}; step on the CPU"
            )
        if settings.gate_window < 2 or settings.radius > 16:
            raise EnvironmentSpecError(
                f"DeviceCore: env.gate_window is {settings.gate_window} and reward.radius "
                f"{settings.radius}, expected at least 2 and at most 16; step on the CPU"
            )
        if settings.bonus != "gated":
            raise EnvironmentSpecError(
                f"DeviceCore: reward.bonus is {settings.bonus}, expected gated; step on the CPU"
            )
        self.world, self.num_envs, self.device = world, num_envs, torch.device(device)
        self.seed, self.autoreset, self.bootstrap = seed, autoreset, bootstrap
        self.tables = _Tables.of(world, self.device)
        n, caps = num_envs, len(settings.hit_cap_chars)
        most = world.longest_answer + settings.slack + 2
        ring = 1 << max(1, (settings.gate_window - 1).bit_length())
        room = -(-most // _SPAN) * _SPAN
        lcs_words = int(world.answers.words.max())

        def make(*shape: int, kind: torch.dtype = torch.int32) -> Tensor:
            return torch.zeros(shape, dtype=kind, device=self.device)

        self.rows = make(len(FIELDS), n)
        self.history = make(n, room, kind=torch.int16)
        self.credited = make(n, most)
        self.lcs = make(lcs_words, n, kind=torch.int64)
        self.ring = make(2, ring, n, kind=torch.float64)
        self.sketch = make(n, settings.sketch_dim, kind=torch.float32)
        self.legal_words = make(n, self.tables.width, kind=torch.int64)
        self.legal_words[:, 0] = 1 << END
        self.state = {name: self.rows[row] for row, name in enumerate(FIELDS)}
        self.state["done"].fill_(1)
        self.state["n_legal"].fill_(1)
        self.history_choice = make(n)
        self.cap_choice = make(n)
        counted, measured = make(5, n), make(8, n, kind=torch.float32)
        flags = make(3, n, kind=torch.int8)
        gains = make(n, caps, kind=torch.float32)
        self._out = (counted, measured, flags, gains)
        columns: list[Tensor] = [*counted, *measured, *flags.view(torch.bool), gains]
        self.steps = DeviceSteps(*columns)
        self._nothing = make(1)
        self._grid = (triton.cdiv(n, block),)
        self._meta: dict[str, Any] = {
            "BLOCK": block,
            "GAINS": gain_by_cap,
            "AUTORESET": autoreset,
            "BOOTSTRAP": bootstrap,
            "ROOM": room,
            "CREDIT_ROOM": most,
            "RING": ring,
            "DIM": settings.sketch_dim,
            "LCS_WORDS": lcs_words,
            "num_warps": max(1, block // 32),
            "num_stages": 1,
            "enable_fp_fusion": False,  # the CPU rounds every product
            **self.tables.meta,
        }
        if triton.knobs.runtime.interpret:
            del self._meta["enable_fp_fusion"]
        self._future = torch.arange(settings.future_chars + 1, device=self.device)
        self._back = torch.arange(-settings.max_history, 0, device=self.device)

    def reset(
        self,
        records: Tensor | npt.NDArray[np.int64] | None = None,
        questions: Tensor | npt.NDArray[np.int64] | None = None,
        which: Tensor | None = None,
    ) -> None:
        """Put environments at the start of an answer.

        Args:
          records: record of each environment, [N]; drawn evenly from the train records where None.
          questions: which of its questions, [N]; the first where None.
          which: [N] bool, environments; all where None. Entries of the others have no effect.
        """
        tables, n = self.tables, self.num_envs
        on = torch.ones(n, dtype=torch.bool, device=self.device) if which is None else which
        if records is None:
            at = torch.rand(n, device=self.device) * len(tables.train)
            chosen = tables.train[at.long().clamp(max=len(tables.train) - 1)]
        else:
            chosen = torch.as_tensor(records, device=self.device).to(torch.int32)
        question = tables.records[chosen.long(), 5]
        if questions is not None:
            question = question + torch.as_tensor(questions, device=self.device).to(torch.int32)
        fresh: dict[str, Tensor | int] = {
            "record": chosen, "question": question, "slot": -1, "n_legal": tables.start_count,
            "widened": tables.start_widened,
        }  # fmt: skip
        for name, row in self.state.items():
            if name != "draws":
                value = fresh.get(name, 0)
                row.copy_(torch.where(on, value, row))
        self.lcs.masked_fill_(on, -1)
        self.sketch.masked_fill_(on[:, None], 0.0)
        self.legal_words.copy_(torch.where(on[:, None], tables.start_row, self.legal_words))

    def step(
        self, lh_index: Tensor, lp_index: Tensor, char: Tensor, written: Tensor | None = None
    ) -> DeviceSteps:
        """One action for each environment; see `Core.step`. Those that are done stand still.

        Args:
          lh_index: index in H, [N] int32; inside 0..|H|-1, which nothing checks here.
          lp_index: index in P, [N] int32, likewise.
          char: emitted id, [N] int32; an illegal one is replaced by the legal one of lowest id.
          written: id that enters the history where it differs, -1 for the emitted one, [N] int32.
        """
        self._launch(lh_index, lp_index, char, written, random=False)
        return self.steps

    def step_random(self) -> DeviceSteps:
        """One action drawn evenly from the legal ones; the windows are in `history_choice` .."""
        self._launch(self.history_choice, self.cap_choice, None, None, random=True)
        return self.steps

    def legal_packed(self) -> Tensor:
        """A(s) of every environment, [N, W] int64, bit c % 64 of word c // 64; a view."""
        return self.legal_words[:, : self.tables.words]

    def legal(self) -> Tensor:
        """A(s) of every environment, [N, V] bool."""
        return unpack(self.legal_words, self.world.size)

    def teacher(self) -> Tensor:
        """The target chi_t of every environment, [N] int32; END past the answer."""
        return self._ahead(self._future[:1])[:, 0]

    def observe(self) -> dict[str, Tensor]:
        """What actors may see, by the names of `spec.Observation`; fresh tensors."""
        t = self.state["t"]
        places = t[:, None] + self._back
        rows = self.history.gather(1, places.clamp(min=0)).int()
        rows = torch.where(rows < self.world.size, rows, UNK)
        return {
            "history": torch.where(places >= 0, rows, PAD),
            "sketch": self.sketch.clone(),
            "question": self.tables.question_ids[self.state["question"].long()],
            "step": t.clone(),
        }

    def privileged(self) -> dict[str, Tensor]:
        """What critics may see besides, by the names of `spec.Privileged`; fresh tensors."""
        ids = self._ahead(self._future)
        ids = torch.where(ids < self.world.size, ids, UNK)
        return {
            "target": ids[:, 0].clone(),
            "future": ids[:, 1:].clone(),
            "covered": (self.state["covered"] - self.state["t"]).clamp(min=0),
        }

    def _ahead(self, offsets: Tensor) -> Tensor:
        """The teacher's characters from the pointer on, END behind them, then PAD, [N, .]."""
        about = self.tables.records[self.state["record"].long()]
        ahead = self.state["pointer"][:, None] + offsets
        size = about[:, 1:2]
        ids = self.tables.ids[about[:, :1] + torch.minimum(ahead, size - 1)]
        return torch.where(ahead < size, ids, torch.where(ahead == size, END, PAD)).int()

    def _launch(
        self, lh: Tensor, lp: Tensor, char: Tensor | None, written: Tensor | None, *, random: bool
    ) -> None:
        none = self._nothing
        step_kernel[self._grid](
            self.rows, self.history, self.credited, self.lcs, self.ring, self.sketch,
            self.legal_words, lh, lp, none if char is None else char,
            none if written is None else written, *self._out, *self.tables.pointers,
            self.num_envs, len(self.tables.train), self.world.vocabulary.alphabet, self.seed,
            RANDOM=random, WRITTEN=written is not None, **self._meta,
        )  # fmt: skip


def unpack(words: Tensor, size: int) -> Tensor:
    """Packed rows as booleans, [.., W] int64 -> [.., size] bool."""
    bits = (words.unsqueeze(-1) >> torch.arange(64, device=words.device)) & 1
    return bits.flatten(-2)[..., :size].bool()


@dataclass(frozen=True)
class _Tables:
    """A world as the kernel reads it.

    Attributes:
      pointers: tensors in the order of the kernel's arguments.
      meta: sizes that the kernel is compiled for.
      ids, records, train, question_ids: those of `pointers` that are read here too, and questions.
      words: W of the world; width: the same, padded to whole chunks.
      blocked: characters that would complete a banned term, by the automaton's state.
      start_row, start_count, start_widened: A(s) at the start of any answer.
    """

    pointers: tuple[Tensor, ...]
    meta: dict[str, Any]
    ids: Tensor
    records: Tensor
    train: Tensor
    question_ids: Tensor
    blocked: Tensor
    words: int
    width: int
    start_row: Tensor
    start_count: int
    start_widened: int

    @classmethod
    def of(cls, world: World, device: torch.device) -> _Tables:
        """Copy a world's tables."""
        answers, terms, mask, grams, rules = world.tables
        settings = world.settings
        words = len(mask.writable)
        width = -(-words // _CHUNK) * _CHUNK

        def put(values: npt.ArrayLike, kind: type) -> Tensor:
            array: npt.NDArray[Any] = np.ascontiguousarray(np.asarray(values).astype(kind))
            # a table of nothing still needs an address
            return torch.from_numpy(array if array.size else np.zeros(1, kind)).to(device)

        def rows(packed: npt.NDArray[np.uint64]) -> Tensor:
            wide = np.zeros((*packed.shape[:-1], width), np.uint64)
            wide[..., :words] = packed[..., :words]
            return torch.from_numpy(wide.view(np.int64)).to(device)

        counts = np.diff(world.question_start)
        about = np.stack(
            [
                answers.start, answers.size, answers.words, answers.slot_start[:-1],
                answers.slot_start[1:], world.question_start[:-1], counts, answers.has_soft,
            ],
            axis=1,
        )  # fmt: skip
        traits = (
            answers.mark * parts.IS_MARK.value
            + mask.no_double * parts.NO_DOUBLE.value
            + mask.sentence_end * parts.SENTENCE_END.value
        )
        numbers = [
            rules.lambda_lex, rules.tau, rules.eta1, rules.eta2, rules.progress, rules.p_punct,
            rules.p_repeat, rules.p_noncompliant, rules.near, rules.mix, rules.k1, grams.unseen,
        ]  # fmt: skip
        soft = rules.soft_teacher and bool(answers.has_soft.any())
        start = np.zeros(words, np.uint64)
        count, widened = fill_legal(start, np.zeros(0, np.int32), 0, 0, mask)
        ids, records, train = (
            put(answers.ids, np.int32), put(about, np.int32), put(world.train, np.int32)
        )  # fmt: skip
        blocked = rows(mask.blocked)
        pointers = (
            ids, put(answers.slot, np.int32), records, put(answers.slot_id, np.int32),
            put(answers.slot_mask, np.int32), put(answers.masks.view(np.int64), np.int64),
            put(answers.norm, np.float64), put(answers.weight_at, np.float64),
            put(answers.share_at, np.float64), put(answers.soft_start, np.int32),
            put(answers.soft_id, np.int32), put(answers.soft_p, np.float64),
            put(terms.lengths, np.int32), put(terms.weight, np.float64),
            put(terms.tail, np.int32), put(terms.target, np.int32),
            put(terms.child_start, np.int32), put(terms.child_id, np.int32),
            put(terms.child_term, np.int32), put(terms.cost, np.float64),
            put(terms.caps, np.int32), put(terms.repeat, np.float64),
            rows(mask.follows), rows(mask.skips), rows(mask.writable), rows(mask.opening),
            put(traits, np.int32), put(mask.goto, np.int32), blocked,
            put(grams.row, np.int32), put(grams.second, np.int32), put(grams.weight, np.float64),
            put(numbers, np.float64), train,
        )  # fmt: skip
        meta = {
            "CHUNKS": width // _CHUNK,
            "WINDOW": settings.gate_window,
            "LONGEST": max(settings.lengths),
            "K": len(terms.lengths),
            "HS": len(settings.history_chars),
            "CAPS": len(settings.hit_cap_chars),
            "RADIUS": settings.radius,
            "SLOT_STEPS": _steps(answers.slot_start),
            "GRAM_STEPS": _steps(grams.row),
            "CHILD_STEPS": _steps(terms.child_start),
            "SOFT_MOST": int(np.diff(answers.soft_start).max(initial=0)) if soft else 0,
            "SLACK": settings.slack,
            "MAX_HISTORY": settings.max_history,
            "SHORTEST": int(np.ceil(mask.shortest)),
            "NESTED": bool(rules.nested),
            "RESYNC": bool(rules.resync),
            "HARD": bool(rules.hard),
            "GUIDED": bool(mask.guided),
            "REACH": 1 + len(mask.skips),
        }
        return cls(
            pointers=pointers, meta=meta, ids=ids, records=records, train=train,
            question_ids=put(world.question_ids, np.int32), blocked=blocked, words=words,
            width=width, start_row=rows(start), start_count=int(count),
            start_widened=int(widened),
        )  # fmt: skip


def _steps(starts: Sequence[int] | npt.NDArray[Any]) -> int:
    """Halvings that a search in the longest run needs."""
    return int(np.diff(starts).max(initial=0)).bit_length() + 1
