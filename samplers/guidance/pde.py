"""Fields that obey a differential equation, from a few measurements: y = A(x0) + n and f(x0) = 0.

Both are rows of one least-squares problem, each in units of its own standard deviation, with the network's own covariance
C = (sigma^2 / alpha) J for the prior of x0 around D:

    D' = D + argmin_d  |A(D) + A' d - y|^2 / noise_std^2 + |f(D) + f' d|^2 / residual_std^2 + d^T C^-1 d

A few preconditioned conjugate gradients, a vector-Jacobian product of the network each, come close; one is the most
probable point on the ray C h. There is no weight to be tuned and nothing depends on the number of steps. The published
forms, a shift of the state after every step, do: `published`, and `fun_dps`, which runs a loop of its own.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from fewstep.checks import positive, whole
from fewstep.samplers.guidance.guidance_entry import method
from fewstep.samplers.guidance.loss_guidance import energy
from fewstep.samplers.guidance.measurement import Measurement
from fewstep.samplers.guidance.network_covariance import most_probable
from fewstep.samplers.guidance.pde_losses import Map, mean_losses, measuring, residuals, two_weights
from fewstep.samplers.run.denoiser import Denoiser
from fewstep.samplers.run.guided import Guided, check_denoiser


@method("diffusion_pde", kind="restoring", operator="any", gradients=4)
def diffusion_pde(
    denoiser: Denoiser,
    measurement: Tensor,
    operator: Any,
    residual: Map | None = None,
    noise_std: float = 0.01,
    residual_std: float = 0.01,
    *,
    below: float = 0.3,
    huber: float | None = None,
    iterations: int = 4,
    published: bool = False,
    weights: tuple[float, float] = (1.0, 0.0),
) -> Denoiser:
    """Fields recovered from sparse measurements and a differential equation, with a diffusion model for their prior.

        known = torch.rand(2, 32, 32) < 0.03
        guided = guidance.diffusion_pde(denoiser, truth[:, known], known, darcy_residual)
        x0 = sample(guided, x_T, "dpmpp_2m_sde", 50)

    Args:
        measurement: (B, *m), or (1, *m). operator: an Operator, (A, A^T), or the bool tensor of the known places (`points`).
        residual: f, differentiable, samples (B, *shape) -> (B, ...), zero for solutions; None: measurements alone.
        noise_std, residual_std: standard deviations of y - A(x0) and of f(x0) in their own units: of the noise and of the
            discretisation, or as far as the network's samples are from being solutions.
        below: f is heard where sigma / alpha is smaller; a mean of many solutions is none. huber: residuals beyond so many
            standard deviations count linearly. iterations: of conjugate gradients.
        published: the papers' shift between steps, x' <- x' - grad_x (w_obs |y - A D|^2 / m + w_pde mean of f^2 / 2, or of
            Huber's), with `weights` for (w_obs, w_pde), whose strength grows with nfe; for one-step solvers such as "ddim".

    Cost: `iterations` vector-Jacobian products of the network a call (1 if published), twice as many products with f'.
    Raises ValueError: see Measurement; deviations that are not positive; a residual of another batch.

    Reference: DiffusionPDE: Generative PDE-Solving under Partial Observation; Huang, Yang, Wang, Park; 2024;
    arXiv:2406.17763.
    """
    check_denoiser(denoiser)
    known = Measurement(measurement, measuring(operator), positive("noise_std", noise_std))
    residual_std, below = positive("residual_std", residual_std), positive("below", below)
    huber, iterations = None if huber is None else positive("huber", huber), whole("iterations", iterations)
    if residual is not None and not callable(residual):
        raise ValueError(
            f"`residual` must be a function of samples, (B, ...) -> (B, ...); got {type(residual).__name__}"
        )
    if published:
        w_obs, w_pde = two_weights(weights, residual)

        def loss(x0: Tensor) -> Tensor:
            obs, pde = mean_losses(known, residual if w_pde else None, huber, x0)
            return w_obs * obs + w_pde * pde

        return energy(denoiser, loss, published=True)

    def rows(heard: Any, x0: Tensor) -> Tensor:
        """(B, rows), each a unit Gaussian of what is not known."""
        miss = known.miss(x0).flatten(1) / known.noise_std
        if residual is None or heard is False:
            return miss
        f = residuals(residual, x0) / residual_std
        if huber is not None:
            f = f * (huber / f.detach().abs().clamp(min=huber)).sqrt()
        return torch.cat([miss, -f * torch.as_tensor(heard).to(f).view(-1, 1)], 1)

    return Guided(
        denoiser, lambda call: most_probable(call, partial(rows, call.rho < below), iterations), gradient=True
    )
