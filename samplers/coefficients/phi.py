"""phi functions, the only transcendental part of every exponential method.

phi_0(z) = e^z,   phi_{k+1}(z) = (phi_k(z) - 1/k!) / z,   phi_k(0) = 1/k!
phi_{k+1}(z) = int_0^1 e^{(1-u) z} u^k / k! du
"""

from __future__ import annotations

from functools import lru_cache
from math import exp, expm1, factorial

_TERMS = 30


@lru_cache(maxsize=65536)
def phis(z: float, k: int) -> tuple[float, ...]:
    """phi_0(z) .. phi_k(z) in float64, to about 1e-15 relative.

    The upward recurrence loses digits for small |z| (phi_3 is off by 40 % in float32 at z = 1e-3), so below
    |z| = (1 + k) / 2 the highest function comes from its Taylor series sum_j z^j / (k + j)! and the others from the
    downward recurrence phi_i = z phi_{i+1} + 1/i!, which is stable there.
    """
    if abs(z) >= 0.5 + 0.5 * k:
        out = [exp(z)]
        if k:
            out.append(expm1(z) / z)
        for i in range(1, k):
            out.append((out[i] - 1.0 / factorial(i)) / z)
        return tuple(out)
    term = top = 1.0 / factorial(k)
    for j in range(1, _TERMS):
        term *= z / (k + j)
        top += term
    out = [top]
    for i in range(k - 1, -1, -1):
        out.append(z * out[-1] + 1.0 / factorial(i))
    return tuple(reversed(out))


def phi(k: int, z: float) -> float:
    """phi_k(z)."""
    return phis(z, k)[k]
