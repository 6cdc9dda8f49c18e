"""The default: what is cheap and certain first, everything in competition.

best fixed recipe --> a grid found with the solver's own states --> weights in closed form on both
                  --> the same on grids that begin later than x_T, from the best of these
                  --> from the best of all these, grid, weights and network times together
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

from ..tableau import Tableau
from .method import method
from .playing import has_gradients
from .task import Task

OURS = "ours: switches by trial, oss, iia, late and newton in this order, as they are cited there"
SMALL = 256  # numbers of a sample up to which a network is taken to be cheap
FEW = 6  # evaluations up to which joint may turn all weights: where steps are this long no order is there to be kept
RATE = 0.05  # of joint, half of its own: batches are small and steps few
ALL: dict[str, Any] = {"free": ("grid", "coef", "tau", "state"), "window": None, "consistent": False}


def refined(options: Mapping[str, Any]) -> tuple[str, ...] | None:
    """The stages that `refine` names. ValueError for others."""
    refine = options.get("refine")
    named = (refine,) if isinstance(refine, str) else refine
    for name in named or ():
        if name not in ("newton", "joint"):
            raise ValueError(f'auto: `refine` lists "newton" and "joint"; got {name!r}')
    return None if named is None else tuple(named)


@method("auto", learns=("grid", "coef", "tau"), reference=OURS, paths=False, check=refined)
def auto(
    task: Task,
    start: Tableau,
    *,
    refine: str | Sequence[str] | None = None,
    samples: int = 64,
    steps: int = 50,
    batch: int = 16,
    remember: bool = True,
) -> Tableau:
    """The best of several ways to a table, judged on the validation seeds.

    refine: in turn, "newton", which needs no gradients of the network, and "joint", which is left out where there are none.
    None takes joint, and newton before it where a sample is small or there are no gradients. Joint keeps a constant x0 and
    eps exact from 7 evaluations up; below, every weight is free. samples: of newton. steps,
    batch, remember: of joint. On stochastic solvers, whose references have no states on the way, only these are left.

    Raises:
        ValueError: another word in `refine`.
    """
    refine = refined({"refine": refine})
    if task.teacher.follows:
        bases = [start]
        if task.nfe > 1:
            bases.append(task.run("oss", start, nodes=4 + 4 * task.nfe, samples=min(samples, 12)))
        for base in bases:
            task.run("iia", base)
        assert task.best is not None
        if task.nfe > 1:
            task.run("late", task.best, samples=samples)
    assert task.best is not None
    slopes = has_gradients(task.valid_parts(), float(start.times[0]))
    if refine is None:
        refine = ("newton", "joint") if prod(task.problem.shape) <= SMALL or not slopes else ("joint",)
    if "newton" in refine:
        task.run("newton", task.best, rounds=6, samples=samples)
    if "joint" in refine and slopes:
        how: dict[str, Any] = {"steps": steps, "batch": batch, "lr": RATE, "rounds": 1, "remember": remember}
        task.run("joint", task.best, **how, **(ALL if task.nfe <= FEW else {}))
    return task.best
