"""Multistep weights are exact for polynomials in the solver's own variable, by an independent quadrature."""

from __future__ import annotations

from math import exp
from typing import Any

import numpy as np
import pytest
import scipy
from paths import FULL, SCHEDULES, close, everywhere, path

from fewstep.samplers import NoiseSchedule, build
from fewstep.samplers.coefficients.phi import phi
from fewstep.samplers.coefficients.weights import lagrange_row, scale
from fewstep.samplers.schedule.base import Node

POLYNOMIAL = [
    *(("abnorsett", {"order": p, "form": form, **FULL}, form, "lam", p) for p in range(1, 6) for form in ("x0", "eps")),
    *(("deis", {"order": p, "clock": "own"}, "eps", "t", p) for p in range(1, 5)),
    *(("deis_rho_ab", {"order": p}, "eps", "G", p) for p in range(1, 5)),
    *(("cab", {"order": p}, "flow", "G", p) for p in range(1, 5)),
    *(("unipc", {"order": p, "weights": "exact", "form": form, **FULL}, form, "lam", p)
      for p in range(1, 5) for form in ("x0", "eps")),
]  # fmt: skip


def variable(schedule: NoiseSchedule, form: str, var: str, lam: float) -> float:
    if var != "G":
        return lam if var == "lam" else float(schedule.t_of_lam(lam))
    return {"x0": exp(lam), "eps": exp(-lam), "flow": 1 / (1 + exp(lam))}[form]


def dG(form: str, lam: float) -> float:
    return {"x0": exp(lam), "eps": -exp(-lam), "flow": -exp(lam) / (1 + exp(lam)) ** 2}[form]


@everywhere
@pytest.mark.parametrize(("name", "options", "form", "var", "p"), POLYNOMIAL)
def test_polynomials_are_integrated_exactly(
    kind: str, name: str, options: dict[str, Any], form: str, var: str, p: int
) -> None:
    """From exact registers every row of full order reaches the exact next state, for outputs of degree p - 1.

    A corrector sees one output more and must be exact for degree p as well.
    """
    schedule, times, nodes = path(kind)
    table = build(name, schedule, None, times, **options, limiter=False)
    for k in range(p, len(nodes) - 1):
        centre, size = variable(schedule, form, var, nodes[k].lam), abs(
            variable(schedule, form, var, nodes[k + 1].lam) - variable(schedule, form, var, nodes[k - p].lam)
        )  # fmt: skip
        for degree in range(p + (name == "unipc")):

            def m(lam: float, centre: float = centre, size: float = size, degree: int = degree) -> float:
                return ((variable(schedule, form, var, lam) - centre) / size) ** degree

            def state(node: Node, origin: Node = nodes[k], m: Any = m) -> float:
                grown = scipy.integrate.quad(
                    lambda lam: m(lam) * dG(form, lam), origin.lam, node.lam, epsabs=0, epsrel=1e-13
                )[0]
                return scale(form, node) * (1.0 / scale(form, origin) + grown)

            outputs = [m(nodes[k - j].lam) for j in range(table.history)]
            registers = np.array(
                [state(nodes[k - 1]) if name == "unipc" else state(nodes[k]), state(nodes[k]), *outputs]
            )
            carry, after = table.W[k] @ registers
            magnitude = np.abs(table.W[k]) @ np.abs(registers)
            if degree < p:
                assert abs(after - state(nodes[k + 1])) <= 1e-10 * magnitude[1]
            if name == "unipc":
                assert abs(carry - state(nodes[k])) <= 1e-10 * magnitude[0]


@everywhere
def test_a_corrector_row_is_the_exponential_adams_moulton_row(kind: str) -> None:
    """The Lagrange row with one node at the target, against its integral by quadrature."""
    schedule, _, nodes = path(kind)
    past, s, t = nodes[3], nodes[4], nodes[5]
    for form in ("x0", "eps"):
        got = lagrange_row(schedule, form, "lam", s, t, [s, t, past])
        lams = [s.lam, t.lam, past.lam]
        for j in range(3):
            a, b = (v for i, v in enumerate(lams) if i != j)

            def f(lam: float, a: float = a, b: float = b, c: float = lams[j], form: str = form) -> float:
                return (lam - a) * (lam - b) / ((c - a) * (c - b)) * dG(form, lam)

            assert got[j] == pytest.approx(
                scale(form, t) * scipy.integrate.quad(f, s.lam, t.lam, epsabs=0, epsrel=1e-13)[0], rel=1e-10
            )


@everywhere
@pytest.mark.parametrize("p", [2, 3, 4])
def test_deis_tab_by_an_independent_quadrature(kind: str, p: int) -> None:
    schedule, times, nodes = path(kind)
    table = build("deis", schedule, None, times, order=p, clock="own", limiter=False)
    for k in range(p - 1, len(nodes) - 1):
        s, t, past = nodes[k], nodes[k + 1], [nodes[k - j].t for j in range(p)]
        for j in range(p):

            def integrand(lam: float, j: int = j, past: list[float] = past) -> float:
                at = float(schedule.t_of_lam(lam))
                basis = np.prod([(at - v) / (past[j] - v) for i, v in enumerate(past) if i != j])
                return -exp(-lam) * float(basis)

            value = t.alpha * scipy.integrate.quad(integrand, s.lam, t.lam, epsabs=0, epsrel=1e-13)[0]
            assert table.W[k, 1, 2 + j] == pytest.approx(value, rel=1e-10)


def test_closed_forms_on_a_uniform_grid_in_lam() -> None:
    schedule, first, last = SCHEDULES["vp"]
    closed = {
        2: [[0, -1]],
        3: [[0, -2, -2], [0, 1 / 2, 1]],
        4: [[0, -3, -5, -3], [0, 3 / 2, 4, 3], [0, -1 / 3, -1, -1]],
    }
    for p, older in closed.items():
        table = build("abnorsett", schedule, 8, "logsnr", t_start=first, t_end=last, order=p, **FULL)
        h = float(np.diff(table.nodes.lam)[0])
        past = [sum(c * phi(i + 1, -h) for i, c in enumerate(row)) for row in older]
        weights = np.array([phi(1, -h) - sum(past), *past]) * h
        for k in range(p, 8):
            close(table.W[k, 1, 2:], table.nodes.alpha[k + 1] * weights, 1e-11)
    table = build("dpmpp_2m", schedule, 8, "logsnr", t_start=first, t_end=last, **FULL)
    close(table.W[1:, 1, 2:] / (-np.expm1(-h) * table.nodes.alpha[2:, None]), np.tile([1.5, -0.5], (7, 1)), 1e-11)
