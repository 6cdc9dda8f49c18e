"""Frechet distance between Gaussians, in float64, with a bound on its rounding error.

    FD^2 = |mu_1 - mu_2|^2 + tr C_1 + tr C_2 - 2 tr (C_1 C_2)^(1/2)

With any factors C_i = L_i L_i^T the last trace is the nuclear norm of L_1^T L_2, and

    tr (C_1 C_2)^(1/2) = sum of sqrt(eigenvalues of L_1^T C_2 L_1),

a symmetric problem: Cholesky and `eigvalsh`. What its rounding can do to the sum of roots is bounded from the eigenvalues;
where that says too little, or where a covariance is singular, the singular values of L_1^T L_2 are taken, whose error is eps,
not its root.
A singular covariance gets a pivoted Cholesky factor: nothing is ever added to a diagonal.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

EPS = torch.finfo(torch.float64).eps
# Of tr C_1 + tr C_2: where the bound of the eigenvalues is above this (their error is thousands of times less), singular
# values are computed instead.
TOLERANCE = 1e-6


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
    """L (d, r) with L L^T = cov: lower triangular (d, d) where cov is safely positive definite, else pivoted, on the CPU."""
    L, failed = torch.linalg.cholesky_ex(cov)
    safe = 10 * len(cov) * EPS * cov.diagonal().max()
    if not failed and L.diagonal().min() ** 2 > safe:
        return L
    return pivoted_cholesky(cov.cpu()).to(cov.device)


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
        m, C = (torch.as_tensor(a, dtype=torch.float64, device=device) for a in (mean, cov))
        if m.ndim != 1 or C.shape != (len(m), len(m)):
            raise ValueError(
                f"a mean of shape (d,) and a covariance (d, d) are needed; got {tuple(m.shape)} and {tuple(C.shape)}."
            )
        if not (m.sum().isfinite() and C.sum().isfinite()):
            raise ValueError("mean or covariance has NaN or infinite entries; look for broken images or features.")
        symmetric = (C + C.T).mul_(0.5)
        scale = C.diagonal().abs().max()
        if (symmetric - C).abs_().max() > 5e-7 * scale or C.diagonal().min() < 0:
            raise ValueError("the covariance is not symmetric with a diagonal >= 0: is it the right array?")
        L = None if factor is None else torch.as_tensor(factor, dtype=torch.float64, device=device)
        return cls(m, symmetric, L)

    @classmethod
    def of_rows(cls, rows: Tensor) -> Gaussian:
        """From feature vectors (n, d), n >= 2; their centred selves are the factor."""
        x = rows.to(torch.float64, copy=True)
        return cls(x.mean(0), None, centred_(x).div_((len(x) - 1) ** 0.5).T)

    def to(self, device: Any) -> Gaussian:
        """On another device."""
        if self.mean.device == torch.device(device):
            return self
        parts = [None if part is None else part.to(device) for part in (self.given_cov, self.given_factor)]
        return Gaussian(self.mean.to(device), *parts)

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


@dataclass(frozen=True)
class Distance:
    """Squared Frechet distance, a bound on its rounding error, and the part that comes from the means."""

    value: float
    bound: float
    of_means: float


def congruence(L: Tensor, C: Tensor, block: int = 256) -> Tensor:
    """Lower half of L^T C L; where L is lower triangular its zeros are passed over (a third of the work)."""
    d, r = L.shape
    if d != r or L.triu(1).any():
        return L.T @ (C @ L)
    CL, M = torch.empty_like(C), torch.zeros_like(C)
    for j in range(0, d, block):
        CL[:, j : j + block] = C[:, j:] @ L[j:, j : j + block]
    for i in range(0, d, block):
        M[i : i + block, : i + block] = L[i:, i : i + block].T @ CL[i:, : i + block]
    return M


def roots_of_eigenvalues(M: Tensor, error: Tensor) -> tuple[Tensor, Tensor] | None:
    """Sum of sqrt(eigenvalues) of a matrix (lower half) known to `error` in the Frobenius norm, and a bound on what is wrong.

    The squared errors of all eigenvalues add up to error^2 at most (Hoffman and Wielandt), so those of the roots to

        sum |sqrt(lam) - sqrt(exact)| <= error (sum of 1 / lam)^(1/2)

    as long as every lam is larger than its error; None where it is not.
    """
    if M.diagonal().min() <= error:  # no eigenvalue is larger than the smallest entry of the diagonal: no need to look
        return None
    lam = torch.linalg.eigvalsh(M)
    return (lam.sqrt().sum(), error * lam.reciprocal().sum().sqrt()) if lam[0] > 2 * error else None


def root_trace(a: Gaussian, b: Gaussian) -> tuple[Tensor, Tensor]:
    """tr (C_a C_b)^(1/2) and a bound on its error; the side whose factor is known to be thin, else `a`, is factored first."""
    inner, outer = (b, a) if b.thin and not a.thin else (a, b)
    if inner.factor.shape[1] == inner.dim and not outer.thin:
        # What |L|^2 |C| rounds to; ten times eps |M| was seen, which is smaller.
        error = 16 * EPS * inner.trace * outer.cov.norm()
        found = roots_of_eigenvalues(congruence(inner.factor, outer.cov), error)
        if found is not None and found[1] <= TOLERANCE * (a.trace + b.trace):
            return found
    sigma = torch.linalg.svdvals(a.factor.T @ b.factor)
    return sigma.sum(), a.dim**0.5 * EPS * (sigma.sum() + len(sigma) * sigma.max())


def frechet(a: Gaussian, b: Gaussian) -> Distance:
    """Squared Frechet distance of two Gaussians, never below 0.

    FD^2 = |mu_a - mu_b|^2 + tr C_a + tr C_b - 2 tr (C_a C_b)^(1/2). Keep `a` for several distances: it is factored once.

    Raises:
        ValueError: different dimensions.

    Reference: GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium, Heusel et al., 2017,
        arXiv 1706.08500; The Frechet distance between multivariate normal distributions, Dowson and Landau, 1982.
    """
    if a.dim != b.dim:
        raise ValueError(f"features of {a.dim} and {b.dim} dimensions cannot be compared: use one extractor and layer.")
    of_means = (a.mean - b.mean).square().sum()
    cross, bound = root_trace(a, b)
    value = (of_means + a.trace + b.trace - 2 * cross).item()
    return Distance(max(value, 0.0), (2 * bound + a.dim**0.5 * EPS * (a.trace + b.trace)).item(), of_means.item())


def frechet_distance(mu1: Any, cov1: Any, mu2: Any, cov2: Any) -> float:
    """Squared Frechet distance (what is called FID on Inception features) of two Gaussians.

        FD^2 = |mu_1 - mu_2|^2 + tr C_1 + tr C_2 - 2 tr (C_1 C_2)^(1/2)

    Args:
        mu1, mu2: (d,) arrays or tensors; computed in float64.
        cov1, cov2: (d, d), of any rank.

    Raises:
        ValueError: shapes that do not fit, entries that are not finite, matrices that are no covariances.
    """
    return frechet(Gaussian.of(mu1, cov1), Gaussian.of(mu2, cov2)).value


def gradient_of_distance(real: Gaussian, generated: Gaussian) -> tuple[Tensor, Tensor]:
    """dFD^2 / d mean (d,) and dFD^2 / d cov (d, d) with respect to the generated side.

        2 (mu_2 - mu_1),   I - T,   T = L_1 (L_1^T C_2 L_1)^(-1/2) L_1^T

    T is the linear part of the optimal transport map from the generated to the real Gaussian. Directions without
    samples drop out of the inverse root (a pseudo-inverse).
    """
    L = real.factor
    lam, U = torch.linalg.eigh(congruence(L, generated.cov))
    kept = lam > len(lam) * EPS * lam[-1]
    half = (L @ U[:, kept]) * lam[kept] ** -0.25
    eye = torch.eye(real.dim, dtype=torch.float64, device=L.device)
    return 2 * (generated.mean - real.mean), eye - half @ half.T
