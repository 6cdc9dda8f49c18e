"""Parallel sampling: all steps of a window at once, again and again until they agree (ParaDiGMS).

A one-step table is a chain of maps, with its noises drawn beforehand,

    x_{k+1} = f_k(x_k) = a_k x_k + b_k x0(x_k, t_k) + c_k z_k.

A Picard sweep replaces the trajectory X_f .. X_{f+w} by X_f plus the increments f_k(X_k) - X_k of its steps. Written with
residuals r_{k+1} = f_k(X_k) - X_{k+1}, that is

    X_{k+1} <- f_k(X_k) + sum_{f < i <= k} r_i,

where nothing large is added up: step f is exact in every sweep, a converged trajectory does not move, and after at most N
sweeps the result is that of the N steps one after another. Steps of a window need one network call, of w times the batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from fewstep.samplers.building import options as opt
from fewstep.samplers.building import references as ref
from fewstep.samplers.building.compiling import build
from fewstep.samplers.building.solver_entry import SOLVERS, driver
from fewstep.samplers.drivers import across_processes
from fewstep.samplers.drivers.base_tables import bar, explicit, table
from fewstep.samplers.drivers.driven_run import Outcome, Task
from fewstep.samplers.drivers.picard_sweeps import StepMaps, Sweeps
from fewstep.samplers.table.tableau import Tableau

STEPS = 50  # by default


@driver("picard", order=1, prediction="x0", reference=ref.PARADIGMS)
@torch.no_grad()
def picard(
    task: Task,
    *,
    base: str = "ddim",
    window: int = 32,
    tolerance: float = 1e-3,
    max_sweeps: int | None = None,
    base_options: Mapping[str, Any] | None = None,
    shard: bool = True,
) -> Outcome:
    """The result of `nfe` steps of a one-step solver in far fewer network calls one after another, and more evaluations.

    nfe: steps N (50 by default, or the intervals of an explicit grid). Info.calls are the sweeps, Info.nfe the
    evaluations of a sample in all of them. The order is the base's.

    base, base_options: a one-step table, ODE or SDE. window: steps a sweep, w. tolerance: a step is done when it
    and all before it moved by at most tolerance * std in a sweep (root mean square over the sample), std being the posterior
    deviation sigma_t sqrt(1 - e^(-2h)) of the step; the end then differs by about ten times that. max_sweeps: limit.
    shard: share the steps of a window over the processes of torch.distributed where it is initialised; all must make the
    same call, and get the first one's noise and the same result.

    Every sample has a window of its own, and its result is that of the sample alone. Without the denoiser's
    `vector_time` the steps of a window are evaluated one by one: right, but not faster. Callback and hook see, after each
    sweep, the last step that all samples have done; a state that the hook moves is gone on from. Gradients do not pass.

    Raises: ValueError for a base that is no one-step table, window or max_sweeps < 1, a tolerance that is not positive.
    """
    window = opt.whole("picard", "window", window, most=10**9)
    (tolerance,) = opt.positive("picard", tolerance=tolerance)
    limit = None if max_sweeps is None else opt.whole("picard", "max_sweeps", max_sweeps, most=10**9)
    shared = bool(opt.one_of("picard", "shard", shard, (True, False))) and across_processes.count() > 1
    tableau = _base(task, base, base_options)
    run = Sweeps(task, StepMaps.of(tableau, task, shared), window, tolerance, shared)
    with bar(task, "picard", tableau.nfe, "step") as shown:
        while run.done() < tableau.nfe and (limit is None or run.sweeps < limit):
            run.sweep()
            shown.update(run.done() - shown.n)
    status = "done" if run.done() == tableau.nfe else "max_sweeps"
    return Outcome(run.latest(), run.spent, run.calls, run.done(), status=status)


def _base(task: Task, base: str, options: Mapping[str, Any] | None) -> Tableau:
    """The base's table of N steps."""
    tableau = table(task, base, task.nfe or (None if explicit(task.grid) else STEPS), options)
    if not one_step(tableau):
        possible = []
        for name, entry in SOLVERS.items():
            if entry.kind == "tableau":
                times = np.geomspace(0.9, 0.1, 5) * task.schedule.t_max
                try:
                    possible += [name] * one_step(build(name, task.schedule, grid=times))
                except ValueError:  # not for this schedule
                    continue
        raise ValueError(
            f"picard: `base` must be a one-step solver, whose rows read the state, one output and noise alone; {base!r} "
            f"with these options is not. Possible here: {', '.join(possible)}"
        )
    return tableau


def one_step(tableau: Tableau) -> bool:
    """Whether every row is a map of the state before it: no history, no anchor, no stages."""
    W = tableau.W
    return tableau.history == 1 and bool(np.array_equal(W[:, 0], W[:, 1]))
