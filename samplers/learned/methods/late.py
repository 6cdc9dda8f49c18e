"""late: a grid that begins later, so that no evaluation is spent where there is nothing to be seen yet.

x_T is taken as the state at t' < t_max. With z its noise, the flow that starts from it is there at

    x(t') = sigma(t') z + alpha(t') x0 + ...,      alpha(t') << 1 = sigma(t_max),

which differs from x_T by the faint alpha x0 and by sigma(t') / sigma(t_max). The size is known and is put right (`begins` of
the table): that is the analytic first step, whose answer at pure noise is x0 = 0. alpha x0 is small on variance-preserving
schedules down to a half of their time, and wherever noise is five times the data.

At t_max a network can answer only with the mean of the data; later it already sees x0 in the noise,
and each later call is nearer to the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from fewstep.samplers.artefact.corrections import begun, on_times
from fewstep.samplers.building.resuming import boundaries
from fewstep.samplers.grids.coordinate import Coordinate
from fewstep.samplers.learned.methods.iia import iia
from fewstep.samplers.learned.tasks.learner_entry import learner
from fewstep.samplers.learned.tasks.learner_task import Task
from fewstep.samplers.schedule.base import Array
from fewstep.samplers.table.tableau import Tableau

STILL = 0.02  # how much the size of the noise may change up to t' and count as none
FAINT = 0.2  # alpha / sigma up to t', where the size is put right
LEAST = 0.1  # of a step: less room than that is none


def later(table: Tableau, share: float) -> Array:
    """Boundaries of a table without the first `share` of a step, the rest divided as before.

    Interpolated in c of `Coordinate`: at share 1 they begin where the second step did.
    """
    times = boundaries(table)
    axis, steps = Coordinate(table.schedule, float(times[0]), float(times[-1])), len(times) - 1
    at = share + (steps - share) * np.arange(steps + 1) / steps
    moved = axis.t(np.interp(at, np.arange(steps + 1), axis.c(times)))
    moved[-1] = times[-1]
    return np.asarray(moved)


def room(table: Tableau) -> float:
    """The largest share up to 1 at which x_T is nearly all noise of the state: by its own size to 2 %, or by alpha / sigma."""
    schedule, shares = table.schedule, np.linspace(0, 1, 101)
    times = np.array([later(table, share)[0] for share in shares])
    still = np.abs(schedule.sigma(times) / schedule.sigma(schedule.t_max) - 1) <= STILL
    faint = schedule.nodes(times).rho * FAINT >= 1
    return float(shares[still | faint].max(initial=0.0))


def begun_later(table: Tableau, share: float) -> Tableau:
    """The base solver of a table on `later`, whose first state is x_T brought to the size that its noise has there."""
    made = on_times(table, later(table, share))
    size = begun(table.schedule, float(made.times[0]))
    return made if abs(size - 1) <= STILL else replace(made, begins=size)


@learner(
    "late",
    learns=("grid", "coef"),
    reference="ours; leaving away the first evaluation as in Dockhorn, Vahdat, Kreis, GENIE: Higher-Order Denoising Diffusion "
    "Solvers, 2022, arXiv 2210.05475",
)
def late(
    task: Task, start: Tableau, *, shares: Sequence[float] = (0.5, 0.75, 1.0), samples: int = 64, limit: float = 10.0
) -> Tableau:
    """Grids that begin later than x_T, each with weights in closed form (`iia`), which a late start cannot do without.

    x_T lacks the alpha x0 of the state that it is taken for: weights that keep a constant x0 exact would keep the lack.
    Network evaluations: for every share nfe a sample, and those of the validation seeds.

    Args:
        shares: how much of the first step is left away, in parts of the `room` that there is, a whole step at most.
        samples: of the training seeds. limit: of weights, see `iia`.

    Returns:
        The best on the validation seeds; `start` where none is better, or there is no room.

    Raises:
        ValueError: shares outside (0, 1], a table with noise.
    """
    if not all(0 < share <= 1 for share in shares):
        raise ValueError(
            f"late: `shares` are parts of a step to leave away, above 0 and at most 1; got {tuple(shares)!r}"
        )
    there = room(start) if len(start.groups) > 1 else 0.0
    if there < LEAST:
        return start
    few, found = replace(task, train=task.train[:samples]), start
    for share in shares:
        table = iia(few, begun_later(start, there * share), consistent=False, limit=limit)
        found = min((found, table), key=task.judge)
    return found
