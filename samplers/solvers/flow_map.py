"""Flow maps: networks that answer for a whole step, shown where it begins and where it ends."""

from __future__ import annotations

from math import log, sqrt

from fewstep.samplers.building import options as opt
from fewstep.samplers.building import references as ref
from fewstep.samplers.building.path import Path, Solution
from fewstep.samplers.building.solver_entry import solver
from fewstep.samplers.schedule.base import Node
from fewstep.samplers.solvers.ancestral import with_jumps
from fewstep.samplers.solvers.multistep import euler


@solver(
    "flow_map", order=1, prediction="x0", reference=ref.FLOW_MAP,
    aliases=("FlowMapEulerDiscreteScheduler", "meanflow", "ctm", "anyflow"),
)  # fmt: skip
def flow_map(path: Path, *, gamma: float = 0.0) -> Solution:
    """Steps of a flow map: x_r = x_t - (t - r) u(x_t, t, r) on flows, x_r = (r / t) x_t + (1 - r / t) g(x_t, t, r) on VE.

    On every schedule the first-order row of the answer, exact at any number of steps where the network is. 1 evaluation a
    step. gamma: 0 to 1, as in CTM: the network leads to sqrt(1 - gamma^2) of the next level (sigma / alpha), noise from there
    up; 1 is the multistep sampler of consistency models. The network is shown both times by Denoiser(..., two_times=True);
    with one that knows one time these are DDIM's steps.
    """
    gamma = opt.number("flow_map", "gamma", gamma, 1.0)
    if gamma == 0:
        return euler(path)
    landings = {k: _down(t, gamma) for k, t in enumerate(path.nodes[1:]) if t.sigma > 0}
    part = with_jumps(Path(path.schedule, path.nodes, path.groups, landings), euler)
    return Solution(part.rows, part.order, conserves=part.conserves)


def _down(t: Node, gamma: float) -> Node:
    """The point below t from where noise of deviation gamma sigma_t leads up to it."""
    sigma = sqrt(1 - gamma**2) * t.sigma
    return Node(t.t, t.alpha, sigma, log(t.alpha / sigma) if sigma > 0 else float("inf"))
