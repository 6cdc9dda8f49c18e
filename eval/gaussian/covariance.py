"""A Gaussian of features in float64: mean, covariance, and a factor of it, made once, whatever the rank.

A covariance that is not safely positive definite gets a pivoted Cholesky factor: nothing is ever added to a diagonal.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

EPS = torch.finfo(torch.float64).eps
ROUNDING = 5e-7  # of an entry that was float32 once, in parts of the largest


def pivoted_cholesky(cov: Tensor, block: int = 128) -> Tensor:
    """L (d, r) with L L^T = cov (d, d), positive semidefinite of numerical rank r, up to d eps max(diag).

    Every step takes the column of the largest remaining diagonal. Inside a block of columns only the chosen rows are
    brought up to date; the rest of the matrix follows after each block, without the columns that are done.
    """
    d = len(cov)
    diagonal = cov.diagonal().clone()
    enough = d * EPS * diagonal.max().item()
    remaining, left, r = cov, torch.arange(d), 0
    factor = cov.new_zeros(d, d)  # its rows are the columns of L
    while len(left):
        panel = cov.new_zeros(min(block, len(left)), len(left))
        alive = cov.new_ones(len(left))
        for n, row in enumerate(panel):
            pivot = int(diagonal.argmax())
            top = diagonal[pivot].item()
            if top <= enough:
                factor[r : r + n, left] = panel[:n]
                return factor[: r + n].T
            torch.addmv(remaining[pivot], panel[:n].T, panel[:n, pivot], alpha=-1, out=row)
            row.mul_(alive).div_(top**0.5)
            row[pivot] = top**0.5
            alive[pivot] = 0
            diagonal.addcmul_(row, row, value=-1)
            diagonal[pivot] = -1
        factor[r : r + len(panel), left] = panel
        r += len(panel)
        keep = alive.nonzero()[:, 0]
        left, panel = left[keep], panel.index_select(1, keep)
        remaining = remaining.index_select(0, keep).index_select(1, keep).addmm_(panel.T, panel, alpha=-1)
        diagonal = remaining.diagonal().clone()
    return factor[:r].T


def factor_of(cov: Tensor) -> Tensor:
    """L (d, r) with L L^T = cov: lower triangular (d, d) where cov is safely positive definite, else pivoted, on the CPU.

    ValueError where it is not semidefinite: a factor would be one of another matrix.
    """
    L, failed = torch.linalg.cholesky_ex(cov)
    safe = 10 * len(cov) * EPS * cov.diagonal().max()
    if not failed and L.diagonal().min() ** 2 > safe:
        return L
    require_semidefinite(cov)
    return pivoted_cholesky(cov.cpu()).to(cov.device)


def require_semidefinite(cov: Tensor) -> None:
    """ValueError where a matrix is no covariance, whatever its rounding.

    C + s I has a Cholesky factor, s = 5e-7 d^(1/2) max C_ii: what float32 entries can be off by.
    """
    C = cov.clone()
    C.diagonal().add_(ROUNDING * len(C) ** 0.5 * C.diagonal().max())
    if C.any() and torch.linalg.cholesky_ex(C)[1]:
        raise ValueError("the covariance is not semidefinite, which every covariance is: it was changed or damaged.")


def centred(rows: Tensor) -> Tensor:
    """(n, d) -> (n - 1, d) with the same scatter about the mean, and no direction that centring has made empty.

    The first n - 1 rows of H X, H the Householder reflection that takes the vector of ones to the last axis.
    """
    return centred_(rows.clone())


def centred_(rows: Tensor) -> Tensor:
    """The same, in the memory of the rows."""
    n = len(rows)
    v = torch.full((n, 1), n**-0.5, dtype=rows.dtype, device=rows.device)
    v[-1] += 1.0
    return rows.addmm_(v, v.T @ rows, alpha=-1 / (1 + n**-0.5))[:-1]


def _real(array: Any, device: Any) -> Tensor:
    """In float64. ValueError for what are no real numbers."""
    x = array if isinstance(array, Tensor) else np.asarray(array)
    if x.is_complex() or x.dtype == torch.bool if isinstance(x, Tensor) else x.dtype.kind not in "fiu":
        raise ValueError(f"means, covariances and factors are real numbers; got {x.dtype}: is it the right array?")
    return torch.as_tensor(x, dtype=torch.float64, device=device)


def _factor_checked(L: Tensor, cov: Tensor) -> Tensor:
    """L (d, r). ValueError where L L^T is not cov: |(L L^T - cov) v| > 1e-9 tr cov |v| for some of four vectors v."""
    v = torch.randn(len(cov), 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).to(cov.device)
    fits = L.ndim == 2 and len(L) == len(cov) and bool(L.isfinite().all())
    if not fits or not ((L @ (L.T @ v) - cov @ v).norm(dim=0) <= 1e-9 * cov.trace() * v.norm(dim=0)).all():
        raise ValueError(
            "the factor is not one of the covariance, which was scaled or changed without it: leave the factor away, or "
            "write the file again."
        )
    return L


@dataclass(frozen=True, eq=False)
class Gaussian:
    """Mean and covariance of features, float64 on one device, and a factor of the covariance, made once.

    Attributes:
        mean: (d,).
        given_cov: (d, d), or None where the factor is given.
        given_factor: (d, r) with L L^T = cov, or None.
    """

    mean: Tensor
    given_cov: Tensor | None = None
    given_factor: Tensor | None = None

    @classmethod
    def of(cls, mean: Any, cov: Any, factor: Any = None, device: Any = None) -> Gaussian:
        """From arrays or tensors of any float type. ValueError: shapes that do not fit, not finite, not a covariance."""
        m, C = (_real(array, device) for array in (mean, cov))
        if m.ndim != 1 or C.shape != (len(m), len(m)) or not len(m):
            raise ValueError(
                f"a mean of shape (d,) and a covariance (d, d) are needed; got {tuple(m.shape)} and {tuple(C.shape)}."
            )
        if not (m.sum().isfinite() and C.sum().isfinite()):
            raise ValueError("mean or covariance has NaN or infinite entries; look for broken images or features.")
        symmetric = (C + C.T).mul_(0.5)
        scale = C.diagonal().abs().max()
        if (symmetric - C).abs_().max() > ROUNDING * scale or C.diagonal().min() < 0:
            raise ValueError("the covariance is not symmetric with a diagonal >= 0: is it the right array?")
        if factor is None:
            return cls(m, symmetric)
        return cls(m, symmetric, _factor_checked(_real(factor, device), symmetric))

    def check(self) -> None:
        """ValueError where the covariance is not semidefinite, whatever its rounding; looked at once."""
        if self.given_cov is not None:
            _ = self._semidefinite

    @cached_property
    def _semidefinite(self) -> bool:
        require_semidefinite(self.cov)
        return True

    @classmethod
    def of_rows(cls, rows: Tensor) -> Gaussian:
        """From feature vectors (n, d), n >= 2; their centred selves are the factor."""
        x = rows.to(torch.float64, copy=True)
        return cls(x.mean(0), None, centred_(x).div_((len(x) - 1) ** 0.5).T)

    def to(self, device: Any) -> Gaussian:
        """On another device; made once, with what is found there."""
        place = torch.device(device)
        if self.mean.device == place:
            return self
        if place not in self._elsewhere:
            parts = [None if part is None else part.to(place) for part in (self.given_cov, self.given_factor)]
            self._elsewhere[place] = Gaussian(self.mean.to(place), *parts)
        return self._elsewhere[place]

    @cached_property
    def _elsewhere(self) -> dict[torch.device, Gaussian]:
        return {}

    @cached_property
    def cov(self) -> Tensor:
        """(d, d), divisor n - 1."""
        if self.given_cov is not None:
            return self.given_cov
        C = self.factor @ self.factor.T
        return (C + C.T) / 2

    @cached_property
    def factor(self) -> Tensor:
        """(d, r) with L L^T = cov."""
        return factor_of(self.cov) if self.given_factor is None else self.given_factor

    @cached_property
    def defect(self) -> Tensor:
        """At least |cov - L L^T|_1, the sum of the singular values of what the factor has lost; 0 where it was given alone."""
        if self.given_cov is None:
            return self.trace * 0
        lost = (self.cov - self.factor @ self.factor.T).norm()
        return self.dim**0.5 * lost + 2 * self.dim * EPS * self.trace

    @property
    def dim(self) -> int:
        return len(self.mean)

    @property
    def thin(self) -> bool:
        """Whether there is a factor already that shows the rank to be below the dimension."""
        made = self.__dict__.get("factor", self.given_factor)
        return made is not None and made.shape[1] < self.dim

    @cached_property
    def trace(self) -> Tensor:
        """tr cov."""
        return self.given_cov.trace() if self.given_cov is not None else self.factor.square().sum()
