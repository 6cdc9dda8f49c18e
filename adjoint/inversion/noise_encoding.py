"""An image as the noise path of an SDE solver that leads to it (edit-friendly encoding)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fewstep.adjoint.exact.repeatable_noise import draws_of
from fewstep.samplers.noise.draws import Draw
from fewstep.samplers.noise.sources import NoiseSource
from fewstep.samplers.run.checks import validate, validate_noise
from fewstep.samplers.run.denoiser import Denoiser
from fewstep.samplers.run.lowering import lower
from fewstep.samplers.run.step import State
from fewstep.samplers.sampling.asked_table import table_for
from fewstep.samplers.table.tableau import Tableau

PATH = 97  # slot of the noises that `encode` draws its path with, out of the way of those of rows


class Encoded(NamedTuple):
    """x_T (B, *shape), z (draws, B, *shape), rest (B, *shape): adjoint.sample(denoiser, x_T, ..., z=z) + rest is the image."""

    x_T: Tensor
    z: Tensor
    rest: Tensor


def encode(
    denoiser: Denoiser,
    x0: Tensor,
    solver: Any = "ddpm",
    nfe: int | None = None,
    grid: Any = None,
    *,
    noise_seeds: Sequence[int],
    t_start: float | None = None,
    t_end: float | None = None,
    **solver_options: Any,
) -> Encoded:
    """The noise path along which an SDE solver leads to x0 (edit-friendly encoding).

        x_k = alpha_k x0 + sigma_k e_k, e_k independent;     z_k = (x_{k+1} - mean_k(x_k, m_k, m_{k-1}, ...)) / c_k

    The noises hold the image's layout: played with another condition they give an edit of it. The last step into sigma = 0
    draws none; what the network misses there is `rest`, small where the grid is fine at its end.

    Args:
        x0: image, (B, *shape). solver: one state and one noise a row: ddpm, dpmpp_2m_sde, euler_ancestral, ... noise_seeds:
            one a sample, of the path. Others as in `sample`.

    Cost: nfe network calls. Raises: ValueError for a solver that draws no noise, or none in some row before the last.

    Reference: An Edit Friendly DDPM Noise Space; Huberman-Spiegelglas, Kulikov, Michaeli; 2023; arXiv:2304.06140.
    """
    validate(denoiser, x0, "end")
    validate_noise(x0, None, noise_seeds)
    table = table_for(denoiser, solver, {"nfe": nfe, "grid": grid, "t_start": t_start, "t_end": t_end}, solver_options)
    weights = _noise_weights(table)
    wide = x0.to(torch.float64 if x0.dtype == torch.float64 else torch.float32)
    draw, at = NoiseSource(noise_seeds), table.nodes
    path = [
        float(at.alpha[k]) * wide + float(at.sigma[k]) * draw(Draw(k, PATH, 0.0, 0.0), wide) for k in range(table.nfe)
    ]
    history: tuple[Tensor, ...] = ()
    z, nothing = [], torch.zeros_like(wide)
    for k, step in enumerate(lower(table, denoiser.prediction, wide.device, wide.dtype)):
        output = denoiser.call(path[k].to(x0.dtype), step.model_time, step)
        mean = step(State(path[k], path[k], history), output, [nothing] * len(step.draws))
        target = path[k + 1] if k + 1 < table.nfe else wide
        if step.draws:
            z.append((target - mean.input) / weights[k])
            rest = nothing
        else:
            rest = target - mean.input
        history = mean.history
    return Encoded(path[0].to(x0.dtype), torch.stack(z).to(x0.dtype), rest.to(x0.dtype))


def _noise_weights(table: Tableau) -> list[float]:
    """c_k of every row; ValueError for a table that has not one state and one noise a row."""
    if not draws_of(table):
        raise ValueError(
            f"{table.name} draws no noise: take a stochastic solver such as ddpm, or invert() an ODE solver"
        )
    both = np.array_equal(table.W[:, 0], table.W[:, 1]) and not table.elementwise
    found = table.W[:, 1, 2 + table.history]
    if not both or table.slots != 1 or not found[:-1].all():
        raise ValueError(
            f"{table.name}: encoding needs one state and one noise in every row but the last, such as ddpm, euler_ancestral or "
            "dpmpp_2m_sde have"
        )
    return [float(c) for c in found]
