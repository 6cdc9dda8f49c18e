"""Seconds of work on a device, by its own clock: nothing waits for the end of it before somebody asks."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Stopwatch:
    """Adds up the time between beginning and end of blocks; on a GPU that of its stream, else that of the wall."""

    def __init__(self) -> None:
        self._known = 0.0
        self._pending: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def running(self, device: torch.device) -> Iterator[None]:
        if device.type != "cuda":
            began = time.perf_counter()
            yield
            self._known += time.perf_counter() - began
            return
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        stream = torch.cuda.current_stream(device)
        begin.record(stream)
        yield
        end.record(stream)
        self._pending.append((begin, end))

    @property
    def seconds(self) -> float:
        for begin, end in self._pending:
            end.synchronize()
            self._known += begin.elapsed_time(end) / 1000
        self._pending = []
        return self._known
