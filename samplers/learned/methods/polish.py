"""polish: a table's knobs turned one at a time, each as far as the error keeps falling; no gradients.

A knob that helps is turned further next time, one that does not half as far: Hooke and Jeeves' pattern search without its
pattern move, on the error of the samples themselves. Any network will do, compiled, quantised or behind a pipeline, and any
solver, with noise or without.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from torch import Tensor

from fewstep.checks import whole
from fewstep.samplers.learned.descent.curvature import differ
from fewstep.samplers.learned.parameters.knobs import Knobs
from fewstep.samplers.learned.tasks.learner_entry import learner
from fewstep.samplers.learned.tasks.learner_task import Task, enough, score
from fewstep.samplers.table.tableau import Tableau

MEASURES: dict[str, Callable[[Tensor], float]] = {
    "mse": lambda errors: float(errors.mean()),
    "score": score,
    "log": lambda errors: float(errors.log().mean()),
}
FIRST = {"grid": 0.3, "tau": 0.3, "coef": 0.1, "state": 0.01}  # how far each kind of knob is turned at first
FURTHER, LESS, SMALLEST = 1.6, 0.5, 1e-3


@learner(
    "polish",
    learns=("grid", "coef", "tau"),
    reference="Direct search solution of numerical and statistical problems; Hooke, Jeeves; Journal of the ACM, 1961",
    paths=False,
)
def polish(
    task: Task,
    start: Tableau,
    *,
    free: Sequence[str] = ("grid", "coef", "tau"),
    window: int = 3,
    consistent: bool = True,
    evaluations: int = 200,
    samples: int = 128,
    measure: str = "mse",
) -> Tableau:
    """Grid, weights and network times, turned one at a time while the error of the training samples falls.

    Network evaluations a sample: `evaluations` x nfe at most, and those of the validation seeds after every round.

    Args:
        free, window, consistent: what may be turned, see `Knobs`. evaluations: tables tried, at most. samples: training
            samples. measure: what falls: "mse", "score" (of rms and median alike) or "log" (mean logarithm).
    """
    if measure not in MEASURES:
        raise ValueError(f"`measure` must be one of {', '.join(MEASURES)}; got {measure!r}")
    whole("evaluations", evaluations, hint="It counts the tables that are tried")
    parts, knobs = task.some_parts(samples), Knobs(start, task.problem.prediction, free, window, consistent)
    enough(knobs.count, task.train[:samples], "method 'polish'")
    error: Callable[[Tableau], float] = lambda table: MEASURES[measure](task.errors(table, parts, task.loss))  # noqa: E731
    steps = {(name, i): FIRST[name] for name, values in knobs.parameters.items() for i in range(len(values))}
    best, least, tried, began = start, error(start), 1, time.monotonic()
    while tried < evaluations and max(map(abs, steps.values()), default=0.0) > SMALLEST:
        for (name, i), step in steps.items():
            old = knobs.values()
            for way in (step, -step):
                new = {key: value.clone() for key, value in old.items()}
                new[name][i] += way
                knobs.set(new)
                table = knobs.table()
                found = error(table) if differ(table, best) else least
                tried += 1
                if found < least:
                    best, least, steps[name, i] = table, found, FURTHER * way
                    break
            else:
                knobs.set(old)
                steps[name, i] = LESS * step
            late = task.seconds is not None and time.monotonic() - began > task.seconds
            if tried >= evaluations or late:
                break
        task.offer(best, min(tried, evaluations), evaluations)
        if late:
            break
    return best
