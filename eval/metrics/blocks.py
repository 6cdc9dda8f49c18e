"""Feature rows, checked once and read block by block; no metric makes a whole N x N matrix.

The rows are float32 arrays, possibly memory-mapped; everything is computed from them in float64. On a GPU they lie as they are
where there is room for them, so that a pass over all pairs of blocks sends each row there once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from fewstep.devices import chosen_device
from fewstep.eval.gaussian.features import Features

T = TypeVar("T")
BLOCK = 2048  # rows: at 2048 dimensions a block and a tile of distances take 34 MB each


def rows(features: Features, part: str, metric: str, least: int, block: int = BLOCK) -> np.ndarray:
    """The rows of one part, after a look at their shape, their number and every value.

    Raises:
        ValueError: no such rows, not a matrix, fewer than `least` rows, or a row that is not finite (the first is named).
    """
    if part not in features.rows:
        raise ValueError(
            f"{metric} needs every {part!r} feature vector, and this set has none: statistics (mean and covariance) alone "
            "are not enough; give the images, or features saved from them."
        )
    found = features.rows[part]
    if found.ndim != 2:
        raise ValueError(f"{metric} needs features of shape (n, d); got {tuple(found.shape)}.")
    if len(found) < least:
        raise ValueError(f"{metric} needs at least {least} images a set; got {len(found)}: give more images.")
    for start in range(0, len(found), block):
        finite = np.isfinite(found[start : start + block]).all(axis=1)
        if not finite.all():
            bad = start + int(finite.argmin())
            raise ValueError(
                f"{metric}: the features of image {bad} are not finite; look at that image, or at the network's precision."
            )
    return found


def both(real: Features, generated: Features, part: str, metric: str, least: int) -> tuple[np.ndarray, np.ndarray]:
    """The rows of the real and of the generated set, of one dimension; see `rows`."""
    a, b = rows(real, part, metric, least), rows(generated, part, metric, least)
    same_dimension(metric, a.shape[1], b.shape[1])
    return a, b


def same_dimension(metric: str, real: int, generated: int) -> None:
    """ValueError where the two sets have features of different dimensions."""
    if real != generated:
        raise ValueError(
            f"{metric} compares features of one extractor and layer; the real ones have {real} dimensions, the generated "
            f"ones {generated}."
        )


@dataclass(frozen=True)
class Blocks:
    """Rows as float64 blocks on a device, made there of the rows themselves where these fit.

    Attributes:
        array: (n, d), possibly memory-mapped.
        block: rows at once.
        device: where blocks go; the CPU where there is none, or none that knows float64.
        shift: (d,) subtracted from every row, or None.
    """

    array: np.ndarray
    block: int = BLOCK
    device: str | torch.device | None = None
    shift: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.array)

    @cached_property
    def place(self) -> torch.device:
        """The device that is used."""
        wanted = chosen_device(self.device or "cpu")
        return torch.device("cpu") if wanted.type == "mps" else wanted

    def parts(self, start: int = 0) -> Iterator[slice]:
        """The blocks from row `start` on, which must begin one."""
        for first in range(start, len(self), self.block):
            yield slice(first, min(first + self.block, len(self)))

    def __getitem__(self, part: slice | np.ndarray) -> Tensor:
        """These rows, in float64, on the device."""
        if self.resident is not None:
            index = part if isinstance(part, slice) else torch.from_numpy(np.asarray(part)).to(self.place)
            wide = self.resident[index].double()
            return wide if self._shift is None else wide.sub_(self._shift)
        rows = np.array(self.array[part], dtype=np.float64)
        if self.shift is not None:
            rows -= self.shift
        return torch.from_numpy(rows).to(self.place)

    @cached_property
    def resident(self) -> Tensor | None:
        """All rows on the device, as precise as they are; None on a CPU, and where they would take half of what is free."""
        if self.place.type == "cpu" or self.array.nbytes > free_bytes(self.place) // 2:
            return None
        first = torch.from_numpy(np.array(self.array[:1]))
        held = torch.empty(self.array.shape, dtype=first.dtype, device=self.place)
        for part in self.parts():
            held[part] = torch.from_numpy(np.array(self.array[part])).to(self.place)
        return held

    @cached_property
    def _shift(self) -> Tensor | None:
        return None if self.shift is None else torch.from_numpy(np.asarray(self.shift, np.float64)).to(self.place)

    def taken(self, index: np.ndarray) -> Iterator[Tensor]:
        """The rows of an index (k,), in its order, a block at a time."""
        for start in range(0, len(index), self.block):
            yield self[index[start : start + self.block]]

    def filled(self, value: float, *dims: int) -> Tensor:
        """float64 (n, *dims) of one value, on the device."""
        return torch.full((len(self), *dims), value, dtype=torch.float64, device=self.place)


def free_bytes(device: torch.device) -> int:
    """Memory of a device that nobody uses: what torch holds and does not use, too."""
    if device.type != "cuda":
        return 0
    free, _ = torch.cuda.mem_get_info(device)
    return int(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))


def tiles(x: Blocks, y: Blocks, function: Callable[[Tensor, Tensor], T]) -> Iterator[tuple[slice, slice, T]]:
    """(i, j, function(x[i], y[j])) for all pairs of blocks."""
    for i in x.parts():
        a = x[i]
        for j in y.parts():
            yield i, j, function(a, y[j])


def half_tiles(x: Blocks, function: Callable[[Tensor, Tensor], T]) -> Iterator[tuple[slice, slice, T]]:
    """(i, j, function(x[i], x[j])) for i <= j: all that a symmetric function has to say."""
    for i in x.parts():
        a = x[i]
        for j in x.parts(i.start):
            yield i, j, function(a, a if i == j else x[j])
