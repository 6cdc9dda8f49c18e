"""Streaming mean and covariance of features, in float64: the same numbers whatever the batches, their order or the processes.

Moments are updated chunk by chunk (moments.py). Beside them a uniform sample of the rows is kept (sketch.py), for error bars.
While there are no more rows than dimensions the sample has them all, and there is no matrix: that is smaller and loses nothing.
"""

from __future__ import annotations

import copy
from os import PathLike
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewstep.checks import whole
from fewstep.eval.gaussian.covariance import Gaussian
from fewstep.eval.gaussian.moments import Moments, symmetric_
from fewstep.eval.gaussian.sketch import Sketch
from fewstep.lazy import door

KEPT = 2048  # rows that are kept, or as many as there are dimensions if that is more


class FeatureStatistics:
    """Streaming n, mean and covariance of features, float64, and a uniform sample of them for error bars.

        s = FeatureStatistics(2048)
        for batch in features:  # (B, 2048)
            s.update(batch)
        s.mean, s.cov, s.n

    Which rows are kept follows from the indices of the samples, not from batches or processes. Memory: d^2 doubles and
    `kept` rows, whatever n; less than that while n is at most d.

    Args:
        dim: d.
        kept: rows of the sample; None: 2048, or d if that is more.
    """

    def __init__(self, dim: int, kept: int | None = None) -> None:
        self.dim, self.n = whole("dim", dim), 0
        self.sketch = Sketch(dim, max(KEPT, dim) if kept is None else whole("kept", kept))
        self.moments = Moments(dim)  # of all rows; empty while these are few, and where `known` has taken its matrix
        self.known: Gaussian | None = None  # as it came from a file, perhaps without a count, or as it was asked for
        self.place = torch.device("cpu")

    def few(self, more: int = 0) -> bool:
        """Whether with so many more rows all of them are kept, and are no more than dimensions."""
        return self.sketch.seen == self.n and self.n + more <= min(self.dim, self.sketch.size)

    def update(self, features: Any, index: Any = None) -> FeatureStatistics:
        """Add features (B, d) of the samples `index` (B,), by default the next ones; returns itself.

        Raises:
            ValueError: another shape, or entries that are not finite (the samples are named).
        """
        self._counted()
        rows = torch.as_tensor(features).detach()
        if rows.ndim != 2 or rows.shape[1] != self.dim:
            raise ValueError(f"features of shape (B, {self.dim}) are expected; got {tuple(rows.shape)}.")
        numbers = np.arange(self.n, self.n + len(rows)) if index is None else np.asarray(index, np.int64)
        if numbers.shape != (len(rows),):
            raise ValueError(f"an index of {len(rows)} samples is expected; got {numbers.shape}.")
        finite = rows.isfinite().all(1)
        if not finite.all():
            bad = numbers[~finite.cpu().numpy()][:5].tolist()
            raise ValueError(
                f"features of sample {', '.join(map(str, bad))} are NaN or infinite: look at these images."
            )
        if rows.device.type == "mps":  # has no float64
            rows = rows.cpu()
        self.place = rows.device
        if not self.few(len(rows)):
            self._streaming().add(rows)
        self.sketch.add(rows, numbers)
        self.n += len(rows)
        self.known = None
        return self

    def merge(self, other: FeatureStatistics) -> FeatureStatistics:
        """Add what `other` has seen; returns itself. ValueError: other dimensions, or another number of kept rows."""
        if other.dim != self.dim:
            raise ValueError(f"statistics of {self.dim} and {other.dim} dimensions cannot be merged.")
        if other.sketch.size != self.sketch.size:
            raise ValueError(
                f"{self.sketch.size} and {other.sketch.size} kept rows cannot be merged: keep as many in both."
            )
        self._counted()
        other._counted()
        if self.place.type == "cpu":
            self.place = other.place
        if not (other.few() and self.few(other.n)):
            self._streaming().merge(other.all_moments())
        self.sketch.merge(other.sketch)
        self.n += other.n
        self.known = None
        return self

    def _streaming(self) -> Moments:
        """The moments of all rows, to be added to."""
        self.moments = self.all_moments()
        return self.moments

    def all_moments(self) -> Moments:
        """The moments of all rows, to be read."""
        if self.few():
            made = Moments(self.dim)
            made.add(torch.from_numpy(self.sketch.rows).to(self.place))
            return made
        if self.known is not None:
            return Moments.of(self.n, self.known.mean, self.known.cov * (self.n - 1))
        return self.moments

    @classmethod
    def of(cls, gaussian: Gaussian, n: int | None) -> FeatureStatistics:
        """From the Gaussian of n rows; n None, where a file does not say: it can be compared but not added to."""
        made = cls(gaussian.dim)
        made.known, made.n = gaussian, n or 0
        return made

    def _counted(self) -> None:
        if self.known is not None and self.n == 0:
            raise ValueError(
                "these statistics do not say of how many samples they are: nothing can be merged with them."
            )

    @property
    def mean(self) -> Tensor:
        """(d,)."""
        if self.known is not None:
            return self.known.mean
        self._enough(1)
        return torch.from_numpy(self.sketch.ordered()).double().mean(0) if self.few() else self.moments.done()[0]

    @property
    def cov(self) -> Tensor:
        """(d, d), divisor n - 1."""
        return self.gaussian().cov

    def gaussian(self) -> Gaussian:
        """Mean and covariance, with the rows as factor while there are no more of them than dimensions."""
        if self.known is None:
            self._enough(2)
            if self.few():
                self.known = Gaussian.of_rows(torch.from_numpy(self.sketch.ordered()).to(self.place))
            else:
                mean, scatter = self.moments.done()
                self.moments = Moments(self.dim)  # its matrix becomes the covariance
                self.known = Gaussian(mean, symmetric_(scatter).div_(self.n - 1))
        return self.known

    def on(self, device: torch.device) -> FeatureStatistics:
        """The same for work on another device, to which its Gaussian is moved once; itself where that is there."""
        there = torch.device("cpu") if device.type == "mps" else device  # has no float64
        if self.gaussian().mean.device == there:
            return self
        other = copy.copy(self)
        other.known, other.place = self.gaussian().to(there), there
        return other

    def _enough(self, n: int) -> None:
        if self.n < n:
            raise ValueError(f"a {'covariance' if n > 1 else 'mean'} needs at least {n} samples; got {self.n}.")

    def arrays(self) -> dict[str, np.ndarray]:
        """All it knows, as arrays for a file."""
        streamed = {} if self.few() else {f"moments.{k}": v for k, v in self.all_moments().arrays().items()}
        return {"n": np.array(self.n), **{f"sketch.{k}": v for k, v in self.sketch.arrays().items()}, **streamed}

    @classmethod
    def of_arrays(cls, arrays: dict[str, np.ndarray], kept: int | None = None) -> FeatureStatistics:
        """The inverse of `arrays`."""
        made = cls(arrays["sketch.rows"].shape[1], kept)
        parts = {
            name: {key.removeprefix(name): array for key, array in arrays.items() if key.startswith(name)}
            for name in ("sketch.", "moments.")
        }
        made.n, made.sketch = int(arrays["n"]), Sketch.of_arrays(made.sketch.size, parts["sketch."])
        if parts["moments."]:
            made.moments = Moments.of_arrays(parts["moments."])
        return made

    def save(self, path: str | PathLike[str]) -> None:
        """Write `mu`, `sigma` and `n` as .npz, as pytorch-fid and its kin read them."""
        door("fewstep.eval.gaussian.statfile:save_statistics")(path, self)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> FeatureStatistics:
        """Statistics of the main layer from a file of any layout that `fewstep stats` reads."""
        found: FeatureStatistics = door("fewstep.eval.gaussian.statfile:load")(path).statistics["main"]
        return found
