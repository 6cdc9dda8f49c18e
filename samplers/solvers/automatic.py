"""`auto`: the solver that errs least on such steps, read off the path itself.

Measured on published configs at 4 to 20 evaluations, on mixtures whose flow is known: where steps are even in the schedule's
own time, of VP tables and flows, a polynomial in that time varies least (`deis`); on levels as EDM and VE have them, and
where a map of sigma has moved the steps, a predictor of x0 with its corrector stands the long steps better (`unipc`).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from fewstep.samplers.building import options as opt
from fewstep.samplers.building.path import Path, Solution
from fewstep.samplers.building.solver_entry import SOLVERS, solver
from fewstep.samplers.schedule.base import NoiseSchedule

EVEN = 1.35  # the longest step in time over the middle one, up to which steps are even
SHIFTS = np.geomspace(1, 32, 41)  # of flows, which steps may be even under
OURS = "ours: the best of these on published configs, as measured"


def chosen_for(schedule: NoiseSchedule, times: np.ndarray) -> str:
    """The name of the solver for steps at these times.

    A flow shifted by s stands at t = s u / (1 + (s - 1) u): its steps are even where they are so in u, for some s.
    """
    if schedule.kind not in ("vp", "flow"):
        return "unipc"
    ways = [times / (s - (s - 1) * times) for s in SHIFTS] if schedule.kind == "flow" else [times]
    steps = np.abs(np.diff(ways))
    return "deis" if (steps.max(1) / np.median(steps, 1)).min() <= EVEN else "unipc"


@solver("auto", order=3, prediction="eps", reference=OURS)
def auto(path: Path, *, stochastic: bool = False) -> Solution:
    """What errs least on such steps: `deis` where they are even in time, `unipc` elsewhere. Order 3, 1 evaluation a step.

    (`unipc` is of order 4 where it asks twice at the second step, which no plan of evaluations does here.)

    stochastic: `dpmpp_2m_sde` instead, of weak order 2.
    """
    if opt.one_of("auto", "stochastic", stochastic, (True, False)):
        name = "dpmpp_2m_sde"
    else:
        name = chosen_for(path.schedule, np.array([node.t for node in path.nodes]))
    entry = SOLVERS[name]
    found = entry.solution(path, {**entry.options, "limiter": path.limiter})
    return replace(found, order=min(found.order, 3))
