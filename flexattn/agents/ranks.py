"""Data parallel learning: each rank takes its share of one batch, and gradients are summed.

Every rank holds the same networks, buffers and random streams, and draws the same whole batch; it
builds and encodes only its own rows of it. A mean over the whole batch is this rank's sum over all
ranks' count, so the sum of the ranks' gradients is the gradient of one process with the whole
batch, in exact arithmetic: sums of floats come in another order. What follows (clipping, Adam,
targets, temperatures) sees the same numbers on every rank and keeps the ranks equal.
CUDA graphs that hold sums between ranks go before the ranks part: NCCL waits for them without end.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed, nn

from flexattn.agents import losses
from flexattn.errors import ConfigError

PATIENCE = datetime.timedelta(hours=2)  # the first rank evaluates while the others wait
MOST_BYTES = 1 << 14  # of what the first rank tells


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together.

    Attributes:
      rank: this process, from 0; the first one logs, evaluates and saves.
      size: processes.
      graphs: CUDA graphs that may hold sums between ranks.
    """

    rank: int = 0
    size: int = 1
    graphs: list[Any] = field(default_factory=list, compare=False, repr=False)

    @classmethod
    def join(cls, device: str) -> Ranks:
        """Join the processes that `torchrun` started; alone where it did not.

        Args:
          device: cpu (gloo) or cuda (NCCL, a GPU for each process of a host).
        """
        size = int(os.environ.get("WORLD_SIZE", "1"))
        if size == 1:
            return ALONE
        place = None
        if device == "cuda":
            here = int(os.environ.get("LOCAL_RANK", "0"))
            if here >= torch.cuda.device_count():
                raise ConfigError(
                    f"torchrun: rank {here} has no GPU, expected at most "
                    f"{torch.cuda.device_count()} processes here; lower --nproc-per-node"
                )
            place = torch.device("cuda", here)
            torch.cuda.set_device(place)
        # with a place NCCL connects now: it can't while a graph is recorded
        distributed.init_process_group(
            "gloo" if place is None else "nccl", timeout=PATIENCE, device_id=place
        )
        return cls(distributed.get_rank(), size)

    def recorded(self, graph: Any) -> None:
        """Remember a CUDA graph that may hold sums between ranks, for `leave` to end it."""
        if self.size > 1:
            self.graphs.append(graph)

    def leave(self) -> None:
        """Wait for the others and part from them; recorded graphs can't be replayed any more.

        Source: NCCL's `commDestroySync` polls until no graph refers to the communicator.
        """
        if self.size == 1:
            return
        distributed.barrier()
        if self.graphs:
            torch.cuda.synchronize()
        while self.graphs:
            self.graphs.pop().reset()
        distributed.destroy_process_group()

    @property
    def first(self) -> bool:
        """Whether this is the rank that logs, evaluates and saves."""
        return self.rank == 0

    def share(self, rows: np.ndarray) -> np.ndarray:
        """This rank's rows of a whole batch: every `size`-th, from `rank` on."""
        return rows if self.size == 1 else rows[self.rank :: self.size]

    def part_of_mean(self, values: Tensor, valid: Tensor) -> Tensor:
        """This rank's part of the mean over all ranks' True positions; the parts add up to it."""
        if self.size == 1:
            return losses.mean_over(values, valid)
        weight = valid.to(values.dtype)
        count = weight.sum()
        distributed.all_reduce(count)
        return (values * weight).sum() / count.clamp(min=1.0)

    def mean(self, values: Tensor, valid: Tensor) -> Tensor:
        """The mean over all ranks' True positions, without gradient where there are several."""
        if self.size == 1:
            return losses.mean_over(values, valid)
        weight = valid.to(values.dtype)
        sums = torch.stack([(values * weight).sum(), weight.sum()]).detach()
        distributed.all_reduce(sums)
        return sums[0] / sums[1].clamp(min=1.0)

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Every rank's gradients become the sum of all ranks' in one message."""
        if self.size == 1:
            return
        found = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([grad.reshape(-1) for grad in found])
        distributed.all_reduce(flat)
        for grad, summed in zip(found, flat.split([grad.numel() for grad in found]), strict=True):
            grad.copy_(summed.view_as(grad))

    def totals(self, *counts: int, device: torch.device) -> list[int]:
        """The sum of every rank's counts."""
        if self.size == 1:
            return list(counts)
        summed = torch.tensor(counts, dtype=torch.int64, device=device)
        distributed.all_reduce(summed)
        return [int(count) for count in summed.tolist()]

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all ranks, without gradient."""
        if self.size > 1:
            distributed.all_reduce(values)
        return values

    def tell(self, text: str) -> str:
        """What the first rank says, at most `MOST_BYTES` of it, on every rank."""
        if self.size == 1:
            return text
        device = "cuda" if distributed.get_backend() == "nccl" else "cpu"
        said = torch.zeros(MOST_BYTES, dtype=torch.uint8, device=device)
        if self.first:
            data = text.encode()
            said[: len(data)] = torch.frombuffer(bytearray(data), dtype=torch.uint8).to(device)
        distributed.broadcast(said, 0)
        return bytes(said.tolist()).rstrip(b"\0").decode()


ALONE = Ranks()
