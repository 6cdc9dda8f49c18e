"""Noise and the sample that belongs to it: what a table with few evaluations is to draw from the same noise."""

from __future__ import annotations

from itertools import pairwise
from math import inf, prod

import torch
from torch import Tensor

from fewstep.adjoint.tuning.losses.loss_entry import tuning_loss
from fewstep.adjoint.tuning.losses.loss_scene import Scene
from fewstep.checks import unknown
from fewstep.samplers.building.compiling import build
from fewstep.samplers.building.resuming import boundaries
from fewstep.samplers.table.tableau import Tableau

TARGETS = ("teacher", "double")
WAYS = ("through", "along")


@tuning_loss(
    "pairs",
    reference="Flow Straight and Fast: Learning to Generate and Transfer Data with Rectified Flow, Liu, Gong, Liu, 2022, "
    "arXiv:2209.03003; Rectified Diffusion, Wang et al., 2024, arXiv:2410.07303; Progressive Distillation for Fast Sampling of "
    "Diffusion Models, Salimans, Ho, 2022, arXiv:2202.00512",
    needs=("teacher",),
    spares=lambda options: options.get("to") == "double" and options.get("way") != "along",
)
def pairs(scene: Scene, *, to: str = "teacher", way: str = "through") -> Tensor:
    """|x0 - x0*|^2 / d, x0* the end of a long run from the same noise.

    to: "teacher", or "double", the untouched network by the same solver with twice the evaluations (progressive: tune again
    what came out, for half as many). way: "through" the table, by exact gradients; "along" the line alpha x0* + sigma eps of
    a pair, |D(x_t, t) - x0*|^2 at the times that the table asks for, one network call (reflow, rectified diffusion).
    """
    if to not in TARGETS:
        raise unknown("target of pairs", to, TARGETS)
    if way not in WAYS:
        raise unknown("way of pairs", way, WAYS)
    truth = scene.truth if to == "teacher" else doubled(scene)
    if way == "through":
        return _distance(scene.x0, truth)
    t = scene.a_time()
    return _distance(scene.ask("x0", scene.between(t), t), scene.truth)


@tuning_loss("hold", reference="", needs=("teacher",), alone=False)
def hold(scene: Scene) -> Tensor:
    """|o - o'|^2 / d of the network's output and what it was before, on the line of noise and sample: beside another loss."""
    t = scene.a_time()
    x = scene.between(t)
    with torch.no_grad(), scene.around.untouched():
        before = scene.ask("", x, t)
    return _distance(scene.ask("", x, t), before)


def doubled(scene: Scene) -> Tensor:
    """Samples of the untouched network by the table's solver with twice the evaluations, drawn once."""
    memo, key = scene.around.memo, ("double", scene.part.seeds)
    if key not in memo:
        table = memo.setdefault("double", _twice(scene.table))
        with torch.no_grad(), scene.around.untouched():
            memo[key] = scene.around.problem.draw(table, scene.part)
    found: Tensor = memo[key]
    return found


def _twice(table: Tableau) -> Tableau:
    """The solver of a table on its own boundaries and the middle of each of its steps, in log-SNR."""
    schedule, times = table.schedule, [float(t) for t in boundaries(table)]
    path = times[:1]
    for s, t in pairwise(times):
        lams = [float(schedule.lam(end)) for end in (s, t)]
        bounded = max(abs(lam) for lam in lams) < inf
        path += [float(schedule.t_of_lam(0.5 * sum(lams))) if bounded else 0.5 * (s + t), t]
    return build(table.name, schedule, None, path, **table.options)


def _distance(x: Tensor, y: Tensor) -> Tensor:
    return (x.double() - y.double()).square().sum() / (len(x) * prod(x.shape[1:]))
