"""The law of S in V_new = V_old + S, V = r^2 / chi2_D inverse gamma: how far a sample of PFGM++ jumps back up.

    E e^(-s S) = (r_new / r_old)^(D/2) K_{D/2}(r_new sqrt(2 s)) / K_{D/2}(r_old sqrt(2 s))

is inverted numerically once a (D, r_old / r_new); what is kept is its quantile function.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewstep.lazy import optional
from fewstep.samplers.schedule.base import Array

NARROW = 0.02  # relative deviation of S below which its cumulants describe it
LARGE = 50.0  # Bessel functions of higher order by their uniform expansion
TAIL = 1e-7  # probability beyond which quantiles are extrapolated
Complex = NDArray[np.complexfloating[Any, Any]]


@lru_cache(maxsize=256)
def quantile_of_jump(D: float, q: float) -> Callable[[Array], Array]:
    """Quantile function of S / (1 - q^2) for r_new = sqrt(D), r_old = q r_new."""
    nu, gain = 0.5 * D, 1 - q * q
    if nu > 5:  # cumulants of V are those of an inverse gamma; the n-th scales as r^(2 n)
        mean = nu / (nu - 1)
        sd = mean * np.sqrt((1 - q**4) / (nu - 2)) / gain
        if sd < NARROW:
            return _from_cumulants(nu, q, mean, sd)
    with optional("the noise of PFGM++"):
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
    with optional("the noise of PFGM++"):
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
        with optional("the noise of PFGM++"):
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
    with optional("the noise of PFGM++"):
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
