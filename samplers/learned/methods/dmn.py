"""dmn: a grid from the table alone, without a network.

Every solver that is a table makes its result of x_T and of the x0 that the network predicted on the way. With those off by
rho^power at rho = sigma / alpha,

    x_N = A x_T + sum_j beta_j x0_j,      |x_N - what it would be without those errors| <= sum_j |beta_j| rho_j^power,

whatever the outputs m_j = (A_j - B_j alpha_j / sigma_j) x0_j + B_j x_j / sigma_j that it combines. The bound is minimised over
the coordinates c of the inner times, with gaps bounded from below.
"""

from __future__ import annotations

import numpy as np

from fewstep.checks import positive, whole
from fewstep.lazy import optional
from fewstep.samplers.artefact.corrections import on_times
from fewstep.samplers.building.resuming import boundaries
from fewstep.samplers.grids.coordinate import FAINTEST, Coordinate
from fewstep.samplers.learned.playing.arithmetic import quick, unrolled
from fewstep.samplers.learned.tasks.learner_entry import learner
from fewstep.samplers.learned.tasks.learner_task import Task
from fewstep.samplers.schedule.base import Array
from fewstep.samplers.schedule.outputs import form_pair
from fewstep.samplers.table.tableau import Tableau

with optional("learning"):
    from scipy.optimize import LinearConstraint, minimize

SMALLEST = 0.6  # gap, as a share of that of the grid uniform in c: the bound alone would let steps vanish


def predicted_weights(table: Tableau) -> Array:
    """beta (nfe,): weights of the predicted x0 in the result, every output written as x0 and the state it was made at."""
    alpha, sigma = table.nodes.alpha[:-1], table.nodes.sigma[:-1]
    A, B = np.array([[float(np.mean(part)) for part in form_pair(form)] for form in table.forms]).T
    made = unrolled(table)
    before = np.eye(table.nfe) - (B / sigma)[:, None] * made.outputs[:-1]
    return np.asarray(np.linalg.solve(before.T, made.outputs[-1]) * (A - B * alpha / sigma))


def bound(table: Tableau, power: float) -> float:
    """sum_j |beta_j| rho_j^power."""
    alpha, sigma = table.nodes.alpha[:-1], table.nodes.sigma[:-1]
    rho = sigma / np.maximum(alpha, FAINTEST * sigma)
    return float((np.abs(predicted_weights(table)) * rho**power).sum())


@learner(
    "dmn",
    learns=("grid",),
    reference="Accelerating Diffusion Sampling with Optimized Time Steps; Xue et al.; 2024; arXiv:2402.17376",
    calls=False,
    paths=False,
)
def dmn(task: Task, start: Tableau, *, power: float = 2.0, steps: int = 100) -> Tableau:
    """The grid that bounds the solver's error least if the network errs by (sigma / alpha)^power; no network calls.

    Args:
        power: of the assumed error. steps: of the optimiser, from each of three grids: the start's own, uniform in c, and
            one denser where sigma falls fastest.

    Raises:
        ValueError: power below 0, a solver with weights by element.
    """
    positive("power", power, zero=True)
    whole("steps", steps)
    if start.elementwise:
        raise ValueError(
            f"method 'dmn' needs one weight a row; those of {start.name} differ between elements: take 'oss'"
        )
    ends = boundaries(start)
    n = len(ends) - 1
    if n == 1:
        return on_times(start, ends)
    axis = Coordinate(start.schedule, float(ends[0]), float(ends[-1]))
    c = np.asarray(axis.c(ends))
    begins = (c, np.linspace(c[0], c[-1], n + 1), np.asarray(axis.c(axis.dense(n))))
    found = [_least(start, axis, begin, power, steps) for begin in begins]
    return on_times(start, _times(axis, min(found, key=lambda pair: pair[0])[1]))


def _times(axis: Coordinate, c: Array) -> Array:
    times = axis.t(c)
    times[[0, -1]] = axis.t_start, axis.t_end
    return times


def _least(start: Tableau, axis: Coordinate, begin: Array, power: float, steps: int) -> tuple[float, Array]:
    """(bound, c) at a local minimum."""
    n = len(begin) - 1
    differences = np.diff(np.eye(n + 1), axis=0)
    least = np.full(n, SMALLEST * (begin[-1] - begin[0]) / n)
    fixed = differences[:, [0, -1]] @ begin[[0, -1]]

    def with_ends(inner: Array) -> Array:
        return np.concatenate([begin[:1], inner, begin[-1:]])

    def objective(inner: Array) -> float:
        c = with_ends(inner)
        if np.diff(c).min() <= 0.1 * least[0]:  # a step of the line search beyond the constraints
            return 50.0
        return float(np.log(max(bound(quick(start, _times(axis, c)), power), 1e-300)))

    gaps = LinearConstraint(differences[:, 1:-1], least - fixed, np.inf)
    own = begin[1:-1] if np.diff(begin).min() > least[0] else np.linspace(begin[0], begin[-1], n + 1)[1:-1]
    found = minimize(objective, own, method="SLSQP", constraints=[gaps], options={"maxiter": steps, "ftol": 1e-7})
    ended = with_ends(np.asarray(found.x))
    if not np.isfinite(found.fun) or np.diff(ended).min() <= 0:
        ended = with_ends(own)
    return objective(ended[1:-1]), ended
