"""The states of samples along the probability flow, known at a teacher's nodes and so anywhere.

y = x / (alpha + sigma) moves over r = sigma / (alpha + sigma) with velocity dy/dr = eps - x0, on every schedule and up to both
its ends: states and velocities at the nodes give the path between them by cubic Hermite interpolation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from ..schedule import Array, NoiseSchedule

Tensor = torch.Tensor


@dataclass(frozen=True, eq=False)
class Trajectory:
    """The states of one part along the flow.

    times: (M + 1,) decreasing. x: (M + 1, B, *shape), states; v: (M, B, *shape), eps - x0 at all but the last. Both are
    read by slices of nodes: tensors, or slices of a file.
    """

    schedule: NoiseSchedule
    times: Array
    x: Any
    v: Any

    @property
    def end(self) -> Tensor:
        """x0, (B, *shape)."""
        return self.state(len(self.times) - 1)

    def state(self, i: int) -> Tensor:
        """The state at node i."""
        found: Tensor = self.x[i : i + 1][0]
        return found

    def velocity(self, i: int) -> Tensor:
        """eps - x0 at node i, which is not the last."""
        found: Tensor = self.v[i : i + 1][0]
        return found

    def x0(self, i: int) -> Tensor:
        """x0 that the network predicted at node i: (x - sigma v) / (alpha + sigma)."""
        return (self.state(i) - float(self._nodes.sigma[i]) * self.velocity(i)) / float(self._size[i])

    @cached_property
    def _nodes(self) -> Any:
        return self.schedule.nodes(self.times)

    @cached_property
    def _size(self) -> Array:
        return np.asarray(self._nodes.alpha + self._nodes.sigma)

    def at(self, t: float) -> Tensor:
        """The state at any time, by Hermite interpolation in r; a node's own state at a node."""
        last = len(self.times) - 1
        i = int(np.clip(np.searchsorted(-self.times, -t, side="right") - 1, 0, last - 1))
        for j in (i, i + 1):
            if t == self.times[j]:
                return self.state(j)
        alpha, sigma = float(self.schedule.alpha(t)), float(self.schedule.sigma(t))
        r = self._nodes.sigma / self._size
        h = float(r[i + 1] - r[i])
        u = (sigma / (alpha + sigma) - float(r[i])) / h
        y0, y1 = (self.state(j) / float(self._size[j]) for j in (i, i + 1))
        if i + 1 < last:
            weights = (1 + 2 * u) * (1 - u) ** 2, u**2 * (3 - 2 * u), h * u * (1 - u) ** 2, h * u**2 * (u - 1)
            y = weights[0] * y0 + weights[1] * y1 + weights[2] * self.velocity(i) + weights[3] * self.velocity(i + 1)
        else:  # no network call at the end: a parabola
            y = (1 - u**2) * y0 + u**2 * y1 + h * u * (1 - u) * self.velocity(i)
        return y * (alpha + sigma)


@dataclass(frozen=True, eq=False)
class Rows:
    """Some samples of several arrays (nodes, B, *shape), read by slices of nodes as each of them is."""

    arrays: Sequence[Any]
    rows: Sequence[list[int]]
    order: list[int]

    def __getitem__(self, nodes: slice) -> Tensor:
        pieces = [array[nodes][:, rows] for array, rows in zip(self.arrays, self.rows, strict=True)]
        return torch.cat(pieces, 1)[:, self.order]
