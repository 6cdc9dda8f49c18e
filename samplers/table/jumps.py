"""Where rows lead before noise takes the state back up: jumps by laws that are not Gaussian, and what flow maps are shown.

On a process whose noise is not Gaussian every noise of a table is a jump up by the law of that process. A row that goes to t,
with sigma_t = std of its kernel there, and adds c z, has led the state down to sigma_d first,

    sigma_d^2 = sigma_t^2 - c^2,

as far as data are one point; a jump from sigma_d to sigma_t by the process's own law keeps its marginals (PFGM++, see
schedule/poisson.py). A row that adds several noises, or keeps one for later, has no such jump.
"""

from __future__ import annotations

from math import log, sqrt
from typing import Any

import numpy as np

from fewstep.samplers.noise.draws import Draw

OWN_PATHS = 2**24  # Brownian paths of these jumps: none that a table of Restart draws from


def jump_of(table: Any, draw: Draw, alone: bool) -> Draw:
    """The draw of row `draw.row` - 1 as a jump; what goes back up already is one.

    Raises:
        ValueError: a row whose noise is no jump.
    """
    if draw.path != 0:
        return draw
    k, column = draw.row - 1, 2 + table.history + draw.slot
    carried, added = table.W[k, :, column]
    sigma = float(table.nodes.sigma[k + 1])
    held = table.W[k, 0, 0] == 1.0 and not table.W[k, 0, 1:].any()
    if (
        not alone
        or table.elementwise
        or not (held or carried == added)
        or "eps" not in table.conserves
        or added > sigma
    ):
        raise ValueError(
            f"{table.name} adds Gaussian noise in a way that is no jump of {type(table.schedule).__name__}, whose noise has "
            'heavy tails: take an ODE solver, "restart", or a stochastic one with one noise a row, such as "ddim" with eta, '
            '"euler_ancestral" or "dpmpp_2m_sde"'
        )
    low = sqrt(max(0.0, sigma**2 - float(added) ** 2))
    return Draw(draw.row, draw.slot, -log(low) if low > 0 else float("inf"), -log(sigma), OWN_PATHS + draw.row)


def target_times(table: Any) -> np.ndarray:
    """(nfe,) in the network's unit: where each row leads the state by its own network call, before noise takes it up.

    That is the time of the next call, and of the result after the last one; of a row that adds c z on its way to t the time of
    the level sqrt(sigma_t^2 - c^2) / alpha_t, from which z leads up to t. Rows that combine answers, of stages or steps, take
    each for the velocity at its own point: they lead nowhere, and the time is their own.
    """
    schedule, nodes = table.schedule, table.nodes
    if not own_answers(table):
        return np.array(table.model_times)
    with np.errstate(divide="ignore"):
        times = np.append(table.model_times[1:], schedule.model_time(nodes.t[-1:]))
        if not table.stochastic:
            return times
        first = 2 + table.history
        W = table.W.reshape(*table.W.shape[:3], -1).mean(-1)
        noise = np.square(W[:, 1, first : first + table.slots]).sum(1)
        lifted = np.flatnonzero(noise)
        rho = np.sqrt(np.maximum(nodes.sigma[1:][lifted] ** 2 - noise[lifted], 0)) / nodes.alpha[1:][lifted]
        rho = np.where(rho < 1e-7 * nodes.sigma[1:][lifted], 0, rho)  # rounding of a square root
        down = np.where(rho > 0, schedule.t_of_lam(-np.log(np.where(rho > 0, rho, 1.0))), schedule.t_end)
        times[lifted] = schedule.model_time(np.minimum(down, nodes.t[1:][lifted]))
    return times


def own_answers(table: Any) -> bool:
    """Whether every row leads from where its network call stands to where it is told to lead, by that call's answer alone.

    Then a flow map, whose answer is the mean velocity of that way, is exact.
    """
    carried = table.W[:, 0] == table.W[:, 1]
    anchored = table.W[1:, 1, 0].any() and not carried.all()
    older = table.history > 1 and table.W[:, 1, 3 : 2 + table.history].any()
    return not anchored and not older
