"""Samplers of networks that answer with data, beside `renoise`: consistency models and trajectory consistency."""

from __future__ import annotations

from math import floor, sqrt

from fewstep.samplers.building import options as opt
from fewstep.samplers.building import references as ref
from fewstep.samplers.building.path import Path, Solution
from fewstep.samplers.building.solver_entry import solver
from fewstep.samplers.schedule.base import Node
from fewstep.samplers.schedule.discrete import Discrete
from fewstep.samplers.solvers.ancestral import with_jumps
from fewstep.samplers.solvers.multistep import euler
from fewstep.samplers.table.row import Row, noise


@solver(
    "consistency", order=0, prediction="x0", stochastic=True, reference=ref.CONSISTENCY,
    aliases=("CMStochasticIterativeScheduler", "consistency_multistep", "cm"),
)  # fmt: skip
def consistency(path: Path, *, s_noise: float = 1.0) -> Solution:
    """Multistep consistency sampling, x_t = alpha_t x0 + sqrt(sigma_t^2 - (alpha_t rho_min)^2) s_noise z. Order 0.

    A consistency model answers with a sample of level rho_min = sigma / alpha at the schedule's t_min, which needs that much
    less noise; `renoise` takes it as clean. 1 evaluation a step.
    """
    s_noise = opt.number("consistency", "s_noise", s_noise, 2.0)
    least = path.schedule.node(path.schedule.t_min).rho
    rows = []
    for _, s, t in path.steps():
        c = s_noise * sqrt(max(t.sigma**2 - (t.alpha * least) ** 2, 0.0))
        rows.append(Row(s, "x0", {0: t.alpha, **({noise(s, t): c} if c else {})}))
    return Solution(rows, order=0, conserves="x0")


@solver("tcd", order=0, prediction="x0", stochastic=True, reference=ref.TCD, aliases=("TCDScheduler",))
def tcd(path: Path, *, gamma: float = 0.3) -> Solution:
    """Strategic stochastic sampling: a DDIM step from t_k down to (1 - gamma) t_{k+1}, noise up to t_{k+1}, but for the last.

    (1 - gamma) t is a whole training step on discrete schedules. gamma: 0 (`ddim`) to 1 (`renoise`, but for the level of the
    first training step). For networks distilled so; with others, order 1 at gamma = 0 and 0 else. 1 evaluation a step.
    """
    gamma = opt.number("tcd", "gamma", gamma, 1.0)
    if gamma == 0:
        return euler(path)
    last = len(path.groups) - 1
    landings = {k: _landing(path, t, gamma) for k, t in enumerate(path.nodes[1:]) if k < last}
    part = with_jumps(Path(path.schedule, path.nodes, path.groups, landings), euler)
    return Solution(part.rows, part.order, conserves=part.conserves)  # a resumed run finds the landings again


def _landing(path: Path, t: Node, gamma: float) -> Node:
    """The node of (1 - gamma) t, in the time that the network is shown."""
    schedule = path.schedule
    shown = float(schedule.model_time(t.t))
    if isinstance(schedule, Discrete):
        return schedule.node(schedule.time_of_model(float(floor((1 - gamma) * shown + 1e-6))))
    return schedule.node(max((1 - gamma) * t.t, 0.0))
