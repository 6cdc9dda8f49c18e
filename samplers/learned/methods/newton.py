"""newton: all knobs of a table at once, by the linear effect of each on the result; no gradients of the network.

With r_s = x0_s(knobs) - x0_s(teacher) for every sample, and J_s its differences, one run of the sampler a knob, a round
solves

    (A + mu D) step = -sum_s w_s J_s' r_s,     A = sum_s w_s J_s' J_s,     w_s = |r_s|^-power,

and takes the step if the error falls, else a shorter one, with larger mu; D is the diagonal of A and a hundredth of its
mean. The curvature of a sum of squares comes with its slope: a few rounds go as far as hundreds of steps down a gradient.
power 0 lowers the mean square, which few samples own, power 1 the mean distance, power 2 the mean logarithm.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from fewstep.checks import whole, within
from fewstep.samplers.learned.descent.curvature import Fit
from fewstep.samplers.learned.parameters.knobs import Knobs
from fewstep.samplers.learned.tasks.learner_entry import learner
from fewstep.samplers.learned.tasks.learner_task import Task, enough
from fewstep.samplers.schedule.base import Array
from fewstep.samplers.table.tableau import Tableau

FIRST, CHANGE, TRIES = 1e-3, 5.0, 6  # mu at first, its factor, and steps tried in a round
FLOOR = 1e-2  # of D, as a share of its mean
FAR = 2.0  # the farthest any knob is turned at once
SETTLED = 1e-3  # relative fall of the error that ends it


def _error(squares: Array, fit: Fit) -> float:
    """What falls, infinite where a sample is not finite."""
    if not np.isfinite(squares).all():
        return float("inf")
    lifted = squares + fit.least
    return float(np.log(lifted).mean() if fit.power == 2 else (lifted ** (1 - fit.power / 2)).mean())


def _move(A: Array, g: Array, mu: float) -> Array:
    """The step (n,), no knob farther than FAR."""
    D = np.diag(A) + FLOOR * np.trace(A) / len(g)
    step = -np.linalg.solve(A + mu * np.diag(D), g)
    return np.asarray(step * min(1.0, FAR / max(float(np.abs(step).max()), FAR)))


@learner(
    "newton",
    learns=("grid", "coef", "tau"),
    reference="ours; least squares as in A method for the solution of certain non-linear problems in least squares; "
    "Levenberg; 1944, and An algorithm for least-squares estimation of nonlinear parameters; Marquardt; 1963",
    paths=False,
)
def newton(
    task: Task,
    start: Tableau,
    *,
    free: Sequence[str] = ("grid", "coef", "tau"),
    window: int | None = 3,
    consistent: bool = True,
    rounds: int = 8,
    power: float = 1.0,
    samples: int | None = None,
) -> Tableau:
    """Grid, weights and network times together, by Gauss-Newton steps from differences: any network, any solver, noise too.

    Network evaluations a sample: at most rounds x (knobs + 2) x nfe, less where a knob turns only later rows, which
    are played together, and those of the validation seeds after each round.

    Args:
        free, window (None: all outputs), consistent: what may be turned, see `Knobs`; not the grid of a table with noise,
            since a Brownian path has no derivative by the times at which it is looked at. rounds: at most; it ends when the
            error has settled. power: 0 to 2, of the weights above. samples: of the training seeds; None: all.

    Returns:
        The best on the validation seeds of all rounds, the start among them.

    Raises:
        ValueError: an option outside its range, fewer training samples than knobs.
    """
    whole("rounds", rounds)
    within("power", power, 0, 2, hint="0 takes squares, 1 distances, 2 logarithms")
    if start.stochastic:
        free = [name for name in free if name != "grid"]
    knobs = Knobs(start, task.problem.prediction, free, start.nfe if window is None else window, consistent)
    seeds = task.train[:samples]
    enough(knobs.count, seeds, "newton")
    count, began = knobs.size, time.monotonic()
    if not count:
        return start
    fit = Fit.on(task, knobs, seeds, power)
    values: Array = np.zeros(count)
    table, mu = start, FIRST
    best, best_score = start, task.offer(start)
    error = _error(fit.first, fit)
    for done in range(rounds):
        A, g = fit.equations(values, table)
        before = error
        for _ in range(TRIES if np.isfinite(A).all() and A.any() else 0):
            ahead = values + _move(A, g, mu)
            tried = fit.table(ahead)
            found = _error(fit.squares(tried), fit)
            if found < error:
                values, table, error, mu = ahead, tried, found, mu / CHANGE
                break
            mu *= CHANGE
        if error == before:
            break
        judged = task.offer(table, done + 1, rounds)
        if judged < best_score:
            best, best_score = table, judged
        late = task.seconds is not None and time.monotonic() - began > task.seconds
        if late or before - error < SETTLED * abs(before):
            break
    return best
