"""Streaming mean and covariance of features, in float64: the same numbers whatever the batches, their order or the processes.

Chunks of rows are merged by their moments (n, mean m, scatter S = sum of (x - m)(x - m)^T):

    delta = m_b - m_a,   n = n_a + n_b,   m = m_a + delta n_b / n,   S = S_a + S_b + delta delta^T n_a n_b / n

While there are fewer rows than dimensions the rows themselves are kept: that is smaller and loses nothing.

Reference: Updating Formulae and a Pairwise Algorithm for Computing Sample Variances, Chan, Golub and LeVeque, 1979.
"""

from __future__ import annotations

from collections.abc import Iterable
from os import PathLike
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .frechet import Gaussian

CHUNK = 512  # rows that wait for one rank-k update


class Moments:
    """n, mean and scatter of rows (B, d); rows wait until there are enough of them."""

    def __init__(self, dim: int) -> None:
        self.dim = dim
        self.merged = 0  # rows in mean and scatter
        self.mean_: Tensor | None = None
        self.scatter_: Tensor | None = None
        self.waiting: list[Tensor] = []
        self.n_waiting = 0

    @property
    def n(self) -> int:
        return self.merged + self.n_waiting

    @property
    def raw(self) -> bool:
        """Whether every row is still there."""
        return self.merged == 0

    @property
    def keeps(self) -> int:
        """Rows up to which all of them are kept."""
        return max(CHUNK, self.dim)

    def rows(self) -> Tensor:
        """The rows that wait, (n_waiting, d) float64."""
        return torch.cat([w.double() for w in self.waiting]) if self.waiting else torch.zeros(0, self.dim).double()

    def add(self, rows: Tensor) -> None:
        """Take rows (B, d)."""
        if len(rows):
            self.waiting.append(rows)
            self.n_waiting += len(rows)
            if self.n_waiting >= (self.keeps if self.raw else CHUNK):
                self.flush()

    def flush(self) -> None:
        """Put what waits into mean and scatter."""
        if self.waiting:
            x = self.rows()
            self.waiting, self.n_waiting = [], 0
            mean = x.mean(0)
            x -= mean
            self.absorb(len(x), mean, x.T @ x)

    def absorb(self, n: int, mean: Tensor, scatter: Tensor) -> None:
        """Merge the moments of n other rows (`scatter` is taken over)."""
        if self.mean_ is None or self.scatter_ is None:
            self.merged, self.mean_, self.scatter_ = n, mean, scatter
            return
        total = self.merged + n
        delta = mean - self.mean_
        self.scatter_ += scatter
        self.scatter_.addr_(delta, delta, alpha=self.merged * n / total)
        self.mean_ = self.mean_ + delta * (n / total)
        self.merged = total

    def merge(self, other: Moments) -> None:
        """Add what `other` has seen; it is left as it was."""
        if other.mean_ is not None and other.scatter_ is not None:
            self.flush()
            self.absorb(other.merged, other.mean_, other.scatter_.clone())
        for rows in other.waiting:
            self.add(rows)

    def moments(self) -> tuple[Tensor, Tensor]:
        """mean (d,) and scatter (d, d)."""
        if self.raw:
            x = self.rows()
            mean = x.mean(0)
            return mean, (x - mean).T @ (x - mean)
        self.flush()
        assert self.mean_ is not None and self.scatter_ is not None
        return self.mean_, self.scatter_

    def arrays(self) -> dict[str, np.ndarray]:
        """All it knows, as arrays for a file."""
        found = {"merged": np.array(self.merged), "waiting": self.rows().float().cpu().numpy()}
        if self.mean_ is not None and self.scatter_ is not None:
            found |= {"mean": self.mean_.cpu().numpy(), "scatter": self.scatter_.cpu().numpy()}
        return found

    @classmethod
    def of_arrays(cls, dim: int, arrays: dict[str, np.ndarray]) -> Moments:
        """The inverse of `arrays`."""
        made = cls(dim)
        if int(arrays["merged"]):
            made.absorb(int(arrays["merged"]), torch.tensor(arrays["mean"]), torch.tensor(arrays["scatter"]))
        made.add(torch.tensor(arrays["waiting"]))
        return made


