"""Work shared by processes, where torch.distributed is initialised: every one does its part and gets the whole."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor


def count() -> int:
    """Processes in the default group; 1 where there is none."""
    distributed = torch.distributed
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def same(value: Tensor) -> Tensor:
    """The first process's tensor, in all."""
    value = value.contiguous().clone()
    torch.distributed.broadcast(value, 0)
    return value


def in_parts(fn: Callable[[Tensor, np.ndarray], Tensor], x: Tensor, times: np.ndarray) -> Tensor:
    """fn(x, times) along the first axis, (n, ...): each process evaluates ceil(n / processes) of the n, the last repeated."""
    n, processes = len(times), count()
    size = -(-n // processes)
    mine = np.minimum(torch.distributed.get_rank() * size + np.arange(size), n - 1)
    part = fn(x[mine], times[mine]).contiguous()
    parts = [torch.empty_like(part) for _ in range(processes)]
    torch.distributed.all_gather(parts, part)
    return torch.cat(parts)[:n]
