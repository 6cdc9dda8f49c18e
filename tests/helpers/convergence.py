"""What orders of convergence are measured on: a mixture whose score is exact, and the slopes of a solver's errors.

The ends lie deep (|lam| about 7), where the probability flow is nearly linear: the lower-order steps with which a
multistep method begins and may end then cost nothing, and what remains is the order of the method.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from problems import Mixture, starts
from torch import Tensor

from fewstep.samplers import Denoiser, NoiseSchedule, Tableau, sample

# broad components: the asymptotic range begins early
MIXTURE = Mixture(((0.6, 0.3), (-0.7, 0.2), (0.1, -0.7)), (0.55, 0.45, 0.6))
SCHEDULES = {
    "vp": (NoiseSchedule.vp_linear(beta_max=30.0), 1.0, 1e-5),
    "edm": (NoiseSchedule.edm(sigma_max=1000.0), 1000.0, 1e-3),
    "flow": (NoiseSchedule.flow(), 0.999, 0.001),
}


class Problem(NamedTuple):
    denoiser: Denoiser
    x: Tensor
    ends: dict[str, float]
    answer: Tensor


@lru_cache
def problem(kind: str) -> Problem:
    """16 starts and their ends by the fifth-order method, which agrees with itself on a coarser grid."""
    schedule, first, last = SCHEDULES[kind]
    denoiser, x, ends = MIXTURE.denoiser(schedule, "sample"), starts(schedule, first), {"t_start": first, "t_end": last}
    fine, coarse = (sample(denoiser, x, "etd_rk5", 8 * n, "logsnr", **ends) for n in (480, 320))
    assert float((fine - coarse).abs().max()) < 1e-11
    return Problem(denoiser, x, ends, fine)


def slopes(denoiser: Denoiser, x: Tensor, answer: Tensor, tables: list[Tableau]) -> np.ndarray:
    """-d log(error) / d log(steps) between successive tables; the error is the root mean square over the starts."""
    errors = np.log([float((sample(denoiser, x, table) - answer).square().mean().sqrt()) for table in tables])
    steps = np.log([len(table.groups) for table in tables])
    return -np.diff(errors) / np.diff(steps)
