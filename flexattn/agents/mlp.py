"""Actor and twin critics of plain layers, for `DiscreteSac` on flat states.

Shapes: N states, S numbers a state, D the last hidden width, A actions, J legal pairs.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from flexattn.agents.dense import DenseLayer, dense
from flexattn.agents.legal import LegalSets, legal_linear, taken_linear


class MlpActor(nn.Module):
    """Hidden layers with ReLU, then one row of weights an action."""

    def __init__(self, inputs: int, hidden: tuple[int, ...], actions: int) -> None:
        """Take S, the hidden widths (none: linear in the state) and A."""
        super().__init__()
        widths = (inputs, *hidden)
        self.body = nn.Sequential(*(DenseLayer(1, a, b, relu=True) for a, b in pairwise(widths)))
        self.head = DenseLayer(1, widths[-1], actions, relu=False)

    def logits(self, state: Tensor, legal: LegalSets | None) -> Tensor:
        """Logits of the legal pairs, [N, S] -> [J]; [N, A] where `legal` is None."""
        h = self.body(state.unsqueeze(0))
        if legal is None:
            return self.head(h)[0]
        return legal_linear(h, self.head.weight, legal, self.head.bias)[0]


class MlpCritics(nn.Module):
    """Twins of hidden layers with ReLU, then one row of weights an action."""

    def __init__(
        self, inputs: int, hidden: tuple[int, ...], actions: int, *, by_rows: bool = False
    ) -> None:
        """Take S, the hidden widths (none: linear in the state) and A; see `tables`."""
        super().__init__()
        self.by_rows = by_rows
        widths = (inputs, *hidden)
        self.body = nn.Sequential(*(DenseLayer(2, a, b, relu=True) for a, b in pairwise(widths)))
        bound = widths[-1] ** -0.5
        self.weight = nn.Parameter(torch.empty(2, actions, widths[-1]).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(2, actions).uniform_(-bound, bound))

    @property
    def tables(self) -> list[nn.Parameter]:
        """With `by_rows` the table of actions, whose gradient holds the rows taken alone."""
        return [self.weight] if self.by_rows else []

    def features(self, state: Tensor) -> Tensor:
        """What the twins make of a state, [N, S] -> [2, N, D]."""
        h: Tensor = self.body(state.unsqueeze(0))
        return h if len(h) == 2 else h.expand(2, *state.shape)

    def values(self, h: Tensor, legal: LegalSets | None) -> Tensor:
        """Q(s, .) of the legal pairs, [2, J]; [2, N, A] where `legal` is None."""
        if legal is None:
            return dense(h, self.weight, self.bias, relu=False)
        return legal_linear(h, self.weight, legal, self.bias)

    def value(self, h: Tensor, taken: Tensor) -> Tensor:
        """Q(s, a) of the taken action alone, [2, N]; pays for one row of the table."""
        return taken_linear(h, self.weight, self.bias, taken, by_rows=self.by_rows)
