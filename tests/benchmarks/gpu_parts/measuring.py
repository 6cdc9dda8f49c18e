"""What all parts share: the device and its sizes, times between two synchronisations, peaks of memory, rows of the table."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch


class Row(NamedTuple):
    """One figure."""

    what: str
    value: float | None
    unit: str
    note: str = ""


class Missing(Exception):
    """Something that a part needs is not here; the message says what, and how it comes here."""


@dataclass(frozen=True)
class Place:
    """Where and how large. until: of time.monotonic, when this part is to end; small: sizes of a test."""

    device: torch.device
    small: bool
    until: float

    @property
    def cuda(self) -> bool:
        return self.device.type == "cuda"

    @property
    def left(self) -> float:
        return self.until - time.monotonic()

    def of(self, small: Any, large: Any) -> Any:
        """The size for this place."""
        return small if self.small else large

    def wait(self) -> None:
        if self.cuda:
            torch.cuda.synchronize(self.device)

    def seconds(self, run: Callable[[], Any], repeats: int = 5, warm: int = 1) -> float:
        """Median of a few runs; fewer where one takes long."""
        for _ in range(warm):
            run()
        taken: list[float] = []
        for _ in range(1 if self.small else repeats):
            self.wait()
            began = time.perf_counter()
            run()
            self.wait()
            taken.append(time.perf_counter() - began)
            if sum(taken) > 5:
                break
        return statistics.median(taken)

    @contextmanager
    def peak(self) -> Iterator[Callable[[], str]]:
        """Within: a function that tells the MiB that were taken since, in words; nothing on a CPU."""
        before = 0
        if self.cuda:
            self.wait()
            torch.cuda.reset_peak_memory_stats(self.device)
            before = torch.cuda.memory_allocated(self.device)

        def told() -> str:
            return f"{(torch.cuda.max_memory_allocated(self.device) - before) / 2**20:.0f} MiB" if self.cuda else ""

        yield told

    def random(self, *shape: int, seed: int = 0) -> torch.Tensor:
        """Unit Gaussians, the same on every device."""
        return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(self.device)


def needs(*packages: str) -> None:
    """Missing where one of these packages is not installed."""
    for name in packages:
        if find_spec(name) is None:
            raise Missing(f"{name} is not installed (pip install {name.replace('_', '-')})")
