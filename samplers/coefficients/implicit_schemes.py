"""Implicit Runge-Kutta methods from their quadrature nodes: Gauss, Radau IA and IIA, Lobatto IIIA to IIID; and diagonal ones.

Y_i = y_s + d sum_j a_ij f_j,     f_i = f(Y_i, G_s + c_i d),     y_t = y_s + d sum_j b_j f_j

C(q): sum_j a_ij c_j^(k-1) = c_i^k / k,      D(r): sum_i b_i c_i^(k-1) a_ij = b_j (1 - c_j^k) / k,     k = 1..q or r
"""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt
from typing import NamedTuple

import numpy as np
from numpy.polynomial import Legendre

Array = np.ndarray


class Implicit(NamedTuple):
    """A method: nodes, rows, weights, classical order, and whether the rows are those of collocation, C(s)."""

    c: Array
    a: Array
    b: Array
    order: int
    collocation: bool = False


def _weights(c: Array, upto: Array) -> Array:
    """int_0^u of the Lagrange basis on c, for every u: rows of C(s)."""
    k = np.arange(1, len(c) + 1)
    return np.asarray(np.linalg.solve(np.vander(c, increasing=True).T, (upto[:, None] ** k / k).T).T)


def gauss_nodes(s: int) -> Array:
    """Zeros of P_s, on [0, 1]."""
    return 0.5 + 0.5 * np.polynomial.legendre.leggauss(s)[0]


def radau_nodes(s: int) -> Array:
    """Zeros of P_s - P_(s-1), on [0, 1]; the last is 1."""
    roots = np.sort((Legendre.basis(s) - Legendre.basis(s - 1)).roots().real)
    return np.append(0.5 + 0.5 * roots[:-1], 1.0)


def lobatto_nodes(s: int) -> Array:
    """Zeros of (x^2 - 1) P'_(s-1), on [0, 1]; both ends are among them."""
    inner = np.sort(Legendre.basis(s - 1).deriv().roots().real) if s > 2 else np.zeros(0)
    return np.concatenate([[0.0], 0.5 + 0.5 * inner, [1.0]])


def _collocation(c: Array, order: int) -> Implicit:
    return Implicit(c, _weights(c, c), _weights(c, np.ones(1))[0], order, True)


def _adjoint(c: Array, order: int) -> Implicit:
    """D(s)."""
    b, k = _weights(c, np.ones(1))[0], np.arange(1, len(c) + 1)[:, None]
    a = np.linalg.solve(b * c ** (k - 1), b * (1 - c**k) / k)
    return Implicit(c, a, b, order)


def _with_column(c: Array, order: int, column: int, value: float) -> Implicit:
    """One column given, C(s - 1) for the others."""
    b, others = _weights(c, np.ones(1))[0], [j for j in range(len(c)) if j != column]
    a = np.full((len(c), len(c)), value)
    k = np.arange(1, len(c))
    wanted = c[:, None] ** k / k - value * c[column] ** (k - 1)
    a[:, others] = np.linalg.solve(np.vander(c[others], increasing=True).T, wanted.T).T
    return Implicit(c, a, b, order)


def lobatto_iiic(s: int, star: bool = False) -> Implicit:
    """Lobatto IIIC, a_i1 = b_1 and C(s-1); star: Butcher's Lobatto III, a_is = 0 and C(s-1)."""
    c = lobatto_nodes(s)
    return _with_column(c, 2 * s - 2, s - 1 if star else 0, 0.0 if star else 1.0 / (s * (s - 1)))


def _lobatto_iiid(s: int) -> Implicit:
    one, other = lobatto_iiic(s), lobatto_iiic(s, star=True)
    return one._replace(a=0.5 * (one.a + other.a))


def _diagonal(gamma: float, lower: float, b: tuple[float, float], order: int) -> Implicit:
    """Two stages with gamma on the diagonal."""
    a = np.array([[gamma, 0.0], [lower, gamma]])
    return Implicit(a.sum(1), a, np.array(b), order)


FAMILIES: dict[str, tuple[int, Callable[[int], Implicit]]] = {  # name -> (least stages, method of s)
    "gauss": (1, lambda s: _collocation(gauss_nodes(s), 2 * s)),
    "radau_ia": (2, lambda s: _adjoint(1 - radau_nodes(s)[::-1], 2 * s - 1)),
    "radau_iia": (2, lambda s: _collocation(radau_nodes(s), 2 * s - 1)),
    "lobatto_iiia": (2, lambda s: _collocation(lobatto_nodes(s), 2 * s - 2)),
    "lobatto_iiib": (3, lambda s: _adjoint(lobatto_nodes(s), 2 * s - 2)),
    "lobatto_iiic": (2, lobatto_iiic),
    "lobatto_iiic_star": (2, lambda s: lobatto_iiic(s, star=True)),
    "lobatto_iiid": (3, _lobatto_iiid),
}
_ALEXANDER = 1 - 1 / sqrt(2)
_CROUZEIX = 0.5 + sqrt(3) / 6
DIAGONAL: dict[str, Implicit] = {
    "pareschi_russo": _diagonal(_ALEXANDER, 1 - 2 * _ALEXANDER, (0.5, 0.5), 2),
    "alexander": _diagonal(_ALEXANDER, 1 - _ALEXANDER, (1 - _ALEXANDER, _ALEXANDER), 2),
    "crouzeix": _diagonal(_CROUZEIX, 1 - 2 * _CROUZEIX, (0.5, 0.5), 3),
    "qin_zhang": _diagonal(0.25, 0.5, (0.5, 0.5), 2),
}
METHODS = (*FAMILIES, *DIAGONAL)
MOST_STAGES = 9  # beyond, the powers of nodes lose digits


def implicit(method: str, stages: int) -> Implicit:
    """A method by name; diagonal ones have two stages."""
    return DIAGONAL[method] if method in DIAGONAL else FAMILIES[method][1](stages)
