"""Batches on a device, the next one copied while the network works on the one before.

    stream of copies   | copy 0 | copy 1 |        | copy 2 |        |
    stream of work              | batch 0         | batch 1         | batch 2 ...

Copies come from pinned memory and have a stream of their own, so that they wait for no work; work waits for its own copy alone.
The host asks for work and goes on to the next batch while the device does it, with at most `DEEP` batches there: before one
more is copied it waits for the work on the oldest, never for a value.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.profiler import record_function

DEEP = 3
Made = tuple[Tensor, Tensor]  # uint8 (B, 3, H, W) and a code each


@dataclass(frozen=True)
class Batch:
    """Some images of a set.

    Attributes:
        indices: which they are (B,).
        parts: uint8 (n, 3, H, W) one after another, each of one size; or a tensor of raw images for `make`.
        make: raw images -> (pixels, codes), on whatever device they are; see quantising.py.
        passed: images that were passed over, for they cannot be used.
        codes: of each image, (B,) on the device; None where nothing is left to be found out.
    """

    indices: np.ndarray
    parts: list[Tensor]
    make: Callable[[Tensor], Made] | None = None
    passed: tuple[int, ...] = ()
    codes: Tensor | None = None

    @property
    def pictures(self) -> Tensor | list[Tensor]:
        """What an extractor takes."""
        return self.parts[0] if len(self.parts) == 1 else [image for part in self.parts for image in part]

    def made(self) -> Batch:
        """Pixels in the place of what was raw."""
        if self.make is None:
            return self
        (raw,) = self.parts
        pixels, codes = self.make(raw)
        return replace(self, parts=[pixels], make=None, codes=codes)


class Lane(Protocol):
    """How batches are brought to a device."""

    def bring(self, parts: list[Tensor]) -> tuple[list[Tensor], Any]:
        """Begin to copy; the copies, and what tells when they are there."""

    def wait_for(self, there: Any) -> None:
        """Work that is asked for from now on is done after that."""

    def worked(self) -> Any:
        """What tells when all work that has been asked for is done."""

    def until(self, done: Any) -> None:
        """The host waits for it."""


class CudaLane:
    """A stream for copies beside the current one."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.stream = device, torch.cuda.Stream(device)

    def bring(self, parts: list[Tensor]) -> tuple[list[Tensor], torch.cuda.Event]:
        if any(part.device == self.device for part in parts):  # made by work that may not be done yet
            self.stream.wait_stream(torch.cuda.current_stream(self.device))
        staged = [
            part.pin_memory() if part.device.type == "cpu" else part for part in parts
        ]  # as it is where it is pinned
        with torch.cuda.stream(self.stream):
            found = [part.to(self.device, non_blocking=True) for part in staged]
            return found, self.stream.record_event()

    def wait_for(self, there: torch.cuda.Event) -> None:
        torch.cuda.current_stream(self.device).wait_event(there)

    def worked(self) -> torch.cuda.Event:
        return torch.cuda.current_stream(self.device).record_event()

    def until(self, done: torch.cuda.Event) -> None:
        done.synchronize()


def ahead(batches: Iterator[Batch], device: torch.device, lane: Lane | None = None) -> Generator[Batch, None, None]:
    """The batches on the device, in their order; each is copied as soon as it is there, whatever the device has still to do.

    On a CPU they are what they are. lane: another way to bring them.
    """
    if lane is None:
        if device.type != "cuda":
            yield from (batch.made() for batch in batches)
            return
        lane = CudaLane(device)
    held: deque[tuple[list[Tensor], Any]] = deque()  # copies, whose memory is in use until the work on them is done
    for batch in batches:
        if len(held) == DEEP:
            lane.until(held.popleft()[1])
        with record_function("fewstep.feed.copy"):
            parts, there = lane.bring(batch.parts)
        lane.wait_for(there)
        yield replace(batch, parts=parts).made()
        held.append((parts, lane.worked()))
