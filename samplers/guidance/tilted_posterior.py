"""Posteriors of any measurement by weighted particles: exact as their number and that of steps grow, and it says when not.

    p(x0 | y) ~ p(x0) exp(-|y - A(x0)|^2 / 2 s^2) :     `fkc` with this reward, twisted towards y by its gradient.

A sharp likelihood must not come at once. A prediction of x0 errs by about r, r^2 = v sigma^2 / (v alpha^2 + sigma^2), v the
variance of data, and A of it by |A'| r: the likelihood is taken as wide as that and one narrows with the noise,

    beta(lam) = s^2 / (s^2 + w^2 r^2),   w ~ |A'|,      1 at the sample.
"""

from __future__ import annotations

from collections.abc import Callable
from math import exp
from typing import Any

from torch import Tensor

from fewstep.checks import positive
from fewstep.samplers.guidance.feynman_kac import fkc
from fewstep.samplers.guidance.guidance_entry import method
from fewstep.samplers.guidance.particles import Particles
from fewstep.samplers.run.denoiser import Denoiser


@method("twisted", kind="particles", operator="any", gradients=1)
def twisted(
    denoiser: Denoiser,
    measurement: Tensor,
    operator: Callable[[Tensor], Tensor],
    *,
    noise_std: float,
    width: float = 1.0,
    data_std: float = 1.0,
    gradient: bool = True,
    **how: Any,
) -> Particles:
    """Weighted particles of p(x0 | y), y = A(x0) + noise_std n, for any A: asymptotically exact, linear or not.

        target = guidance.twisted(denoiser, y, A, noise_std=0.2, particles=1000)
        x_T = target.initial_noise((1000, *shape), seeds=range(1000))
        x0 = sample(target.denoiser, x_T, "dpmpp_2m_sde", nfe=100, noise_seeds=range(1000), hook=target)
        print(target.health())          # "not to be believed: 1.4 lineages ..." where it is not

        p_t(x) ~ p(x) exp(-beta |y - A(x0(x))|^2 / 2 s^2),   beta = s^2 / (s^2 + w^2 r^2),
        r^2 = v sigma^2 / (v alpha^2 + sigma^2)

    Args:
        measurement: y, the shape of A of one sample, or one a particle. operator: A, (B, *shape) -> (B, *measured).
        noise_std: s. width: w, about how strongly A stretches. data_std: sqrt v. gradient: False for an A without one: weights
        alone then know of y. how: as `fkc` takes them: particles, ess, method, stop, seeds, across.

    Raises: ValueError as `fkc` does, and for numbers that are not positive, or a y that does not fit A.

    Reference: Practical and Asymptotically Exact Conditional Sampling in Diffusion Models; Wu, Trippe, Naesseth, Blei,
    Cunningham; 2023; arXiv:2306.17775. Here by the continuous weights of Feynman-Kac correctors (arXiv:2503.02819).
    """
    for name, value in (("noise_std", noise_std), ("width", width), ("data_std", data_std)):
        positive(name, value)

    def misfit(x0: Tensor) -> Tensor:
        measured = operator(x0)
        known = measurement.to(measured)
        if known.ndim == measured.ndim - 1:
            known = known[None]
        if known.shape not in (measured.shape, (1, *measured.shape[1:])):
            raise ValueError(
                f"`measurement` must be of the shape {tuple(measured.shape[1:])} that `operator` gives of a sample, or one "
                f"a particle, {tuple(measured.shape)}; got {tuple(measurement.shape)}"
            )
        return -(known - measured).square().flatten(1).sum(1) / (2 * noise_std**2)

    def ramp(lam: float) -> float:
        noise = exp(min(-2.0 * lam, 700.0))  # sigma^2 / alpha^2
        r2 = data_std**2 * noise / (data_std**2 + noise)
        return noise_std**2 / (noise_std**2 + width**2 * r2)

    return fkc(denoiser, reward=misfit, ramp=ramp, gradient=gradient, **how)
