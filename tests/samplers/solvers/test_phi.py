"""phi functions against their power series in exact arithmetic."""

from decimal import Decimal, getcontext
from math import factorial

import numpy as np
import pytest

from fewstep.samplers.coefficients.phi import phi, phis

getcontext().prec = 80


def exact(k: int, z: float) -> float:
    """sum_j z^j / (k + j)! with 80 digits."""
    term = total = Decimal(1) / factorial(k)
    for j in range(1, 400):
        term *= Decimal(z) / (k + j)
        total += term
    return float(total)


POINTS = [
    s * z for z in (1e-12, 1e-6, 1e-3, 0.1, 0.49, 0.51, 0.99, 1.01, 1.51, 2.49, 2.6, 5.0, 12.0, 40.0) for s in (1, -1)
]


@pytest.mark.parametrize("k", range(6))
@pytest.mark.parametrize("z", POINTS)
def test_phi(k: int, z: float) -> None:
    assert phi(k, z) == pytest.approx(exact(k, z), rel=4e-15 * 10 ** max(0, k - 3), abs=0)


def test_phi_at_zero() -> None:
    assert phis(0.0, 5) == tuple(1 / factorial(k) for k in range(6))


def test_all_at_once_equals_one_by_one() -> None:
    for z in POINTS:
        assert np.allclose(phis(z, 4), [phi(k, z) for k in range(5)], rtol=1e-14, atol=0)
