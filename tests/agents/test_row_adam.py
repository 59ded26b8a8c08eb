"""Rows that are touched move as under Adam; the others stand still."""

from __future__ import annotations

import torch

from flexattn.agents.row_adam import RowAdam


def _sparse(rows: list[int], values: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    at = torch.tensor([[row // shape[1] for row in rows], [row % shape[1] for row in rows]])
    return torch.sparse_coo_tensor(at, values, shape, is_coalesced=True, check_invariants=False)


def test_where_every_row_is_touched_it_is_adam() -> None:
    torch.manual_seed(0)
    start = torch.randn(2, 5, 8, dtype=torch.float64)
    ours, theirs = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())
    rows, adam = RowAdam([ours], 1e-2), torch.optim.Adam([theirs], 1e-2)
    for _ in range(20):
        grad = torch.randn(10, 8, dtype=torch.float64)
        ours.grad = _sparse(list(range(10)), grad, (2, 5, 8))
        theirs.grad = grad.view(2, 5, 8)
        rows.step()
        adam.step()
    assert torch.allclose(ours, theirs, atol=1e-12)


def test_rows_without_a_gradient_stand_still_and_so_do_their_moments() -> None:
    table = torch.nn.Parameter(torch.ones(2, 3, 4))
    rows = RowAdam([table], 0.1)
    table.grad = _sparse([1, 5], torch.ones(2, 4), (2, 3, 4))
    rows.step()
    rows.zero_grad()
    rows.step()
    moved = (table != 1.0).all(-1)
    assert moved.nonzero().tolist() == [[0, 1], [1, 2]]
    assert (rows.first[0].abs().sum(-1) > 0).nonzero().tolist() == [[0, 1], [1, 2]]
