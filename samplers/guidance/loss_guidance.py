"""Guidance by losses of clean samples, with the gradient of the network: predicted x0 goes down their slope.

    D' = D - t (sigma^2 / alpha) J^T grad loss(D),    J = dD/dx

with lengths t from the network's own covariance, as in `posterior.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fewstep.checks import positive, whole, within
from fewstep.samplers.guidance.guidance_entry import method
from fewstep.samplers.guidance.measurement import Measurement
from fewstep.samplers.guidance.network_covariance import along, damped, slope
from fewstep.samplers.noise.brownian import unit_normal
from fewstep.samplers.run.denoiser import Denoiser
from fewstep.samplers.run.guided import Call, Guided
from fewstep.samplers.run.per_sample import dot, one_each

Loss = Callable[[Tensor], Tensor]


@method("lgd", kind="restoring", operator="any", gradients=1)
def lgd(
    denoiser: Denoiser,
    measurement: Tensor | None = None,
    operator: Any = None,
    noise_std: float = 0.0,
    scale: float = 1.0,
    *,
    samples: int = 4,
    sampled: float = 0.5,
    loss: Loss | None = None,
    line_search: bool = True,
    prior_std: float = 1.0,
    seed: int = 0,
) -> Denoiser:
    """Loss-guided diffusion: the mean likelihood of a few clean samples around D, not that of D itself.

        D' = D + scale (sigma^2 / alpha) grad_x log mean_k exp(-loss(D + r z_k))

    For a measurement the share `sampled` of the spread r^2 is sampled and the rest put into the loss,
    |y - A x0|^2 / 2 (noise_std^2 + (1 - sampled) r^2 |A|^2): 0 is dps, 1 the published method, whose likelihood a few samples
    seldom hit. z_k are the same for all samples and steps (`seed`), so that multistep solvers see a smooth function.

    Args:
        measurement, operator, noise_std, prior_std: as in `dps`; or loss: (B, *shape) -> (B,), of clean samples, instead.
    Cost: `samples` losses and one vector-Jacobian product of the network a call. Raises ValueError as `dps`.

    Reference: Loss-Guided Diffusion Models for Plug-and-Play Controllable Generation; Song, Zhang, Yin, Mardani, Liu, Kautz,
    Chen, Vahdat; 2023.
    """
    if (loss is None) == (measurement is None) or (measurement is None) != (operator is None):
        raise ValueError("lgd needs a measurement and its operator, or a `loss` of clean samples instead")
    known = None if measurement is None else Measurement(measurement, operator, noise_std)
    scale, prior_std = positive("scale", scale, zero=True), positive("prior_std", prior_std)
    samples = whole("samples", samples)
    sampled = within("sampled", sampled, 0, 1, hint="It is a share of the spread")

    def losses(x0: Tensor, spread: Any) -> Tensor:
        if known is None:
            assert loss is not None
            return one_each(loss(x0), x0, "loss")
        miss = known.miss(x0)
        variance = known.noise_std**2 + (1 - sampled) * spread * known.norm**2
        return 0.5 * dot(miss, miss).flatten() / torch.as_tensor(variance).to(miss).clamp(min=1e-12).flatten()

    def shift(call: Call) -> Tensor:
        spread = call.spread(prior_std)
        width = torch.as_tensor(spread * (1.0 if known is None else sampled)).to(call.x0).sqrt()
        draws = (unit_normal(seed, (0, k, 0), call.x0.shape[1:]) for k in range(samples))
        with torch.enable_grad():
            center = call.x0 if call.outside else call.x0.detach().requires_grad_()
            each = [-losses(center + width * torch.from_numpy(z).to(center), spread) for z in draws]
            (fall,) = torch.autograd.grad(torch.stack(each).logsumexp(0).sum(), center, create_graph=call.outside)
        if not line_search:
            return (scale * call.tweedie) * call.pull(fall)
        if known is None:
            return scale * damped(call, fall, lambda x0: losses(x0, spread))
        return scale * along(call, known, fall, known.miss(call.x0))

    return Guided(denoiser, shift, gradient=True)


@method("energy", kind="restoring", gradients=1)
def energy(
    denoiser: Denoiser,
    energy: Loss,
    scale: float | Callable[[Any], Any] = 1.0,
    *,
    line_search: bool = True,
    published: bool = False,
) -> Denoiser:
    """Any differentiable energy of the clean sample, taken at predicted x0: samples of p(x0) exp(-energy(x0)), roughly.

        D' = D - scale t (sigma^2 / alpha) J^T grad energy(D)

    t = 1 without line search; with it t = 1 / (1 + c), c the energy's curvature along the shift over its slope there, so that
    stiff energies do not overshoot.

    Args:
        energy: (B, *shape) -> (B,), sample by sample. scale: a number, or a function of sigma / alpha (a number, or
            (B, 1, ...)), such as lambda rho: 50.0 * (rho < 1). published: x' <- x' - scale grad_x energy(D) between the steps
            instead, as most papers write it; its strength grows with nfe.
    Cost: one vector-Jacobian product of the network a call.

    Reference: Universal Guidance for Diffusion Models; Bansal, Chu, Schwarzschild, Sengupta, Goldblum, Geiping, Goldstein;
    2023; arXiv:2302.07121.
    """
    if not callable(energy):
        raise ValueError(f"`energy` must be a function of clean samples, (B, ...) -> (B,); got {type(energy).__name__}")
    if not callable(scale):
        scale = positive("scale", scale, zero=True)

    def shift(call: Call) -> Tensor:
        much = scale(call.rho) if callable(scale) else scale
        down = -much * slope(energy, call)
        if line_search and not published:
            return damped(call, down, lambda x0: much * energy(x0))
        return (1 / call.weight if published else call.tweedie) * call.pull(down)

    return Guided(denoiser, shift, gradient=True)
