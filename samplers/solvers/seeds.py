"""SEEDS and DPM-Solver++ SDE: exponential Runge-Kutta whose stages share the noise of one Brownian path.

The schemes are those of DPM-Solver, in the rows of `exponential_rk` with tau. Over a stage from node n to n' the path adds
c(n, n') z, and a(n', t) takes it on to t; `carry` holds the state at s together with all noise so far,

    carry + sum_i c(n_i, n_i+1) / a(s, n_i+1) z_i,      X_j = a(s, n_j) carry + sum_i weight_ji m_i,

so every increment is drawn once and reaches all later stages.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from fewstep.samplers.building import options as opt
from fewstep.samplers.building import references as ref
from fewstep.samplers.building.path import Path, Solution
from fewstep.samplers.building.solver_entry import solver
from fewstep.samplers.coefficients.exponential_schemes import Scheme, etd2, exp_euler, ho3
from fewstep.samplers.solvers.exponential_rk import step_rows
from fewstep.samplers.solvers.sde_dpm import TAU_MOST

_SCHEMES: Mapping[int, Callable[[float], Scheme]] = {1: exp_euler, 2: lambda z: etd2(z, 0.5, weak=True), 3: ho3}


def _order(options: Mapping[str, Any]) -> int:
    return opt.whole("seeds", "order", options["order"], 3)


@solver(
    "seeds", order=2, prediction="eps", stochastic=True, reference=ref.SEEDS, calls=_order, singular_ends="start end"
)
def seeds(path: Path, *, order: int = 2, form: str = "eps", tau: float = 1.0) -> Solution:
    """SEEDS-1, -2, -3: one, two or three stages on one Brownian path. Weak order min(order, 2); `order` evaluations a step.

    order 2, on eps (published; tau = 1, h = lam_t - lam_s, m half-way):
        X = (alpha_m/alpha_s) x - 2 sigma_m (e^(h/2) - 1) eps(x) + sigma_m sqrt(e^h - 1) z1
        x_t = (alpha_t/alpha_s) x - 2 sigma_t (e^h - 1) eps(X) + sigma_t [sqrt(e^2h - e^h) z1 + sqrt(e^h - 1) z2]
    order 3: nodes 1/3 and 2/3. form "x0": the same on x0, which is far milder in few steps, as eps forms grow like e^h.
    tau = 0 is DPM-Solver (eps) and DPM-Solver++ (x0). Weak order 3 needs tau = 0.
    """
    order, form = _order({"order": order}), opt.form("seeds", form)
    tau = opt.number("seeds", "tau", tau, TAU_MOST)
    rows = [row for calls, s, t in path.steps() for row in step_rows(path, s, t, form, _SCHEMES[calls], tau)]
    if not tau:
        return Solution(rows, order)
    return Solution(rows, min(order, 2), conserves="x0 eps" if form == "x0" else "x0")


@solver(
    "dpmpp_sde", order=2, prediction="x0", stochastic=True, reference=ref.DPMPP, calls=2, singular_ends="start end",
    aliases=("DPM++ SDE", "DPMSolverSDEScheduler"),
)  # fmt: skip
def dpmpp_sde(path: Path, *, tau: float = 1.0, r: float = 0.5, variant: str = "midpoint") -> Solution:
    """DPM-Solver++ SDE, two stages on one Brownian path: at r = 1/2 `seeds` of order 2 on x0. 2 evaluations a step.

    Stage at lam_s + r h with noise z1, step with the same z1, decayed, and z2 of the rest of the interval. Weak order 2;
    independent noises would be of order 1; at r = 1 both stages have all of it. variant "midpoint": weights 1 - 1/2r and
    1/2r; "heun": phi_2 weights.
    """
    tau, r = opt.number("dpmpp_sde", "tau", tau, TAU_MOST), opt.fraction("dpmpp_sde", "r", r)
    weak = opt.one_of("dpmpp_sde", "variant", variant, ("midpoint", "heun")) == "midpoint"
    schemes: Mapping[int, Callable[[float], Scheme]] = {1: exp_euler, 2: lambda z: etd2(z, r, weak)}
    return Solution(
        [row for calls, s, t in path.steps() for row in step_rows(path, s, t, "x0", schemes[calls], tau)], 2
    )
