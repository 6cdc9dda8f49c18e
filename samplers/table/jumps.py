"""The noises of a table on a process whose noise is not Gaussian: every one is a jump up, by the law of that process.

A row that goes to t, with sigma_t = std of its kernel there, and adds c z, has led the state down to sigma_d first,

    sigma_d^2 = sigma_t^2 - c^2,

as far as data are one point; a jump from sigma_d to sigma_t by the process's own law keeps its marginals (PFGM++, see
schedule/poisson.py). A row that adds several noises, or keeps one for later, has no such jump.
"""

from __future__ import annotations

from math import log, sqrt
from typing import Any

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
    if not alone or table.elementwise or not (held or carried == added) or "eps" not in table.conserves or added > sigma:
        raise ValueError(
            f"{table.name} adds Gaussian noise in a way that is no jump of {type(table.schedule).__name__}, whose noise has "
            'heavy tails: take an ODE solver, "restart", or a stochastic one with one noise a row, such as "ddim" with eta, '
            '"euler_ancestral" or "dpmpp_2m_sde"'
        )
    low = sqrt(max(0.0, sigma**2 - float(added) ** 2))
    return Draw(draw.row, draw.slot, -log(low) if low > 0 else float("inf"), -log(sigma), OWN_PATHS + draw.row)
