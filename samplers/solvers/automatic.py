"""`auto`: the solver that errs least on such steps, read off the path itself, and the grid where that is free.

Measured on published configs at 4 to 50 evaluations, on mixtures whose flow is known, and on two networks, digits (a table of
betas) and colours (a flow). Where steps are even in the schedule's own time a polynomial in that time varies least (`deis`);
on levels as EDM and VE have them, and where a map of sigma has moved the steps, a predictor of x0 with its corrector stands
the long steps better (`unipc`), but not the few of less than six evaluations. So it does in few steps of a table of betas:
digits at 4 and 6 err .13, .08 for .22, .11.

From MANY evaluations on the steps themselves are the fault: even ones are few where the data appear, and `unipc` on `beta`,
which crowd there, errs about half as much on both networks (docs/measured/grids.json) and on nearly all configs. With fewer a
config's own steps stay: those that a model was distilled for are among them. With noise `beta` comes from NOISY on: a long last
step into the data returns its mean, and what is drawn is too narrow: at 10, on a flow shifted by 7, .68 wide, on `beta` .86.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from fewstep.samplers.building import options as opt
from fewstep.samplers.building.path import Path, Solution
from fewstep.samplers.building.solver_entry import SOLVERS, solver
from fewstep.samplers.schedule.base import NoiseSchedule

FEWEST, FEW, NOISY, MANY = 5, 6, 10, 12  # evaluations: see above
EVEN = 1.12  # the longest step in time over the middle one, up to which steps are even
SHIFTS = np.geomspace(1, 32, 41)  # of flows, which steps may be even under
OURS = "ours: the best of these on published configs, as measured"


def chosen_for(schedule: NoiseSchedule, times: np.ndarray) -> str:
    """The name of the solver for steps at these times.

    A flow shifted by s stands at t = s u / (1 + (s - 1) u): its steps are even where they are so in u, for some s.
    """
    return _name(schedule, len(times) - 1, _even(schedule, times))


def _name(schedule: NoiseSchedule, steps: int, even: bool) -> str:
    if not even:
        return "deis" if steps <= FEWEST else "unipc"
    return "unipc" if schedule.kind == "vp" and steps <= FEW else "deis"


def _even(schedule: NoiseSchedule, times: np.ndarray) -> bool:
    """Whether steps are even in the schedule's own time; on levels, as EDM and VE have them, that means nothing."""
    if schedule.kind not in ("vp", "flow"):
        return False
    ways = [times / (s - (s - 1) * times) for s in SHIFTS] if schedule.kind == "flow" else [times]
    steps = np.abs(np.diff(ways))
    return bool((steps.max(1) / np.median(steps, 1)).min() <= EVEN)


def suited(schedule: NoiseSchedule, nfe: int, options: Mapping[str, Any]) -> str | None:
    """The grid for so many evaluations, or None for the schedule's own."""
    return "beta" if nfe >= (NOISY if options["stochastic"] else MANY) and schedule.kind in ("vp", "flow") else None


def like(schedule: NoiseSchedule, nfe: int, levelled: bool) -> str:
    """The solver that it becomes on a config's own steps, whose class says where they end."""
    return _name(schedule, nfe, not levelled and schedule.kind in ("vp", "flow"))


@solver("auto", order=3, prediction="eps", reference=OURS, grid=suited, like=like)
def auto(path: Path, *, stochastic: bool = False) -> Solution:
    """What errs least on such steps: `deis` where they are even in time, `unipc` elsewhere. Order 3, 1 evaluation a step.

    `unipc` too on tables of betas up to 6 evaluations; from 12 on the grid is `beta` unless another is asked for.

    (`unipc` is of order 4 where it asks twice at the second step, which no plan of evaluations does here.)

    stochastic: `dpmpp_2m_sde` instead, of weak order 2, on `beta` from 10 on.
    """
    if opt.one_of("auto", "stochastic", stochastic, (True, False)):
        name = "dpmpp_2m_sde"
    else:
        name = chosen_for(path.schedule, np.array([node.t for node in path.nodes]))
    entry = SOLVERS[name]
    found = entry.solution(path, {**entry.options, "limiter": path.limiter})
    return replace(found, order=min(found.order, 3))
