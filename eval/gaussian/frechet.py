"""Frechet distance between Gaussians, in float64, with a bound on its rounding error.

    FD^2 = |mu_1 - mu_2|^2 + tr C_1 + tr C_2 - 2 tr (C_1 C_2)^(1/2)

With any factors C_i = L_i L_i^T the last trace is the nuclear norm of L_1^T L_2, and

    tr (C_1 C_2)^(1/2) = sum of sqrt(eigenvalues of L_1^T C_2 L_1),

a symmetric problem: Cholesky and `eigvalsh`, of as many rows as the thinner factor has columns. What its rounding can do to
the sum of roots is bounded from the eigenvalues; where that says too little, as where covariances are singular in different
directions, the singular values of L_1^T L_2 are taken, whose error is eps, not its root, and which take several times as
long. What a factor itself has lost, E = C - L L^T, moves the sum of roots by at most (|E|_1 tr C)^(1/2), C the other
covariance, since |A^(1/2) - B^(1/2)|_F^2 <= |A - B|_1 (Powers and Stormer, 1970): nothing where the samples are the factor.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fewstep.eval.gaussian.covariance import EPS, Gaussian

# Of tr C_1 + tr C_2: where the bound of the eigenvalues is above this (their error is thousands of times less), singular
# values are computed instead.
TOLERANCE = 1e-6


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
    if (
        not len(M) or M.diagonal().min() <= error
    ):  # no eigenvalue is larger than the smallest entry of the diagonal: no need to look
        return None
    lam = torch.linalg.eigvalsh(M)
    return (lam.sqrt().sum(), error * lam.reciprocal().sum().sqrt()) if lam[0] > 2 * error else None


def root_trace(a: Gaussian, b: Gaussian) -> tuple[Tensor, Tensor]:
    """tr (C_a C_b)^(1/2) and a bound on its error; the side whose factor is known to be thinner, else `a`, comes first."""
    inner, outer = (b, a) if b.thin and not (a.thin and a.factor.shape[1] <= b.factor.shape[1]) else (a, b)
    L = inner.factor
    if outer.thin:  # few samples on both sides: the smaller of the two Gram matrices
        M = L.T @ outer.factor
        M, size = M @ M.T, outer.trace
    else:
        M, size = congruence(L, outer.cov), outer.cov.norm()
    # What |L|^2 |C| rounds to; ten times eps |M| was seen, which is smaller.
    found = roots_of_eigenvalues(M, 16 * EPS * inner.trace * size)
    if found is not None:
        cross, bound = found
        for side, other in ((inner, outer), (outer, inner)):  # a triangular factor loses less than its product rounds
            if side.thin:
                bound = bound + (side.defect * other.trace).sqrt()
        if bound <= TOLERANCE * (a.trace + b.trace):
            return cross, bound
    sigma = torch.linalg.svdvals(a.factor.T @ b.factor)
    largest = sigma.max() if len(sigma) else sigma.sum()  # of nothing, where all images are one
    rounding = a.dim**0.5 * EPS * (sigma.sum() + len(sigma) * largest + (a.trace * b.trace).sqrt())
    return sigma.sum(), rounding + (a.defect * b.trace).sqrt() + (b.defect * a.trace).sqrt()


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
    sides = Gaussian.of(mu1, cov1), Gaussian.of(mu2, cov2)
    for side in sides:
        side.check()
    return frechet(*sides).value


def gradient_of_distance(real: Gaussian, generated: Gaussian) -> tuple[Tensor, Tensor]:
    """dFD^2 / d mean (d,) and dFD^2 / d cov (d, d) with respect to the generated side.

        2 (mu_2 - mu_1),   I - T,   T = L_1 (L_1^T C_2 L_1)^(-1/2) L_1^T

    T is the linear part of the optimal transport map from the generated to the real Gaussian. Directions without
    samples drop out of the inverse root (a pseudo-inverse).
    """
    L = real.factor
    eye = torch.eye(real.dim, dtype=torch.float64, device=L.device)
    towards = 2 * (generated.mean - real.mean)
    if not L.shape[1]:  # all real images are one
        return towards, eye
    lam, U = torch.linalg.eigh(congruence(L, generated.cov))
    kept = lam > len(lam) * EPS * lam[-1]
    half = (L @ U[:, kept]) * lam[kept] ** -0.25
    return towards, eye - half @ half.T
