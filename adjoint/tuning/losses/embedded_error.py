"""The error that a table can see of itself: its step with x0 held, against the same with x0 on a line through the last two.

In u = x / alpha and rho = sigma / alpha the flow is d(u / rho) = x0 d(1 / rho). With the slope of the predicted x0,
s = (D_k - D_{k-1}) / (rho_k - rho_{k-1}), the two differ over a step by

    e_k = alpha_{k+1} s [rho_{k+1} (1 + log(rho_k / rho_{k+1})) - rho_k],

no network call more, and finite where rho_{k+1} is 0. It is zero where x0 does not change on the way: the flow is straight.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from fewstep.adjoint.tuning.losses.loss_entry import tuning_loss
from fewstep.adjoint.tuning.losses.loss_scene import Scene
from fewstep.checks import unknown
from fewstep.samplers.sampling.loop import sample

ROWS = ("all", "random")


@tuning_loss(
    "error",
    reference="Opening the Blackbox: Accelerating Neural Differential Equations by Regularizing Internal Solver Heuristics, "
    "Pal, Ma, Shah, Rackauckas, 2021, arXiv:2105.03918; Locally Regularized Neural Differential Equations, Pal, Edelman, "
    "Rackauckas, 2023, arXiv:2303.02262",
    alone=False,
)
def error(scene: Scene, *, rows: str = "all") -> Tensor:
    """Mean over steps of |e_k|^2 / d along the run, with its gradient through the run.

    rows: "all", or "random": one step of each run, drawn anew (local regularisation).
    """
    if rows not in ROWS:
        raise unknown("rows of error", rows, ROWS)
    errors = embedded(scene)
    if not errors:
        raise ValueError("the embedded error needs two steps to compare: take a table of two evaluations at least")
    if rows == "random":
        errors = [errors[int(torch.randint(len(errors), (), generator=scene.generator))]]
    return torch.stack([e.double().square().mean() for e in errors]).mean()


def embedded(scene: Scene) -> list[Tensor]:
    """e_k of every step but the first, (B, *shape) each, with a graph."""
    schedule, part = scene.around.problem.schedule, scene.part
    seen: list[tuple[float, Tensor]] = []

    def keep(step: Any) -> None:
        seen.append((step.t, step.x0))

    own: dict[str, Any] = {"noise": "brownian", "noise_seeds": list(part.seeds)} if scene.table.stochastic else {}
    scene.around.problem.spent += len(part.seeds) * scene.table.nfe
    sample(part.denoiser, part.x_T, scene.table, callback=keep, check="none", **own)
    times = [float(scene.table.times[0]), *(t for t, _ in seen)]
    nodes = [schedule.nodes(t) for t in times]
    rho = [float(n.sigma) / float(n.alpha) if float(n.alpha) else math.inf for n in nodes]
    found = []
    for k in range(1, len(seen)):
        before, here, after = rho[k - 1], rho[k], rho[k + 1]
        if math.isinf(before) or before == here:
            continue  # a line from infinity is level
        grown = after * (1 + math.log(here / after)) if after > 0 else 0.0
        found.append(float(nodes[k + 1].alpha) * (grown - here) / (here - before) * (seen[k][1] - seen[k - 1][1]))
    return found
