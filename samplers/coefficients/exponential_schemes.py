"""Exponential Runge-Kutta schemes: nodes and weights as functions of z, in phi functions.

    X_i = A_i x + B_i sum_{j<i} a_ij(z) m_j,      x_t = A x + B sum_j b_j(z) m_j

A scheme gives the nodes c and, for columns j >= 2, a_ij and b_j; the first column follows from consistency,
a_i1 = c_i phi_1(c_i z) - sum_{j>=2} a_ij. What A, B and z are is said in `solvers/exponential_rk.py`.
"""

from __future__ import annotations

from fewstep.samplers.coefficients.phi import phi

# nodes c_1..c_s, a[i][j] for i = 3..s over columns 2..i-1 (row 2 has none), b over columns 2..s
Scheme = tuple[tuple[float, ...], list[list[float]], list[float]]


def exp_euler(z: float) -> Scheme:
    """One stage, order 1."""
    return (0.0,), [], []


def etd2(z: float, c2: float = 0.5, weak: bool = False) -> Scheme:
    """Two stages, order 2: b_2 = phi_2 / c2; the weak form phi_1 / (2 c2) is DPM-Solver-2."""
    return (0.0, c2), [], [phi(1, z) / (2 * c2) if weak else phi(2, z) / c2]


def ho3(z: float, c2: float = 1 / 3) -> Scheme:
    """Three stages, order 3 with c3 = 2/3: a_32 = 4/(9 c2) phi_2(c3 z), b = (., 0, 3/2 phi_2). c2 = 1/3 is DPM-Solver-3."""
    return (0.0, c2, 2 / 3), [[4 / (9 * c2) * phi(2, 2 / 3 * z)]], [0.0, 1.5 * phi(2, z)]


def dpm3_taylor(z: float, c2: float = 1 / 3, c3: float = 2 / 3) -> Scheme:
    """DPM-Solver-3 with both outputs in the final row (D1, D2 from divided differences). Order 3 needs c3 = 2/3."""
    p2, p3 = phi(2, z), phi(3, z)
    b2 = (c3 * p2 - 2 * p3) / (c2 * (c3 - c2))
    b3 = (2 * p3 - c2 * p2) / (c3 * (c3 - c2))
    return (0.0, c2, c3), [[c3**2 / c2 * phi(2, c3 * z)]], [b2, b3]


def res3(z: float, c2: float = 0.5, c3: float = 1.0) -> Scheme:
    """RES-3s, order 3 for any c2, c3: 2 (gamma c2 + c3) = 3 (gamma c2^2 + c3^2)."""
    gamma = (3 * c3**2 - 2 * c3) / (c2 * (2 - 3 * c2))
    a32 = gamma * c2 * phi(2, c2 * z) + c3**2 / c2 * phi(2, c3 * z)
    b3 = phi(2, z) / (gamma * c2 + c3)
    return (0.0, c2, c3), [[a32]], [gamma * b3, b3]


def krogstad(z: float) -> Scheme:
    """ETDRK4-B of Krogstad, four stages, order 4."""
    half, p2, p3 = phi(2, z / 2), phi(2, z), phi(3, z)
    b = 2 * p2 - 4 * p3
    return (0.0, 0.5, 0.5, 1.0), [[half], [0.0, 2 * p2]], [b, b, 4 * p3 - p2]


def cox_matthews(z: float) -> Scheme:
    """ETDRK4 of Cox and Matthews, four stages, order 4.

    Its a_41 = phi_1(z/2) (e^{z/2} - 1) / 2 is what consistency gives: phi_1(z) - phi_1(z/2).
    """
    half, p2, p3 = phi(1, z / 2), phi(2, z), phi(3, z)
    b = 2 * p2 - 4 * p3
    return (0.0, 0.5, 0.5, 1.0), [[0.5 * half], [0.0, half]], [b, b, 4 * p3 - p2]


def ho5(z: float) -> Scheme:
    """Hochbruck-Ostermann, five stages, stiff order 4."""
    h2, h3, p2, p3 = phi(2, z / 2), phi(3, z / 2), phi(2, z), phi(3, z)
    a52 = 0.5 * h2 - p3 + 0.25 * p2 - 0.5 * h3
    return (
        (0.0, 0.5, 0.5, 1.0, 0.5),
        [[h2], [p2, p2], [a52, a52, 0.25 * h2 - a52]],
        [0.0, 0.0, 4 * p3 - p2, 4 * p2 - 8 * p3],
    )


def exprk5s8(z: float) -> Scheme:
    """EXPRK5S8 of Luan and Ostermann, eight stages, stiff order 5."""
    c = (0.0, 1 / 2, 1 / 2, 1 / 4, 1 / 2, 1 / 5, 2 / 3, 1.0)

    def p(k: int, i: int | None = None) -> float:
        return phi(k, z if i is None else c[i - 1] * z)

    a64 = 8 / 25 * p(2, 6) - 32 / 125 * p(3, 6)
    a65 = -2 / 25 * p(2, 6) + 16 / 125 * p(3, 6)
    a74 = -125 / 162 * a64
    a75 = 125 / 1944 * a64 - 16 / 27 * p(2, 7) + 320 / 81 * p(3, 7)
    a76 = 3125 / 3888 * a64 + 100 / 27 * p(2, 7) - 800 / 81 * p(3, 7)
    F = (
        5 / 32 * a64 - 1 / 28 * p(2, 6) + 36 / 175 * p(2, 7) - 48 / 25 * p(3, 7)
        + 6 / 175 * p(4, 6) + 192 / 35 * p(4, 7) + 6 * p(4)
    )  # fmt: skip
    a = [
        [1 / 2 * p(2, 3)],
        [0.0, 1 / 8 * p(2, 4)],
        [0.0, -1 / 2 * p(2, 5) + 2 * p(3, 5), 2 * p(2, 5) - 4 * p(3, 5)],
        [0.0, 0.0, a64, a65],
        [0.0, 0.0, a74, a75, a76],
        [0.0, 0.0, 0.0, 208 / 3 * p(3) - 16 / 3 * p(2) - 40 * F, -250 / 3 * p(3) + 250 / 21 * p(2) + 250 / 7 * F,
         -27 * p(3) + 27 / 14 * p(2) + 135 / 7 * F],
    ]  # fmt: skip
    b = [0.0, 0.0, 0.0, 0.0, 125 / 14 * p(2) - 625 / 14 * p(3) + 1125 / 14 * p(4),
         -27 / 14 * p(2) + 162 / 7 * p(3) - 405 / 7 * p(4), 1 / 2 * p(2) - 13 / 2 * p(3) + 45 / 2 * p(4)]  # fmt: skip
    return c, a, b
