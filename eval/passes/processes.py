"""The processes of one evaluation: one alone, or those that `accelerate launch` or `torchrun` started."""

from __future__ import annotations

import atexit
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewstep.devices import chosen_device
from fewstep.eval.gaussian.moments import Moments
from fewstep.eval.gaussian.sketch import Sketch, ranks
from fewstep.eval.gaussian.statistics import FeatureStatistics
from fewstep.lazy import optional


@dataclass(frozen=True)
class Processes:
    """This process among all of them; every method is called by all, in the same order.

    Attributes:
        device: where this process computes.
        rank, size: its number and how many there are.
    """

    device: torch.device
    rank: int = 0
    size: int = 1

    @classmethod
    def current(cls, device: Any = None) -> Processes:
        """This process alone, or the started group, joined with the backend that fits the device."""
        joined = torch.distributed.is_available() and torch.distributed.is_initialized()
        size = launched()[1]
        if not joined and size == 1:
            return cls(chosen_device(device))
        with optional("a run of several processes"):
            from accelerate import PartialState

        state = PartialState(cpu=device is not None and torch.device(device).type == "cpu")
        if not joined:
            if state.num_processes != size:
                raise ValueError(
                    f"WORLD_SIZE is {size}, and {state.num_processes} processes found each other: start them with accelerate "
                    "launch or torchrun, or unset WORLD_SIZE and RANK"
                )
            atexit.register(_leave, state)
        return cls(state.device, state.process_index, state.num_processes)

    @property
    def first(self) -> bool:
        return self.rank == 0

    def barrier(self) -> None:
        if self.size > 1:
            torch.distributed.barrier()

    @contextmanager
    def first_goes_ahead(self) -> Iterator[None]:
        """The block is done by the first process, then by the others (who find what it left: a download, a folder)."""
        if not self.first:
            self.barrier()
        yield
        if self.first:
            self.barrier()

    def gather(self, value: Any) -> list[Any]:
        """Everybody's object, in order of rank, for everybody."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        torch.distributed.all_gather_object(found, value)
        return found

    def broadcast(self, value: Any) -> Any:
        """The first process's object, for everybody."""
        if self.size == 1:
            return value
        box = [value]
        torch.distributed.broadcast_object_list(box, src=0)
        return box[0]

    def sum(self, value: Tensor) -> Tensor:
        """Sum over the processes; `value` is used up."""
        if self.size > 1:
            value = value.to(self.device).contiguous()
            torch.distributed.all_reduce(value)
        return value

    def merged(self, mine: FeatureStatistics) -> FeatureStatistics:
        """What all processes have seen; `mine` is used up."""
        if self.size == 1:
            return mine
        together = FeatureStatistics(mine.dim, mine.sketch.size)
        together.n, together.place = sum(self.gather(mine.n)), mine.place
        together.sketch = self._sketch(mine.sketch)
        if not together.few():
            together.moments = self._moments(mine.all_moments(), together.n)
        return together

    def _sketch(self, mine: Sketch) -> Sketch:
        """The lowest ranks of all; none sends what is above them."""
        together = Sketch(mine.rows.shape[1], mine.size)
        lowest = np.sort(ranks(np.concatenate(self.gather(mine.index))))[: mine.size]
        if len(lowest):
            for index, rows in self.gather(mine.below(lowest[-1])):
                together.add(torch.from_numpy(rows), index)
        together.seen = sum(self.gather(mine.seen))
        return together

    def _moments(self, mine: Moments, n: int) -> Moments:
        """Moments of all about the mean of all: n = sum n_r, m = sum n_r m_r / n, S = sum S_r + n_r (m_r - m)(m_r - m)^T."""
        mean = torch.zeros(mine.dim, dtype=torch.float64, device=self.device)
        scatter = torch.zeros(mine.dim, mine.dim, dtype=torch.float64, device=self.device)
        if mine.n:
            mean, scatter = (part.to(self.device) for part in mine.done())
        center = self.sum(mine.n * mean) / n
        delta = mean - center
        return Moments.of(n, center, self.sum(scatter.addr_(delta, delta, alpha=mine.n)))


def launched() -> tuple[int, int]:
    """(rank, number of processes) that the environment tells. ValueError where it tells the half of it."""
    rank, size = os.environ.get("RANK"), os.environ.get("WORLD_SIZE")
    if size is None and rank is None:
        return 0, 1
    told = [int(text) if text is not None and text.isascii() and text.isdigit() else -1 for text in (rank, size)]
    if size == "1" and rank is None:
        told[0] = 0
    if not 0 <= told[0] < told[1]:
        raise ValueError(
            f"the environment variables RANK={rank or ''} and WORLD_SIZE={size or ''} do not tell which of how many processes "
            "this is: start all of them with accelerate launch or torchrun, or unset both"
        )
    return told[0], told[1]


def _leave(state: Any) -> None:
    """End the group. Its threads let go of their last tensors a moment after a collective returns, and need a living
    interpreter for that: without the moment a process that ends at once is now and then aborted."""
    time.sleep(0.1)
    state.destroy_process_group()
