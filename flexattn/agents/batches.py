"""Answers of the buffer as the tensors that the learner takes; the only place where both meet."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from flexattn.agents.buffer import Answers
from flexattn.agents.cloning import sequence
from flexattn.agents.legal import LegalSets
from flexattn.agents.networks import Foresight, Sequence
from flexattn.agents.prior import CountPrior, Prior
from flexattn.env.reward import length_costs
from flexattn.env.vocabulary import END, PAD, UNK
from flexattn.env.world import World


@dataclass(frozen=True)
class Batch:
    """Answers as the learner takes them.

    Attributes:
      seen: what the actor sees, [B, T + 1].
      foresight: what critics see besides, [B, T + 1].
      rows: states that exist, [B, T + 1] bool, M of them.
      here: indices of the N steps among the M states; the next state is here + 1, [N].
      legal: A(s) of the M states.
      taken: character taken, [N] int64.
      history_choice: index into H, [N] int64.
      cap_choice: index into P, [N] int64.
      char_reward: base + eta1 chi_soft, [N].
      history_cost: cost of every Lh, [|H|].
      cap_reward: eta2 ler - cost for every Lp, [N, |P|].
      terminated: the step ended the answer, [N] bool.
      teacher: pair of the teacher's character in `legal`, [M] int64.
      accepted: a step was taken here and the teacher's character is legal, [M] bool.
      prior: what the counts say under every Lh; None: no counts are under the network.
    """

    seen: Sequence
    foresight: Foresight
    rows: Tensor
    here: Tensor
    legal: LegalSets
    taken: Tensor
    history_choice: Tensor
    cap_choice: Tensor
    char_reward: Tensor
    history_cost: Tensor
    cap_reward: Tensor
    terminated: Tensor
    teacher: Tensor
    accepted: Tensor
    prior: Prior | None = None


class Batches:
    """Makes learner batches over one world."""

    def __init__(self, world: World, device: torch.device, prior: CountPrior | None = None) -> None:
        """Lay the answers out once, so that a future is one gather."""
        settings = world.settings
        self.prior = prior
        self.world, self.device = world, device
        ahead = settings.future_chars + 1
        longest = world.longest_answer
        self.future = np.full((len(world.records), longest + 1 + ahead), PAD, np.int32)
        for record in range(len(world.records)):
            ids = world.answer(record)
            self.future[record, : len(ids)] = np.where(ids < world.size, ids, UNK)
            self.future[record, len(ids)] = END
        self.ahead = np.arange(ahead)
        self.gains, self.sizes = self._offers()
        h, p, longest_term = settings.history_chars, settings.hit_cap_chars, max(settings.lengths)
        alphas = (settings.alpha_h, settings.alpha_p)
        self.history_cost = length_costs(h, p, longest_term, settings.lambda_h, 0.0, *alphas)[:, 0]
        self.cap_cost = length_costs(h, p, longest_term, 0.0, settings.lambda_p, *alphas)[0]

    def _offers(self) -> tuple[np.ndarray, np.ndarray]:
        """Hits of the teacher's own characters under each cap, sim 1, [R, longest + 1, |P|].

        Returns: their gains, reward units, and their lengths, characters; 0 where nothing hits.
        """
        world, settings = self.world, self.world.settings
        shape = (len(world.records), world.longest_answer + 1, len(settings.hit_cap_chars))
        gains, sizes = np.zeros(shape, np.float32), np.zeros(shape, np.int16)
        hard = settings.bonus == "hard"
        gate = 1.0 if hard else 1.0 - settings.semantic_gate
        worth = np.ones_like(world.terms.weight) if hard else world.terms.weight
        # the last for -1, no term
        weight = np.append(worth, 0.0) * settings.lambda_lex * gate * settings.eta2
        lengths = world.terms.lengths
        for record in range(len(world.records)):
            first, size = world.answers.start[record], world.answers.size[record]
            target = world.terms.target[first : first + size]  # [T, K], longest first
            for c, cap in enumerate(settings.hit_cap_chars):
                usable = np.where(lengths <= cap, target, -1)
                column = (usable >= 0).argmax(1)
                found = usable[np.arange(size), column]
                gains[record, :size, c] = weight[found]
                sizes[record, :size, c] = np.where(found >= 0, lengths[column], 0)
        return gains, sizes

    def of(self, answers: Answers) -> Batch:
        """Tensors of finished answers.

        Args:
          answers: padded to their longest, B of them.

        Returns: a `Batch` whose states are all steps and each answer's last state.
        """
        world, device = self.world, self.device
        settings = world.settings
        steps = answers.emitted.shape[1]
        step = np.arange(steps + 1)
        exists = step <= answers.length[:, None]  # [B, T + 1]
        taken = step[:steps] < answers.length[:, None]  # [B, T]
        flat = np.cumsum(exists.ravel()) - 1
        here = flat.reshape(exists.shape)[:, :steps][taken]
        pointer = np.minimum(answers.pointer, self.future.shape[1] - len(self.ahead))
        future = self.future[answers.record[:, None, None], pointer[..., None] + self.ahead]
        at = (answers.record[:, None], np.minimum(answers.pointer, self.gains.shape[1] - 1))
        # a hit that ends inside the segment credited last counts as none
        counts = settings.nested | (self.sizes[at] > answers.covered[..., None])
        offer = np.where(counts, self.gains[at], 0.0) - self.cap_cost
        legal = LegalSets.of(answers.legal[exists], world.size, device)
        aimed = np.full(exists.shape, UNK, np.int64)
        aimed[:, :steps] = np.where(taken & (answers.teacher < world.size), answers.teacher, UNK)
        pair, accepted = legal.find(torch.from_numpy(aimed[exists]).to(device))
        gain = settings.eta2 * answers.gain_by_cap[taken] - self.cap_cost
        last = (step[:steps] == answers.length[:, None] - 1) & answers.terminated[:, None]

        def put(values: np.ndarray, kind: type) -> torch.Tensor:
            return torch.from_numpy(np.ascontiguousarray(values.astype(kind))).to(device)

        return Batch(
            seen=sequence(
                answers.written, answers.question, settings.max_history, settings.sketch_dim, device
            ),
            foresight=Foresight(
                put(future, np.int64),
                put(answers.covered, np.float32),
                put(offer, np.float32),
            ),
            rows=put(exists, np.bool_),
            here=put(here, np.int64),
            legal=legal,
            taken=put(answers.emitted[taken], np.int64),
            history_choice=put(answers.history_choice[taken], np.int64),
            cap_choice=put(answers.cap_choice[taken], np.int64),
            char_reward=put(answers.char_reward[taken], np.float32),
            history_cost=put(self.history_cost, np.float32),
            cap_reward=put(gain, np.float32),
            terminated=put(last[taken], np.bool_),
            teacher=pair,
            accepted=accepted,
            prior=None
            if self.prior is None
            else self.prior.every_window(answers.written, answers.question, exists, legal),
        )
