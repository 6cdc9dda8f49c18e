"""Order of convergence of every ODE solver and of its documented options, on a mixture whose score is exact."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from convergence import MIXTURE, SCHEDULES, problem, slopes
from problems import all_slow, in_turn, starts

from fewstep.samplers import SOLVERS, Denoiser, NoiseSchedule, build, sample
from fewstep.samplers.building.compiling import compile_path
from fewstep.samplers.building.path import Path, Solution
from fewstep.samplers.building.solver_entry import Entry
from fewstep.samplers.coefficients.exponential_schemes import dpm3_taylor
from fewstep.samplers.solvers.exponential_rk import singlestep

ODE = [name for name, entry in SOLVERS.items() if not entry.stochastic and entry.kind == "tableau"]


def measured(kind: str, name: str, **options: Any) -> float:
    """Median slope over doublings of the number of steps: 128 to 512 of one call, 64 to 256 of several.

    Fifth order in one call shows itself early and ends in the rounding, so it is followed from 32 steps on.
    """
    denoiser, x, ends, answer = problem(kind)
    calls = build(name, denoiser.schedule, 64, "logsnr", **ends, **options).groups[0]
    grids = (64, 128, 256) if calls > 1 else (128, 256, 512) if expected(name, options) < 5 else (32, 64, 128, 256, 512)
    spent = 1 if name in ("pndm", "plms") else calls  # these take one call a step after their start
    tables = [build(name, denoiser.schedule, n * spent, "logsnr", **ends, **options) for n in grids]
    return float(np.median(slopes(denoiser, x, answer, tables)))


def expected(name: str, options: dict[str, Any]) -> int:
    """What the table itself declares for these options."""
    return build(name, SCHEDULES["vp"][0], 40, "logsnr", **options).order


# Where more is reached than from any start: auto is unipc on steps even in lam, and the first step of epd, which has no past
# to find its places by, is lost in the noise.
FROM_NOISE = {"auto": expected("unipc", {}), "epd": 3}


# every second solver by default, each of them when the slow ones run
@pytest.mark.parametrize(("name", "kind"), [*in_turn(ODE[::2], SCHEDULES), *all_slow(ODE[1::2], SCHEDULES)])
@pytest.mark.one_in(3)
def test_declared_order(name: str, kind: str) -> None:
    assert measured(kind, name) == pytest.approx(FROM_NOISE.get(name) or SOLVERS[name].order, abs=0.25)


def _options() -> list[tuple[str, dict[str, Any], int]]:
    """(solver, options, order) of everything the docstrings promise beyond the defaults."""
    full = {"lower_order_final": False}
    of_order = {
        "deis": full, "deis_rho_ab": full, "deis_log_rho": full, "lms": full, "ipndm_v": full, "abnorsett": full,
        "res_multistep": full, "cab": full,
    }  # fmt: skip
    cases: list[tuple[str, dict[str, Any], int]] = [
        (name, {"order": p, **more}, p) for name, more in of_order.items() for p in (1, 2, 3, 4)
    ]
    cases += [("abnorsett", {"order": 5, **full}, 5), ("abnorsett", {"form": "eps", **full}, 4)]
    for form in ("x0", "eps"):
        for weights in ("bh1", "bh2", "exact"):
            for p in (1, 2, 3, 4):
                unipc = {"order": p, "weights": weights, "form": form, **full}
                cases += [("unipc", unipc, p + 1), ("unipc", {**unipc, "corrector": False}, p)]
        cases += [(name, {"form": form}, SOLVERS[name].order) for name in SOLVERS if name.startswith("etd_rk")]
    for name in ("dpm_2", "dpmpp_2s", "dpm_3", "dpmpp_3s"):
        cases += [(name, {"correction": c}, int(name.strip("dpms_"))) for c in ("dpmsolver", "taylor")]
    cases += [("dpm_fast", {"correction": "taylor"}, 3)]
    cases += [("dpmpp_2m", {"variant": "exact"}, 2), ("dpmpp_2m", {"variant": "public"}, 2)]
    cases += [("dpmpp_3m", {"variant": "exact"}, 3), ("dpmpp_3m", {"variant": "public"}, 2)]
    butcher = {2: "heun midpoint ralston", 3: "kutta3 heun3 ralston3 houwen3 ssprk3", 4: "rk4", 1: "euler"}
    for p, methods in butcher.items():
        for method in methods.split():
            cases += [("deis_rho_rk", {"method": method, "var": var}, p) for var in ("rho", "flow")]
    cases += [("heun", {"alpha": a, "var": var}, 2) for a in (0.5, 2 / 3) for var in ("rho", "flow")]
    cases += [("etd_rk4", {"variant": "cox_matthews", "form": form}, 4) for form in ("x0", "eps")]
    cases += [("etd_rk2", {"c2": 0.3}, 2), ("etd_rk3", {"c2": 0.25}, 3), ("res_2s", {"c2": 1.0}, 2)]
    cases += [("res_3s", {"c2": 0.4, "c3": 0.75}, 3), ("dpm_3", {"c2": 0.5}, 3), ("dpm_2", {"c2": 0.3}, 2)]
    cases += [("ipndm", {"order": p}, min(p, 2)) for p in (1, 2, 3, 4)]
    cases += [("plms", {"order": p}, min(p, 2)) for p in (1, 2, 3, 4)]
    cases += [("deis_log_rho", {"order": p, "variant": "public", **full}, min(p, 2)) for p in (1, 2, 3)]
    cases += [("dpmpp_3m_sde", {"tau": 0.0, "variant": v}, 2) for v in ("public", "k_diffusion")]
    cases += [("ipndm_v", {"order": p, "variant": "public", **full}, (1, 2, 1, 1)[p - 1]) for p in (1, 2, 3, 4)]
    cases += [("deis", {"order": p, "clock": clock, **full}, p) for p in (2, 3) for clock in ("own", "vp")]
    cases += [(name, {"order": 3, "form": "flow", **full}, 3) for name in ("deis", "lms", "ipndm_v")]
    cases += [("ipndm", {"form": "flow"}, 2), ("gradient_estimation", {"gamma": 1.2, "var": "flow"}, 1)]
    return cases + [
        ("stork", {"order": 1}, 1),
        ("stork", {"derivatives": 1, "stages": 3}, 2),
        ("stork", {"stages": 50}, 2),
    ]


OPTIONS = _options()
IDS = [f"{name}-{'-'.join(f'{k}={v}' for k, v in options.items())}" for name, options, _ in OPTIONS]


@pytest.mark.slow
@pytest.mark.parametrize("kind", SCHEDULES)
@pytest.mark.parametrize(("name", "options", "order"), OPTIONS, ids=IDS)
def test_order_of_options(name: str, options: dict[str, Any], order: int, kind: str) -> None:
    assert expected(name, options) == order
    found = measured(kind, name, **options)
    if name == "ipndm_v" and options.get("variant") == "public":  # its slips vanish as steps become even: a lower bound
        assert found > order - 0.25
    else:
        assert found == pytest.approx(order, abs=0.25)


@pytest.mark.parametrize(("name", "options", "order"), OPTIONS, ids=IDS)
def test_declared_order_follows_the_options(name: str, options: dict[str, Any], order: int) -> None:
    assert expected(name, options) == order


def wrong_nodes(path: Path) -> Solution:
    """DPM-Solver-3 at the nodes 1/4 and 1/2: its last node is not 2/3."""
    return singlestep(path, 2, "x0", lambda z: dpm3_taylor(z, 1 / 4, 1 / 2), 3)


def test_a_third_order_scheme_with_wrong_nodes_is_second_order() -> None:
    denoiser, x, ends, answer = problem("vp")
    entry = Entry("wrong", wrong_nodes, 2, "x0", "")
    times = [build("ddim", denoiser.schedule, n, "logsnr", **ends).times for n in (64, 128, 256)]
    tables = [compile_path(entry, denoiser.schedule, t, (3,) * (len(t) - 1), None, {}) for t in times]
    assert np.median(slopes(denoiser, x, answer, tables)) == pytest.approx(2, abs=0.25)


def test_published_three_step_weights_are_second_order() -> None:
    assert measured("vp", "dpmpp_3m", variant="public") == pytest.approx(2, abs=0.25)


@pytest.mark.slow
@pytest.mark.parametrize(("interpolation", "kept"), [("cubic", True), ("log_sigma", False)])
def test_discrete_schedules_keep_order_three_where_they_are_smooth(interpolation: str, kept: bool) -> None:
    """A network with its own smooth noise law sees the training index; the solver knows only the law's table."""
    law = NoiseSchedule.vp_linear()
    schedule = NoiseSchedule.discrete(law.alpha(np.arange(1, 51) / 50) ** 2, interpolation)
    exact = MIXTURE.denoiser(law, "sample")
    denoiser = Denoiser(lambda x, tau: exact(x, float(schedule.time_of_model(float(tau)))), schedule, "sample")
    x, ends = starts(schedule, 1.0), {"t_start": 1.0, "t_end": 0.02}
    answer = sample(denoiser, x, "dpmpp_3m", 2000, "logsnr", **ends)
    tables = [build("dpmpp_3m", schedule, n, "logsnr", **ends) for n in (75, 150, 300, 600)]
    found = slopes(denoiser, x, answer, tables)
    assert found.min() > 2.75 if kept else found.min() < 2.25
