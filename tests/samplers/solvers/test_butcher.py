"""Runge-Kutta tables: the conditions of their order, and Dormand and Prince's pair against SciPy's."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.integrate

from fewstep.samplers.coefficients.butcher import BUTCHER, DORMAND_PRINCE, Butcher

METHODS = {**BUTCHER, "dormand_prince": DORMAND_PRINCE}


@pytest.mark.parametrize("name", METHODS)
def test_order(name: str) -> None:
    """The conditions of orders 1 to 4, as many as the method promises."""
    method = METHODS[name]
    s = method.stages
    c, b = np.array(method.c), np.array(method.b)
    A = np.array([[*row, *(0.0,) * (s - len(row))] for row in method.a])
    assert np.allclose(A.sum(1), c, atol=1e-15) and [len(row) for row in method.a] == list(range(s))
    conditions = [
        [(b.sum(), 1)],
        [(b @ c, 1 / 2)],
        [(b @ c**2, 1 / 3), (b @ A @ c, 1 / 6)],
        [(b @ c**3, 1 / 4), (b * c @ A @ c, 1 / 8), (b @ A @ c**2, 1 / 12), (b @ A @ A @ c, 1 / 24)],
    ]
    for found in conditions[: method.order]:
        assert np.allclose(*zip(*found, strict=True), atol=1e-14)
    if method.order < 4:
        assert not np.allclose(*zip(*conditions[method.order], strict=True), atol=1e-3)


def test_the_pair_is_dormand_and_princes() -> None:
    ours, theirs = DORMAND_PRINCE, scipy.integrate.RK45
    for row, known in zip(ours.a[:6], theirs.A, strict=True):
        assert np.allclose(row, known[: len(row)])
    assert np.allclose(ours.a[6], theirs.B) and np.allclose(ours.b[:6], theirs.B) and ours.b[6] == 0
    assert np.allclose(np.abs(ours.error), np.abs(theirs.E)) and abs(sum(ours.error)) < 1e-15


@pytest.mark.parametrize("name", METHODS)
def test_a_step(name: str) -> None:
    """y' = y over a short step, by the helper that all who play a table use, the first slope given or not."""
    method, h = METHODS[name], 0.1

    def one(first: float | None) -> float:
        slopes, _ = method.slopes(
            lambda row, known: 1.0 + h * sum(w * f for w, f in zip(row, known, strict=False)), lambda y, c: y, first
        )
        assert len(slopes) == method.stages
        return 1.0 + h * sum(w * f for w, f in zip(method.b, slopes, strict=True))

    assert method.stages == 1 or one(None) == one(1.0)
    assert abs(one(None) - np.exp(h)) < h ** (method.order + 1)


def test_rounding_does_not_lead_beyond_the_step() -> None:
    assert Butcher.of(2, [[1 + 1e-16], [0.5, 0.5]]).c == (0.0, 1.0)
