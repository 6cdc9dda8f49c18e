"""PFGM++: the electric field of N data in N + D dimensions, D = 1 Poisson flow, D -> infinity diffusion.

With r = sigma sqrt(D) the perturbation kernel is a multivariate t,

    p_r(x | y) ~ (|x - y|^2 + r^2)^(-(N + D) / 2),      x = y + sqrt(V) n,   V = r^2 / chi2_D,   n ~ N(0, I),

and dx/dsigma = (x - D_theta(x, sigma)) / sigma is the flow of EDM: every table and grid is EDM's. The prior differs, and so
does noise that takes a sample back up. V is inverse gamma, which is self-decomposable: V_new = V_old + S in law with an
independent S > 0,

    E e^(-s S) = (r_new / r_old)^(D/2) K_{D/2}(r_new sqrt(2 s)) / K_{D/2}(r_old sqrt(2 s)),

so x + sqrt(S) n moves p_{r_old} to p_{r_new} exactly, in any number N of data dimensions. (S is the time at which a Bessel
process of dimension 2 - D that starts at r_new first meets r_old.)

Reference: PFGM++: Unlocking the Potential of Physics-Inspired Generative Models; Xu, Liu, Tian, Tong, Tegmark, Jaakkola;
2023; arXiv:2302.04265.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fewstep.samplers.schedule.base import Array
from fewstep.samplers.schedule.continuous import EDM

if TYPE_CHECKING:
    import torch

NARROW = 0.02  # relative deviation of S below which its cumulants describe it
LARGE = 50.0  # Bessel functions of higher order by their uniform expansion
TAIL = 1e-7  # probability beyond which quantiles are extrapolated
Complex = NDArray[np.complexfloating[Any, Any]]


@dataclass(frozen=True, eq=False)
class PFGM(EDM):
    """EDM with D extra dimensions (t = sigma = r / sqrt(D)); ends at sigma = 0. D: at least 1."""

    D: float = 2048.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (np.isfinite(self.D) and self.D >= 1):
            raise ValueError(f"`D`, the number of extra dimensions, must be a number of at least 1; got {self.D!r}.")

    def initial_noise(
        self,
        shape: Sequence[int],
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> torch.Tensor:
        """x_T of shape (B, ...): sigma_max n sqrt(D / chi2_D), one chi2_D a sample, made in float64.

        `generator` may be a list, one a sample; each gives its sample's n and then a uniform for chi2_D.
        """
        import torch

        from fewstep.samplers.noise.sources import onto, uniforms

        noise = super().initial_noise(shape, generator, device, torch.float64)
        scale = self._scale(uniforms(generator, shape[0])).reshape(-1, *(1,) * (noise.ndim - 1))
        return (noise * onto(noise, scale)).to(dtype or torch.get_default_dtype())

    def _scale(self, uniform: Array) -> Array:
        """sqrt(V) / sigma = sqrt(D / chi2_D) of uniforms."""
        from scipy.special import gammainccinv

        return np.sqrt(0.5 * self.D / gammainccinv(0.5 * self.D, uniform))

    def jump_scale(self, sigma_old: float, sigma_new: float, uniform: ArrayLike) -> Array:
        """sqrt(S / (sigma_new^2 - sigma_old^2)): what a unit Gaussian times sqrt(sigma_new^2 - sigma_old^2) still lacks.

        uniform: in (0, 1), one a sample; the result rises with it. float64.
        """
        if not 0 <= sigma_old < sigma_new < np.inf:
            raise ValueError(f"noise goes from a lower to a higher sigma; got {sigma_old!r} to {sigma_new!r}")
        uniform = np.asarray(uniform, np.float64)
        if sigma_old == 0:
            return self._scale(uniform)
        return np.sqrt(_quantile(self.D, sigma_old / sigma_new)(uniform))


@lru_cache(maxsize=256)
def _quantile(D: float, q: float) -> Callable[[Array], Array]:
    """Quantile function of S / (1 - q^2) for r_new = sqrt(D), r_old = q r_new."""
    nu, gain = 0.5 * D, 1 - q * q
    if nu > 5:  # cumulants of V are those of an inverse gamma; the n-th scales as r^(2 n)
        mean = nu / (nu - 1)
        sd = mean * np.sqrt((1 - q**4) / (nu - 2)) / gain
        if sd < NARROW:
            return _from_cumulants(nu, q, mean, sd)
    from scipy.interpolate import PchipInterpolator
    from scipy.special import gammaincinv, logit

    high = float(nu / gammaincinv(nu, TAIL)) / gain  # S is stochastically smaller than V_new
    x = np.geomspace(_low(nu, q), min(high, mean + 14 * sd) if nu > 30 else high, 300)
    for _ in range(2):  # the second time over the range that matters
        F = _distribution(nu, q, x)
        below, above = np.flatnonzero(TAIL > F), np.flatnonzero(1 - TAIL < F)
        first, last = (below[-1] if below.size else 0), (above[0] if above.size else len(x) - 1)
        x = np.geomspace(x[first], x[last], 500)
    F = _distribution(nu, q, x)
    kept = (F > TAIL) & (F < 1 - TAIL) & (np.maximum.accumulate(np.append(0.0, F[:-1])) < F)
    place, log_x = logit(F[kept]), np.log(x[kept])
    inner = PchipInterpolator(place, log_x)
    slopes = inner.derivative()(place[[0, -1]])

    def quantile(uniform: Array) -> Array:
        at = logit(uniform)
        inside = np.clip(at, place[0], place[-1])
        beyond = at - inside  # tails go on as they begin, powers of the probability
        return np.exp(inner(inside) + np.where(beyond < 0, slopes[0], slopes[1]) * beyond)

    return quantile


def _from_cumulants(nu: float, q: float, mean: float, sd: float) -> Callable[[Array], Array]:
    """The Cornish-Fisher expansion to the fourth cumulant."""
    from scipy.special import ndtri

    skew = 4 * np.sqrt(nu - 2) / (nu - 3) * (1 - q**6) / (1 - q**4) ** 1.5
    kurtosis = 6 * (5 * nu - 11) / ((nu - 3) * (nu - 4)) * (1 - q**8) / (1 - q**4) ** 2

    def quantile(uniform: Array) -> Array:
        z = ndtri(uniform)
        bent = skew / 6 * (z**2 - 1) + kurtosis / 24 * (z**3 - 3 * z) - skew**2 / 36 * (2 * z**3 - 5 * z)
        return np.asarray(mean + sd * (z + bent))

    return quantile


def _log_transform(nu: float, q: float, s: Complex | Array) -> Complex:
    """log E e^(-s S / (1 - q^2))."""
    z = 2 * np.sqrt(nu * s / (1 - q * q))
    if nu <= LARGE:
        from scipy.special import kve

        return np.asarray(np.log(kve(nu, z) / kve(nu, q * z)) - (1 - q) * z - nu * np.log(q))
    (bent, rest), (bent_q, rest_q) = _debye(nu, z / nu), _debye(nu, q * z / nu)
    return np.asarray(-nu * (bent - bent_q) + rest - rest_q)


def _debye(nu: float, w: Complex | Array) -> tuple[Complex, Complex]:
    """(a, b) with log K_nu(nu w) = -nu (log w + a) + b + const: the uniform expansion for large nu."""
    root = np.sqrt(1 + w * w)
    p = 1 / root
    u1 = (3 * p - 5 * p**3) / 24
    u2 = (81 * p**2 - 462 * p**4 + 385 * p**6) / 1152
    u3 = (30375 * p**3 - 369603 * p**5 + 765765 * p**7 - 425425 * p**9) / 414720
    series = 1 - u1 / nu + u2 / nu**2 - u3 / nu**3
    return np.asarray(root - np.log(1 + root)), np.asarray(np.log(series) - 0.5 * np.log(root))


def _low(nu: float, q: float) -> float:
    """A point below which S / (1 - q^2) lies with a probability under TAIL: P(S < x) <= e^(s x) E e^(-s S) for any s."""
    s = np.geomspace(1e-2, 1e8, 400)
    return float(np.max((np.log(TAIL) - _log_transform(nu, q, s).real) / s))


def _distribution(nu: float, q: float, x: Array) -> Array:
    """P(S / (1 - q^2) <= x) by the Fourier series of its Laplace transform, the last partial sums averaged.

    F(x) = e^(A/2) / x [f(A / 2x) / 2 + sum_k (-1)^k Re f((A + 2 pi i k) / 2x)],  f(s) = E e^(-s S) / s, to about e^-A.

    Reference: The Fourier-series method for inverting transforms of probability distributions; Abate, Whitt; 1992.
    """
    from scipy.special import comb

    A, averaged = 24.0, 24
    width = np.sqrt((1 - q**4) / max(nu - 2, 1.0)) / (1 - q * q)
    terms = 20 + int(8 * 4 / (np.pi * min(width, 1.0)))
    k = np.arange(terms + averaged + 1)
    s = (A + 2j * np.pi * k) / (2 * x[:, None])
    f = (np.exp(_log_transform(nu, q, s) + 0.5 * A) / s).real * np.where(k % 2, -1.0, 1.0)
    f[:, 0] *= 0.5
    sums = np.cumsum(f, 1)[:, terms:]
    return np.asarray(sums @ (comb(averaged, np.arange(averaged + 1)) / 2.0**averaged) / x)