def group_of(index: Any, groups: int) -> np.ndarray:
    """The group of every sample of `index` (n,): every `groups` neighbours have one each, turned by a hash of their place.

    The turn matters: i mod groups would follow whatever is periodic in the samples, classes drawn in turn above all, and
    groups of one class each differ by their classes, not by chance.
    """
    index = np.asarray(index, np.int64)
    turn = (index // groups * 2654435761 & 0xFFFFFFFF) >> 16
    return (index + turn) % groups


class FeatureStatistics:
    """Streaming n, mean and covariance of features, float64, optionally in groups for error bars.

        s = FeatureStatistics(2048)
        for batch in features:  # (B, 2048)
            s.update(batch)
        s.mean, s.cov, s.n

    The group of a sample is a function of its index (`group_of`), not of batches or processes. Memory: groups * d^2 doubles.

    Args:
        dim: d.
        groups: kept apart, for jackknives; 1 keeps one.
    """

    def __init__(self, dim: int, groups: int = 1) -> None:
        if dim < 1 or groups < 1:
            raise ValueError(f"statistics need at least one dimension and one group; got dim={dim}, groups={groups}.")
        self.dim = dim
        self.groups = [Moments(dim) for _ in range(groups)]
        self.fixed: Gaussian | None = None  # as it came from a file, perhaps with its factor, perhaps without a count

    @property
    def n(self) -> int:
        """Rows seen."""
        return sum(group.n for group in self.groups)

    def update(self, features: Any, index: Any = None) -> FeatureStatistics:
        """Add features (B, d) of the samples `index` (B,), by default the next ones; returns itself.

        Raises:
            ValueError: another shape, or entries that are not finite (the samples are named).
        """
        self._growing()
        rows = torch.as_tensor(features).detach()
        if rows.ndim != 2 or rows.shape[1] != self.dim:
            raise ValueError(f"features of shape (B, {self.dim}) are expected; got {tuple(rows.shape)}.")
        numbers = np.arange(self.n, self.n + len(rows)) if index is None else np.asarray(index)
        finite = rows.isfinite().all(1)
        if not finite.all():
            bad = numbers[~finite.cpu().numpy()][:5].tolist()
            raise ValueError(
                f"features of sample {', '.join(map(str, bad))} are NaN or infinite: look at these images."
            )
        if rows.device.type == "mps":  # has no float64
            rows = rows.cpu()
        if len(self.groups) == 1:
            self.groups[0].add(rows)
            return self
        of_each = group_of(numbers, len(self.groups))
        for g, group in enumerate(self.groups):
            mine = np.flatnonzero(of_each == g)
            if len(mine):
                group.add(rows[torch.as_tensor(mine, device=rows.device)])
        return self

    def merge(self, other: FeatureStatistics) -> FeatureStatistics:
        """Add what `other` has seen, group by group; returns itself. ValueError: other dimensions or groups."""
        if other.dim != self.dim:
            raise ValueError(f"statistics of {self.dim} and {other.dim} dimensions cannot be merged.")
        if len(other.groups) != len(self.groups):
            raise ValueError(f"statistics in {len(self.groups)} and {len(other.groups)} groups cannot be merged.")
        self._growing()
        other._counted()
        for mine, theirs in zip(self.groups, other.groups, strict=True):
            mine.merge(theirs)
        return self

    def total(self) -> Moments:
        """All groups as one."""
        if len(self.groups) == 1:
            return self.groups[0]
        together = Moments(self.dim)
        for group in self.groups:
            together.merge(group)
        return together

    @property
    def parts(self) -> list[FeatureStatistics]:
        """Each group by itself."""
        return [FeatureStatistics.of_moments([group]) for group in self.groups]

    @classmethod
    def of_moments(cls, groups: Iterable[Moments]) -> FeatureStatistics:
        """From groups that exist."""
        moments = list(groups)
        made = cls(moments[0].dim)
        made.groups = moments
        return made

    @classmethod
    def of(cls, gaussian: Gaussian, n: int | None) -> FeatureStatistics:
        """From the Gaussian of n rows; n None, where a file does not say: it can be compared but not added to."""
        made = cls(gaussian.dim)
        if n is not None:
            made.groups[0].absorb(n, gaussian.mean, gaussian.cov * (n - 1))
        made.fixed = gaussian
        return made

    def _counted(self) -> None:
        if self.fixed is not None and self.n == 0:
            raise ValueError(
                "these statistics do not say of how many samples they are: nothing can be merged with them."
            )

    def _growing(self) -> None:
        self._counted()
        self.fixed = None

    @property
    def mean(self) -> Tensor:
        """(d,)."""
        return self._enough(1).moments()[0] if self.fixed is None else self.fixed.mean

    @property
    def cov(self) -> Tensor:
        """(d, d), divisor n - 1."""
        return self.gaussian().cov

    def gaussian(self) -> Gaussian:
        """Mean and covariance, with the rows as factor while there are no more of them than dimensions."""
        if self.fixed is not None:
            return self.fixed
        total = self._enough(2)
        if total.raw and total.n <= total.dim:
            return Gaussian.of_rows(total.rows())
        mean, scatter = total.moments()
        return Gaussian(mean, (scatter + scatter.T) / (2 * (total.n - 1)))

    def _enough(self, n: int) -> Moments:
        total = self.total()
        if total.n < n:
            raise ValueError(f"a {'covariance' if n > 1 else 'mean'} needs at least {n} samples; got {total.n}.")
        return total

    def save(self, path: str | PathLike[str]) -> None:
        """Write `mu`, `sigma` and `n` as .npz, as pytorch-fid and its kin read them."""
        from .features import Features
        from .statfile import save

        save(path, Features(self.n, {"main": self}))

    @classmethod
    def load(cls, path: str | PathLike[str]) -> FeatureStatistics:
        """Statistics of the main layer from a file of any layout that `fewstep stats` reads."""
        from .statfile import load

        return load(path).statistics["main"]
