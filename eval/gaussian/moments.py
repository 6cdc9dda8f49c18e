"""Count, mean and scatter of rows, streaming, in float64: the same numbers whatever the chunks or their order.

Chunks of rows are merged by their moments (n, mean m, scatter S = sum of (x - m)(x - m)^T):

    delta = m_b - m_a,   n = n_a + n_b,   m = m_a + delta n_b / n,   S = S_a + S_b + delta delta^T n_a n_b / n

all in one d x d matrix, however many rows there are. It lies where the rows are: what came from a file moves to them.

Reference: Updating Formulae and a Pairwise Algorithm for Computing Sample Variances, Chan, Golub and LeVeque, 1979.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

CHUNK = 512  # rows that wait for one rank-k update


class Moments:
    """n, mean and scatter of rows (B, d), and one chunk of rows that wait to be added to it."""

    def __init__(self, dim: int) -> None:
        self.dim = dim
        self.merged, self.waiting = 0, 0  # rows in mean and scatter, and rows of the chunk that are filled
        self.mean: Tensor | None = None
        self.scatter: Tensor | None = None
        self.chunk: Tensor | None = None

    @classmethod
    def of(cls, n: int, mean: Tensor, scatter: Tensor) -> Moments:
        """Moments that are known; the matrix is taken over."""
        made = cls(len(mean))
        made.merged, made.mean, made.scatter = n, mean, scatter
        return made

    @property
    def n(self) -> int:
        return self.merged + self.waiting

    def rows(self) -> Tensor:
        """The rows that wait, (waiting, d) float64."""
        return torch.zeros(0, self.dim).double() if self.chunk is None else self.chunk[: self.waiting]

    @property
    def place(self) -> torch.device | None:
        """The device of what it holds; None while that is nothing."""
        held = self.scatter if self.scatter is not None else self.chunk
        return None if held is None else held.device

    def to(self, device: torch.device) -> None:
        """Go on on another device."""
        if self.place not in (None, device):
            moved = (None if part is None else part.to(device) for part in (self.mean, self.scatter, self.chunk))
            self.mean, self.scatter, self.chunk = moved

    def add(self, rows: Tensor) -> None:
        """Take rows (B, d)."""
        if not len(rows):
            return
        self.to(rows.device)
        if self.chunk is None:
            self.chunk = torch.empty(CHUNK, self.dim, dtype=torch.float64, device=rows.device)
        for part in _cut(rows, CHUNK - self.waiting):
            self.chunk[self.waiting : self.waiting + len(part)] = part
            self.waiting += len(part)
            if self.waiting == CHUNK:
                self.flush()

    def flush(self) -> None:
        """Put what waits into mean and scatter."""
        if self.waiting:
            x = self.rows()
            mean, n, self.waiting = x.mean(0), len(x), 0
            x -= mean
            self._shifted(n, mean).addmm_(x.T, x)

    def _shifted(self, n: int, mean: Tensor) -> Tensor:
        """n rows of this mean are counted; returned is the matrix, to which their scatter is still to be added."""
        if self.mean is None or self.scatter is None:
            self.mean = torch.zeros_like(mean)
            self.scatter = torch.zeros(self.dim, self.dim, dtype=torch.float64, device=mean.device)
        total = self.merged + n
        delta = mean - self.mean
        self.scatter.addr_(delta, delta, alpha=self.merged * n / total)
        self.mean = self.mean + delta * (n / total)
        self.merged = total
        return self.scatter

    def merge(self, other: Moments) -> None:
        """Add what `other` has seen; it is left as it was."""
        place = self.place or other.place
        if place is None:
            return
        if place.type == "cpu" and other.place is not None:  # the other one is where the work is done
            place = other.place
        self.to(place)
        if other.mean is not None and other.scatter is not None and other.merged:
            matrix = self._shifted(other.merged, other.mean.to(place))
            matrix += other.scatter.to(place)
        if other.waiting:
            self.add(other.rows().to(place))

    def done(self) -> tuple[Tensor, Tensor]:
        """mean (d,) and scatter (d, d), of all rows; the matrix itself, no copy."""
        self.flush()
        assert self.mean is not None and self.scatter is not None
        return self.mean, self.scatter

    def arrays(self) -> dict[str, np.ndarray]:
        """All it knows, as arrays for a file."""
        found = {"merged": np.array(self.merged), "waiting": self.rows().cpu().numpy()}
        if self.mean is not None and self.scatter is not None:
            found |= {"mean": self.mean.cpu().numpy(), "scatter": self.scatter.cpu().numpy()}
        return found

    @classmethod
    def of_arrays(cls, arrays: dict[str, np.ndarray]) -> Moments:
        """The inverse of `arrays`."""
        made = cls(arrays["waiting"].shape[1])
        if "scatter" in arrays:
            mean, scatter = (torch.from_numpy(arrays[name]) for name in ("mean", "scatter"))
            made = cls.of(int(arrays["merged"]), mean, scatter)
        made.add(torch.from_numpy(arrays["waiting"]))
        return made


def _cut(rows: Tensor, first: int) -> list[Tensor]:
    """The first so many rows, then chunk by chunk."""
    return [part for part in (rows[:first], *rows[first:].split(CHUNK)) if len(part)]


def symmetric_(matrix: Tensor, block: int = 256) -> Tensor:
    """(A + A^T) / 2 in the memory of A (d, d)."""
    for i in range(0, len(matrix), block):
        right, below = matrix[i : i + block, i:], matrix[i:, i : i + block]
        half = (right + below.T).div_(2)
        right.copy_(half)
        below.copy_(half.T)
    return matrix
