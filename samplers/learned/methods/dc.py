"""dc: dynamic compensation, one ratio a step, each where the next state comes closest to the teacher's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from fewstep.samplers.learned.fitting.on_policy import OnPolicy
from fewstep.samplers.learned.tasks.learner_entry import learner
from fewstep.samplers.learned.tasks.learner_task import Task, enough
from fewstep.samplers.ratios.cascade import Cascade
from fewstep.samplers.ratios.compensation import Compensation, compensated
from fewstep.samplers.schedule.base import Array
from fewstep.samplers.table.tableau import Tableau

DC = "DC-Solver: Improving Predictor-Corrector Diffusion Sampler via Dynamic Compensation; Zhao et al.; 2024; arXiv:2409.03755"  # noqa: E501


def learned_ratios(task: Task, start: Tableau, time: str = "t", bounds: tuple[float, float] = (0.5, 1.5)) -> Array:
    """(nfe,) ratios, one after the other so that the next state comes closest to the teacher's; no call beyond the run's.

    With d = rho - 1 the distance |r - w (d a + d^2 c)|^2 is a polynomial of degree four: its least point is among the roots
    of its derivative and the bounds.
    """
    way, plan = OnPolicy(task, start, "dc"), Compensation(start, time)
    enough(len(plan.free), task.train, "dc")
    ratios = np.ones(start.nfe)
    for k in range(start.nfe):
        way.call(k)
        if k in plan.free:
            toward = plan.weight(k) * plan.bends(k)[:, k::-1]
            found = way.products(k, plan.lines(k), toward)
            (aa, ac), (_, cc) = found.regressors.sum(0)
            a, c = found.missing.sum(0)
            ratios[k] = 1 + _least(np.array([cc, 2 * ac, aa - 2 * c, -2 * a, 0.0]), bounds[0] - 1, bounds[1] - 1)
            plan.set(k, ratios[k])
        way.advance(k, plan.lines(k))
    return ratios


def _least(polynomial: Array, low: float, high: float) -> float:
    """Where a polynomial, highest power first, is least in [low, high]; 0 where nothing is less."""
    roots = np.roots(np.polyder(polynomial))
    inside = [float(z.real) for z in roots if abs(z.imag) < 1e-9 * max(1.0, abs(z)) and low < z.real < high]
    return min([0.0, low, high, *sorted(inside)], key=lambda d: float(np.polyval(polynomial, d)))


@learner("dc", learns=("coef",), reference=DC)
def dc(
    task: Task,
    start: Tableau,
    *,
    time: str = "t",
    bounds: tuple[float, float] = (0.5, 1.5),
    cascade: bool | Cascade | Mapping[str, Any] | None = None,
) -> Tableau:
    """Dynamic compensation: one ratio a step by which the newest output is moved along the parabola of the last three.

    Args:
        task: Task. start: deterministic table of one call a step. time: coordinate of the parabola, "t" (that of the
            schedule, as published for discrete ones) or "lam". bounds: of the ratios.
        cascade: True: `learn` over several evaluations or guidances also fits their ratios by one smooth function (CPR of
            the paper), so that the artefact has a table for those between. Cascade or its content: the ratios are its own for
            the problem's guidance, and nothing is learned.

    Raises:
        ValueError: an option outside its range, steps of several calls, noise, fewer samples than ratios.

    Reference: DC-Solver: Improving Predictor-Corrector Diffusion Sampler via Dynamic Compensation; Zhao, Wang, Zhou, Lu;
    2024; arXiv:2409.03755. Exact minima, of distances to the teacher at the next node, in place of gradient descent.
    """
    if not (len(bounds) == 2 and -np.inf < bounds[0] <= 1 <= bounds[1] < np.inf):
        raise ValueError(f"dc: `bounds` must be two finite numbers around 1, such as (0.5, 1.5); got {bounds!r}")
    if cascade is None or isinstance(cascade, bool):
        ratios = learned_ratios(task, start, time, (float(bounds[0]), float(bounds[1])))
    else:
        known = cascade if isinstance(cascade, Cascade) else Cascade(**cascade)
        guidance = task.problem.guidance
        if guidance is None and known.guidance[0] < known.guidance[1]:
            low, high = known.guidance
            raise ValueError(f"dc: the cascade depends on guidance, {low:g} to {high:g}: say which, guidance=")
        ratios = known.ratios(start.nfe, known.guidance[0] if guidance is None else guidance)
    table = compensated(start, ratios, time)
    if table is not start:
        task.offer(table)
    return table
