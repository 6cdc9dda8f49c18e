"""Restoring in the latent space of an autoencoder: what is measured is an image, what is sampled its latent z.

A latent denoiser predicts z0; images are decode(z0). `dps(latent, y, A @ Operator(decode))` is latent DPS; here is what keeps
the latent one that the encoder could have made, or makes it explain the measurement by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fewstep.checks import positive, whole
from fewstep.samplers.guidance.guidance_entry import method
from fewstep.samplers.guidance.measurement import Measurement
from fewstep.samplers.guidance.network_covariance import most_probable
from fewstep.samplers.run.denoiser import Denoiser
from fewstep.samplers.run.guided import Call, Guided
from fewstep.samplers.run.per_sample import beside, dot

Map = Callable[[Tensor], Tensor]


@method("psld", kind="restoring", operator="linear", gradients=1)
def psld(
    denoiser: Denoiser,
    measurement: Tensor,
    operator: Any,
    noise_std: float = 0.0,
    scale: float = 1.0,
    *,
    decode: Map = lambda z: z,
    encode: Map = lambda x: x,
    gluing: float = 0.1,
    iterations: int = 1,
) -> Denoiser:
    """Latent DPS with gluing: the latent explains the measurement, and is what its image, with the measured put in, encodes to.

        least |y - A dec(z)|^2 + gluing |z - enc(dec(z) + A^+ (y - A dec(z)))|^2 near D, under the network's own covariance

    as far as `iterations` of conjugate gradients go, the first along the publication's direction: the gradient of both terms
    through the network, with a length that is found instead of tuned.

    Args:
        denoiser: on latents. measurement, operator, noise_std, scale: as in `dps`, of images; the operator linear, with a
            pseudo-inverse or A^T / |A|^2 in its place. decode, encode: latents to images and back, differentiable; of a
            pipeline pipe: lambda z: pipe.vae.decode(z / pipe.vae.config.scaling_factor).sample, and
            lambda x: pipe.vae.config.scaling_factor * pipe.vae.encode(x).latent_dist.mean.
    Cost: `iterations` vector-Jacobian products of network, decoder and encoder a call. Raises ValueError as `dps`.

    Reference: Solving Linear Inverse Problems Provably via Posterior Sampling with Latent Diffusion Models; Rout, Raoof, Daras,
    Caramanis, Dimakis, Shakkottai; 2023; arXiv:2307.00619.
    """
    known, scale = Measurement(measurement, operator, noise_std), positive("scale", scale, zero=True)
    gluing, iterations = positive("gluing", gluing, zero=True), whole("iterations", iterations)
    _functions(decode=decode, encode=encode)
    A = known.operator
    if not A.linear:
        raise ValueError(
            f"{A.name} is not linear, which psld needs: dps(denoiser, y, A @ Operator(decode, ...)) is not"
        )

    def rows(z: Tensor) -> Tensor:
        image = decode(z)
        miss = known.miss(image)
        back = A.T(miss) / known.norm**2 if A.pinv is None else A.pinv(miss)
        return torch.cat([miss.flatten(1), gluing**0.5 * (z - encode(image + back)).flatten(1)], 1)

    def shift(call: Call) -> Tensor:
        return scale * most_probable(call, rows, iterations, known.noise_std**2)

    return Guided(denoiser, shift, gradient=True)


@method("resample", kind="restoring", operator="any")
def resample(
    denoiser: Denoiser,
    measurement: Tensor,
    operator: Any,
    noise_std: float = 0.0,
    *,
    decode: Map = lambda z: z,
    iterations: int = 10,
    prior_std: float = 1.0,
) -> Denoiser:
    """Hard data consistency: predicted z0 is moved until its image explains the measurement, and noised anew.

        least |y - A dec(z)|^2 / noise_std^2 + |z - D|^2 / r^2 from z = D, by `iterations` of Gauss-Newton's gradient steps

    each as long as the linearised problem says, and r^2 the spread of z0 (as in `dps`): early steps may move far, late ones
    little. Play it by solver="ddim" with eta=1, the publication's stochastic resampling, or "renoise".

    Args: as `psld`; any differentiable operator, no encoder. Cost: none of the network; the decoder `iterations` times with
    its gradient. Raises ValueError as `dps`.

    Reference: Solving Inverse Problems with Latent Diffusion Models via Hard Data Consistency; Song, Kwon, Zhang, Hu, Qu, Shen;
    2023; arXiv:2307.08123.
    """
    known, iterations = Measurement(measurement, operator, noise_std), whole("iterations", iterations)
    prior_std = positive("prior_std", prior_std)
    _functions(decode=decode)

    def shift(call: Call) -> Tensor:
        noise = max(known.noise_std**2, 1e-6)
        weight = noise / torch.as_tensor(call.spread(prior_std)).to(call.x0).clamp(min=1e-12)
        z = call.x0.detach()
        for _ in range(iterations):
            with torch.enable_grad():
                at = z.detach().requires_grad_()
                miss = known.miss(decode(at))
                cotangent = torch.zeros_like(miss, requires_grad=True)
                (back,) = torch.autograd.grad(miss, at, cotangent, create_graph=True)
                (down,) = torch.autograd.grad(0.5 * miss.square().sum(), at, retain_graph=True)
                down = (down + weight * (at - call.x0)).detach()
                (image,) = torch.autograd.grad(back, cotangent, down)
            curvature = dot(image, image).flatten() + dot(down, weight * down).flatten()
            step = dot(down, down).flatten() / curvature.clamp(min=1e-30)
            z = z - beside(step, z) * down
        return z - call.x0

    return Guided(denoiser, shift)


def _functions(**given: Any) -> None:
    for name, value in given.items():
        if not callable(value):
            raise ValueError(f"`{name}` must be a function of a batch; got {type(value).__name__}")
