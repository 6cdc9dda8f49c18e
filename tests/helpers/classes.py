"""Two classes with known densities, the network of each and of both, and the exact classifier between them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from problems import Mixture, level, starts
from torch import Tensor

from fewstep import Denoiser, NoiseSchedule, sample

VP, EDM, FLOW = NoiseSchedule.vp_linear(), NoiseSchedule.edm(), NoiseSchedule.flow()
CLASSES = [([[1.0, 0.5]], [0.35], [1.0]), ([[-1.2, 0.3]], [0.5], [1.0])]
BOTH = Mixture(((1.0, 0.5), (-1.2, 0.3)), (0.35, 0.5), (0.6, 0.4))
X = starts(VP, 1.0, 6)


def class_of(k: int) -> Mixture:
    return Mixture(*CLASSES[k])


def pair(schedule: NoiseSchedule = VP, prediction: str = "epsilon", **kw: Any) -> tuple[Denoiser, Denoiser]:
    return class_of(0).denoiser(schedule, prediction, **kw), BOTH.denoiser(schedule, prediction, **kw)


def logits_of(mixture: Mixture, schedule: NoiseSchedule) -> Any:
    """log w_k + log p_k(x, t), the exact classifier."""

    def network(x: Tensor, tau: Tensor) -> Tensor:
        alpha, sigma = level(schedule, float(tau))
        variance = alpha**2 * mixture.variances + sigma**2
        gap = x.flatten(1).double()[:, None] - alpha * mixture.means
        return mixture.log_weights - 0.5 * ((gap**2 / variance).sum(-1) + gap.shape[-1] * variance.log()[:, 0])

    return network


@torch.no_grad()
def slope(denoiser: Any, solver: str, x: Tensor, schedule: NoiseSchedule, **options: Any) -> float:
    """How the error of a solver falls as nfe grows, by its own fine run."""
    grid = {"grid": "logsnr", "t_start": 0.9, "t_end": 0.1, **options}
    fine = sample(denoiser, x, solver, 600, **grid)
    counts = (30, 60, 120)
    errors = [float((sample(denoiser, x, solver, n, **grid) - fine).norm()) for n in counts]
    return float(-np.polyfit(np.log(counts), np.log(errors), 1)[0])
