"""Fields that obey a differential equation, from a few measurements: y = A(x0) + n and f(x0) = 0.

Both are rows of one least-squares problem, each in units of its own standard deviation, with the network's own covariance
C = (sigma^2 / alpha) J for the prior of x0 around D:

    D' = D + argmin_d  |A(D) + A' d - y|^2 / noise_std^2 + |f(D) + f' d|^2 / residual_std^2 + d^T C^-1 d

A few preconditioned conjugate gradients, a vector-Jacobian product of the network each, come close; one is the most
probable point on the ray C h. There is no weight to be tuned and nothing depends on the number of steps. The published
forms, a shift of the state after every step, do: `published`, and `fun_dps`, which runs a loop of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from fewstep.checks import positive, whole
from fewstep.samplers.grids.making import make_grid
from fewstep.samplers.guidance.measurement import Measurement
from fewstep.samplers.guidance.operators import Operator
from fewstep.samplers.guidance.posterior import energy
from fewstep.samplers.guidance.probable import most_probable
from fewstep.samplers.run.checks import require_finite, validate
from fewstep.samplers.run.denoiser import Denoiser
from fewstep.samplers.run.guided import Guided, check_denoiser

Tensor = torch.Tensor
Map = Callable[[Tensor], Tensor]
Losses = tuple[Tensor, Tensor]


def points(known: Tensor) -> Operator:
    """The values where `known` (bool, of a sample's shape) is true: (B, *shape) -> (B, count)."""
    if not isinstance(known, Tensor) or known.dtype != torch.bool or not bool(known.any()):
        what = f"{known.dtype} of shape {tuple(known.shape)}" if isinstance(known, Tensor) else type(known).__name__
        raise ValueError(f"`known` must be a bool tensor of a sample's shape that is true somewhere; got {what}")
    place = known.flatten().nonzero()[:, 0]

    def forward(x: Tensor) -> Tensor:
        if x.shape[1:] != known.shape:
            raise ValueError(f"samples of shape {tuple(x.shape[1:])} are read where {tuple(known.shape)} are known")
        return x.flatten(1)[:, place.to(x.device)]

    def transpose(y: Tensor) -> Tensor:
        flat = y.new_zeros(len(y), known.numel())
        return flat.index_copy(1, place.to(y.device), y).view(-1, *known.shape)

    return Operator(forward, transpose, gram=1.0, name="points")


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
    known = Measurement(measurement, _operator(operator), positive("noise_std", noise_std))
    residual_std, below = positive("residual_std", residual_std), positive("below", below)
    huber, iterations = None if huber is None else positive("huber", huber), whole("iterations", iterations)
    if residual is not None and not callable(residual):
        raise ValueError(
            f"`residual` must be a function of samples, (B, ...) -> (B, ...); got {type(residual).__name__}"
        )
    if published:
        w_obs, w_pde = _weights(weights, residual)

        def loss(x0: Tensor) -> Tensor:
            obs, pde = _means(known, residual if w_pde else None, huber, x0)
            return w_obs * obs + w_pde * pde

        return energy(denoiser, loss, published=True)

    def rows(heard: Any, x0: Tensor) -> Tensor:
        """(B, rows), each a unit Gaussian of what is not known."""
        miss = known.miss(x0).flatten(1) / known.noise_std
        if residual is None or heard is False:
            return miss
        f = checked(residual, x0) / residual_std
        if huber is not None:
            f = f * (huber / f.detach().abs().clamp(min=huber)).sqrt()
        return torch.cat([miss, -f * torch.as_tensor(heard).to(f).view(-1, 1)], 1)

    return Guided(
        denoiser, lambda call: most_probable(call, partial(rows, call.rho < below), iterations), gradient=True
    )


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
    known, huber = Measurement(measurement, _operator(operator)), positive("huber", huber)
    w_obs, w_pde = _weights(weights, residual)
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
            obs, pde = _means(known, part, huber, x0) if rule == "fun_dps" else _norms(known, part, x0)
            loss = f_obs * w_obs * obs + f_pde * w_pde * pde
            (g,) = torch.autograd.grad(loss.sum(), x)
        x = (after - g).detach()
    require_finite(x, "the result: try smaller weights")
    return x


def checked(residual: Map, x0: Tensor) -> Tensor:
    """f(x0) as (B, count); ValueError for another batch."""
    f = residual(x0)
    if not isinstance(f, Tensor) or f.ndim < 1 or len(f) != len(x0):
        got = tuple(f.shape) if isinstance(f, Tensor) else type(f).__name__
        raise ValueError(f"`residual` must return what is left of every sample, shape ({len(x0)}, ...); got {got}")
    return f.reshape(len(f), -1)


def _means(known: Measurement, residual: Map | None, huber: float | None, x0: Tensor) -> Losses:
    """|y - A x0|^2 / m and the mean of f^2 / 2, or of Huber's function, each (B,)."""
    obs = known.miss(x0).flatten(1).square().mean(1)
    if residual is None:
        return obs, torch.zeros_like(obs)
    f = checked(residual, x0)
    zero = torch.zeros_like(f)
    loss = torch.nn.functional.huber_loss
    each = 0.5 * f.square() if huber is None else loss(f, zero, reduction="none", delta=huber)
    return obs, each.mean(1)


def _norms(known: Measurement, residual: Map | None, x0: Tensor) -> Losses:
    """|y - A x0| / m and |f| / count, each (B,)."""
    miss = known.miss(x0).flatten(1)
    obs = miss.norm(dim=1) / miss.shape[1]
    if residual is None:
        return obs, torch.zeros_like(obs)
    f = checked(residual, x0)
    return obs, f.norm(dim=1) / f.shape[1]


def _operator(given: Any) -> Any:
    return points(given) if isinstance(given, Tensor) else given


def _weights(weights: Any, residual: Map | None) -> tuple[float, float]:
    if not isinstance(weights, (tuple, list)) or len(weights) != 2:
        raise ValueError(f"`weights` are two numbers, of measurements and of the residual; got {weights!r}")
    w_obs, w_pde = (positive("weights", w, zero=True) for w in weights)
    if w_pde and residual is None:
        raise ValueError("a weight of the residual needs a `residual`")
    return w_obs, w_pde
