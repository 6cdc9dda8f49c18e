"""What a launcher tells in the environment, the device of this process among the others, and joining the group."""

from __future__ import annotations

import atexit
import os
import time
from datetime import timedelta
from typing import Any

import torch

from fewstep.devices import chosen_device
from fewstep.lazy import optional

LONG = timedelta(minutes=30)  # of a collective in a group that is begun here


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


def placed(device: Any) -> torch.device:
    """The named device; of GPUs that are not told apart, the one that is this process's."""
    several = launched()[1] > 1 or (torch.distributed.is_available() and torch.distributed.is_initialized())
    found = chosen_device(device)
    if not several or found.type != "cuda" or (device is not None and found.index is not None):
        return found
    chosen, local = torch.cuda.current_device(), os.environ.get("LOCAL_RANK", "")
    if chosen == 0 and local.isascii() and local.isdigit():  # nobody has said `set_device`
        chosen = int(local) % torch.cuda.device_count()
    return torch.device("cuda", chosen)


def join(device: Any, wait: float) -> None:
    """Begin the group that the environment tells of. TimeoutError: the others did not come."""
    size = launched()[1]
    with optional("a run of several processes"):
        from accelerate import PartialState

    try:
        cpu = device is not None and torch.device(device).type == "cpu"
        state = PartialState(cpu=cpu, timeout=timedelta(seconds=wait))
    except (RuntimeError, TimeoutError) as error:
        raise TimeoutError(
            f"the environment tells of {size} processes, and the others did not come within {wait:g} seconds: start all with "
            "accelerate launch or torchrun, or say processes='alone' (--processes alone) where one evaluates by itself"
        ) from error
    if state.num_processes != size:
        raise ValueError(
            f"WORLD_SIZE is {size}, and {state.num_processes} processes found each other: start them with accelerate "
            "launch or torchrun, or unset WORLD_SIZE and RANK"
        )
    if hasattr(torch.distributed.distributed_c10d, "_set_pg_timeout"):
        torch.distributed.distributed_c10d._set_pg_timeout(LONG)
    atexit.register(_leave, state)


def _leave(state: Any) -> None:
    """End the group. Its threads let go of their last tensors a moment after a collective returns, and need a living
    interpreter for that: without the moment a process that ends at once is now and then aborted."""
    time.sleep(0.1)
    state.destroy_process_group()
