"""Fields that obey a differential equation, by the published loop: a baseline beside `diffusion_pde`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fewstep.checks import positive, whole
from fewstep.samplers.grids.making import make_grid
from fewstep.samplers.guidance.guidance_entry import method
from fewstep.samplers.guidance.measurement import Measurement
from fewstep.samplers.guidance.pde_losses import Map, mean_losses, measuring, norm_losses, two_weights
from fewstep.samplers.run.checks import require_finite, validate
from fewstep.samplers.run.denoiser import Denoiser
from fewstep.samplers.run.guided import check_denoiser


@method("fun_dps", kind="restoring", operator="any", gradients=1)
def fun_dps(
    denoiser: Denoiser,
    x_T: Tensor,
    measurement: Tensor,
    operator: Any,
    residual: Map | None = None,
    steps: int = 500,
    *,
    weights: tuple[float, float] = (1.0, 0.0),
    rule: str = "fun_dps",
    huber: float = 1.0,
) -> Tensor:
    """The published loop: Heun's steps, each followed by a shift down the losses' gradient through both network calls.

        x_{i+1} <- Heun(x_i) - grad_{x_i} (w_obs L_obs(D) + w_pde L_pde(D)),    D of the second call;    the last step is plain

    rule "fun_dps": L_obs = |y - A D|^2 / m, L_pde the mean of Huber's function of f; w_pde is zero while sigma > 1, and then
    both are multiplied by sigma. rule "diffusion_pde": L_obs = |y - A D| / m, L_pde = |f| / count, w_pde is zero in the first
    80 % of the steps, and then w_obs is a tenth. A baseline: prefer `diffusion_pde`, whose strength needs no search.

    Args:
        x_T: (B, *shape) at sigma_max of a VE or EDM schedule. weights: (w_obs, w_pde), to be found anew for every number of
            steps. huber: where L_pde turns linear. Others as in `diffusion_pde`.
    Returns samples, (B, *shape). Cost: 2 steps - 1 network calls, and 2 (steps - 1) vector-Jacobian products.

    Reference: Guided Diffusion Sampling on Function Spaces with Applications to PDEs; Yao, Mammadov, Berner, Kerrigan, Ye,
    Azizzadenesheli, Anandkumar; 2025; arXiv:2505.17004.
    """
    validate(denoiser, x_T, "end")
    check_denoiser(denoiser)
    if denoiser.schedule.kind != "ve":
        raise ValueError(f"fun_dps runs on VE and EDM schedules, where alpha = 1; got {denoiser.schedule!r}")
    if rule not in ("fun_dps", "diffusion_pde"):
        raise ValueError(f'`rule` must be "fun_dps" or "diffusion_pde"; got {rule!r}')
    known, huber = Measurement(measurement, measuring(operator)), positive("huber", huber)
    w_obs, w_pde = two_weights(weights, residual)
    times = make_grid("edm", denoiser.schedule, whole("steps", steps, 2))
    x = x_T.detach()
    for i, (s, t) in enumerate(zip(times[:-1].tolist(), times[1:].tolist(), strict=True)):
        if i == len(times) - 2:
            with torch.no_grad():
                x = x + (t - s) / s * (x - denoiser.x0(x, s))
            break
        if rule == "fun_dps":
            f_obs, f_pde = (1.0, 0.0) if s > 1 else (s, s)
        else:
            f_obs, f_pde = (1.0, 0.0) if i <= 0.8 * steps else (0.1, 1.0)
        with torch.enable_grad():
            x = x.requires_grad_()
            slope = (x - denoiser.x0(x, s)) / s
            x0 = denoiser.x0(x + (t - s) * slope, t)
            after = x + (t - s) / 2 * (slope + (x + (t - s) * slope - x0) / t)
            part = residual if f_pde * w_pde else None
            obs, pde = mean_losses(known, part, huber, x0) if rule == "fun_dps" else norm_losses(known, part, x0)
            loss = f_obs * w_obs * obs + f_pde * w_pde * pde
            (g,) = torch.autograd.grad(loss.sum(), x)
        x = (after - g).detach()
    require_finite(x, "the result: try smaller weights")
    return x
