"""How many processes decode beside a network: as many as there are cores left, images and room for them."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import sys
from pathlib import Path

AHEAD = 3  # blocks that a worker may have under way: two that it was told to make, one that is handed over
FEWEST = 256  # images a worker, below which it starts for longer than it works
ROOM = 4 << 30  # bytes that decoded images may take on their way
SHARED = Path("/dev/shm")


def worker_count(images: int, block_bytes: int, *, cores: int | None = None, room: int | None = None) -> int:
    """Workers for so many images, of which a block takes so many bytes; 0 where reading them here is better.

    One core is left to the process itself. Processes are only started as copies of this one: where Python starts them anew
    (on Windows and macOS) a script without a main guard would run once more in each.

    cores, room: instead of those of this machine.
    """
    method = multiprocessing.get_start_method(allow_none=True) or multiprocessing.get_all_start_methods()[0]
    if method != "fork" or not sys.platform.startswith("linux") or multiprocessing.current_process().daemon:
        return 0  # the last: a worker has none of its own
    free = (usable_cores() if cores is None else cores) - 1
    room = free_room() if room is None else room
    return max(0, min(free, images // FEWEST, room // (AHEAD * max(block_bytes, 1))))


def usable_cores() -> int:
    """Cores that this process may use: of its affinity and control group, shared with the other processes of this machine."""
    mine = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(mine, quota()) // max(1, int(os.environ.get("LOCAL_WORLD_SIZE") or 1)))


def quota(file: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """Cores that a container was given, rounded up; very many where it was given no limit."""
    try:
        given, period = file.read_text(encoding="ascii").split()[:2]
        return -(-int(given) // int(period))
    except (OSError, ValueError):
        return 1 << 16


def free_room(shared: Path = SHARED) -> int:
    """Bytes for decoded images: half of the shared memory through which they come, where a container may have 64 MB."""
    try:
        return min(ROOM, shutil.disk_usage(shared).free // 2)
    except OSError:
        return ROOM
