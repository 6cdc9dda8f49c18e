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
from torch import Tensor

from fewstep.samplers.schedule.base import Array, NoiseSchedule


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
        return np.asarray(self._nodes.S)

    def at(self, t: float) -> Tensor:
        """The state at any time, by Hermite interpolation in r; a node's own state at a node."""
        i = self._interval(t)
        for j in (i, i + 1):
            if t == self.times[j]:
                return self.state(j)
        size = float(self.schedule.nodes(t).S)
        return self._hermite(i, *self._within(i, t)) * size

    def flow(self, t: float) -> Tensor:
        """dy/dr of that interpolation: the velocity eps - x0 at any time."""
        i = self._interval(t)
        u, h = self._within(i, t)
        return self._hermite(i, u, h, slope=True) / h

    def _interval(self, t: float) -> int:
        """The node before a time."""
        last = len(self.times) - 1
        return int(np.clip(np.searchsorted(-self.times, -t, side="right") - 1, 0, last - 1))

    def _within(self, i: int, t: float) -> tuple[float, float]:
        """(u, h): how far a time is between node i and the next, from 0 to 1, and how long that is in r."""
        r = self._nodes.r
        h = float(r[i + 1] - r[i])
        return (float(self.schedule.nodes(t).r) - float(r[i])) / h, h

    def _hermite(self, i: int, u: float, h: float, slope: bool = False) -> Tensor:
        """y at u, or dy/du."""
        y0, y1 = (self.state(j) / float(self._size[j]) for j in (i, i + 1))
        v0 = h * self.velocity(i)
        if i + 2 == len(self.times):  # no network call at the end: a parabola
            a, b, c = (-2 * u, 2 * u, 1 - 2 * u) if slope else (1 - u**2, u**2, u * (1 - u))
            return a * y0 + b * y1 + c * v0
        v1 = h * self.velocity(i + 1)
        if slope:
            return 6 * u * (1 - u) * (y1 - y0) + (1 - u) * (1 - 3 * u) * v0 + u * (3 * u - 2) * v1
        return (1 + 2 * u) * (1 - u) ** 2 * y0 + u**2 * (3 - 2 * u) * y1 + u * (1 - u) ** 2 * v0 + u**2 * (u - 1) * v1


@dataclass(frozen=True, eq=False)
class Rows:
    """Some samples of several arrays (nodes, B, *shape), read by slices of nodes as each of them is."""

    arrays: Sequence[Any]
    rows: Sequence[list[int]]
    order: list[int]

    def __getitem__(self, nodes: slice) -> Tensor:
        pieces = [array[nodes][:, rows] for array, rows in zip(self.arrays, self.rows, strict=True)]
        return torch.cat(pieces, 1)[:, self.order]
