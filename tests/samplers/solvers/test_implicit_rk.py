"""Implicit Runge-Kutta: its tables satisfy their conditions, sweeps gain an order each, and in the end solve the equations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from convergence import problem, slopes
from problems import Mixture, starts

from fewstep.samplers import NoiseSchedule, build, sample
from fewstep.samplers.building.names import solver_of
from fewstep.samplers.coefficients.implicit_schemes import DIAGONAL, FAMILIES, implicit

EDM = NoiseSchedule.edm()
ALL = [(name, s) for name, (least, _) in FAMILIES.items() for s in range(least, 6)] + [(name, 2) for name in DIAGONAL]


@pytest.mark.parametrize(("name", "stages"), ALL)
def test_order_conditions(name: str, stages: int) -> None:
    """B(p), consistent stages, and all conditions of trees up to order four."""
    c, a, b, order, collocation = implicit(name, stages)
    k = np.arange(1, order + 1)
    np.testing.assert_allclose((b[:, None] * c[:, None] ** (k - 1)).sum(0), 1 / k, atol=1e-12)
    np.testing.assert_allclose(a.sum(1), c, atol=1e-12)
    if order >= 3:
        assert b @ a @ c == pytest.approx(1 / 6)
    if order >= 4:
        assert b @ a @ c**2 == pytest.approx(1 / 12) and (b * c) @ a @ c == pytest.approx(1 / 8)
        assert b @ a @ a @ c == pytest.approx(1 / 24)
    if collocation:
        for q in range(1, stages + 1):
            np.testing.assert_allclose(a @ c ** (q - 1), c**q / q, atol=1e-12)


def test_what_is_known_by_name() -> None:
    root = np.sqrt(15)
    np.testing.assert_allclose(implicit("gauss", 3).c, [0.5 - root / 10, 0.5, 0.5 + root / 10])
    np.testing.assert_allclose(implicit("radau_iia", 2).a, [[5 / 12, -1 / 12], [3 / 4, 1 / 4]])
    np.testing.assert_allclose(implicit("radau_ia", 2).a, [[1 / 4, -1 / 4], [1 / 4, 5 / 12]])
    np.testing.assert_allclose(implicit("lobatto_iiia", 3).a[1], [5 / 24, 1 / 3, -1 / 24])
    np.testing.assert_allclose(implicit("lobatto_iiib", 3).a[1], [1 / 6, 1 / 3, 0], atol=1e-15)
    np.testing.assert_allclose(implicit("lobatto_iiic", 3).a[0], [1 / 6, -1 / 3, 1 / 6])
    assert not implicit("lobatto_iiic_star", 3).a[:, 2].any()


CASES: list[tuple[dict[str, Any], int, int]] = [  # options, evaluations a step, order
    ({"iterations": 1}, 3, 2),
    ({"iterations": 2}, 5, 3),
    ({"form": "flow"}, 7, 4),
    ({"form": "eps"}, 7, 4),
    ({"method": "radau_iia"}, 5, 3),
    ({"method": "radau_ia"}, 5, 3),
    ({"method": "lobatto_iiia", "stages": 3}, 7, 4),
    ({"method": "lobatto_iiic"}, 3, 2),
    ({"method": "lobatto_iiid", "stages": 3}, 10, 4),
    ({"method": "crouzeix"}, 5, 3),
    ({"method": "pareschi_russo"}, 3, 2),
]


@pytest.mark.slow
@pytest.mark.parametrize(("options", "calls", "order"), CASES)
def test_every_sweep_gains_an_order_up_to_the_methods(options: dict[str, Any], calls: int, order: int) -> None:
    denoiser, x, ends, answer = problem("flow")
    steps = (48, 96, 192) if order > 2 else (96, 192, 384)
    tables = [build("implicit_rk", denoiser.schedule, calls * n, "logsnr", **ends, **options) for n in steps]
    assert tables[0].groups == (calls,) * steps[0] and tables[0].order == order
    assert slopes(denoiser, x, answer, tables)[-1] == pytest.approx(order, abs=0.25)


def test_many_sweeps_solve_the_equations() -> None:
    """More of them change nothing, and Gauss of one stage is then the implicit midpoint rule."""
    denoiser, x = Mixture().denoiser(EDM, "sample"), starts(EDM, 5.0)
    grid = np.array([5.0, 4.0])
    ends = [sample(denoiser, x, "implicit_rk", None, grid, stages=1, iterations=n, form="flow") for n in (40, 60)]
    assert float((ends[0] - ends[1]).abs().max()) < 1e-12
    r = 0.5 * (5 / 6 + 4 / 5)
    y = x / 6
    for _ in range(60):
        sigma = r / (1 - r)
        x0, eps = Mixture().predict(0.5 * (x / 6 + y) * (1 + sigma), 1.0, sigma)
        y = x / 6 + (4 / 5 - 5 / 6) * (eps - x0)
    assert float((ends[1] - 5 * y).abs().max()) < 1e-12


def test_evaluations_are_spent_exactly() -> None:
    for nfe in (1, 2, 6, 7, 8, 15, 23):
        table = build("implicit_rk", EDM, nfe)
        assert table.nfe == nfe and sum(table.groups) == nfe


def test_names_of_implicit_methods() -> None:
    for name, wanted in {
        "gauss-legendre_3s": {"method": "gauss", "stages": 3}, "radau_iia_3s_alt": {"method": "radau_iia", "stages": 3},
        "lobatto_iiic_star_2s": {"method": "lobatto_iiic_star", "stages": 2}, "crouzeix_2s": {"method": "crouzeix"},
        "pareschi_russo_alt_2s": {"method": "alexander"},
    }.items():  # fmt: skip
        entry, _ = solver_of(name)
        assert entry.name == "implicit_rk" and dict(entry.bound) == wanted
        assert build(name, EDM, 15).nfe == 15
    for name in ("crouzeix_3s", "lobatto_iiib_2s", "gauss-legendre_4s_alt", "irk_exp_diag_2s"):
        with pytest.raises(ValueError, match="is no solver here: .*take "):
            solver_of(name)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "gaus"}, "`method` must be one of 'gauss'"),
        ({"method": "lobatto_iiib", "stages": 2}, "`stages`"),
        ({"iterations": 0}, "`iterations`"),
        ({"method": "radau_ia", "form": "x0"}, "radau_ia has no exponential form"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build("implicit_rk", EDM, 14, **options)
