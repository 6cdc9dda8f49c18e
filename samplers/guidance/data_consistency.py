"""Restoring without the gradient of the network: predicted x0 is moved towards the measurement, and no more.

    D' = D + (how far) A^T (y - A D)

Papers that move x0 and keep the predicted noise (DDIM steps with the old eps) are the shift times alpha' / B, B the row's
weight of x0: `published=True`. Without it the noise that D' implies is kept, which every solver can do.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from fewstep.checks import positive, whole
from fewstep.samplers.guidance.guidance_entry import method
from fewstep.samplers.guidance.linear_solve import conjugate_gradients
from fewstep.samplers.guidance.measurement import Measurement
from fewstep.samplers.run.denoiser import Denoiser
from fewstep.samplers.run.guided import Call, Guided


@method("mpgd", kind="restoring", operator="any")
def mpgd(
    denoiser: Denoiser,
    measurement: Tensor,
    operator: Any,
    noise_std: float = 0.0,
    scale: float = 1.0,
    *,
    prior_std: float = 1.0,
    published: bool = False,
) -> Denoiser:
    """Manifold preserving guidance: a gradient step of the measurement's error at predicted x0.

        D' = D + scale r^2 A'^T (y - A D) / (noise_std^2 + r^2 |A|^2),    r^2 the spread of x0, see `dps`

    published: D + scale A'^T (y - A D) with the predicted noise kept. Args and errors as `dps`. Cost: none of the network.

    Reference: Manifold Preserving Guided Diffusion; He, Murata, Lai, Takida, Uesaka, Kim, Liao, Mitsufuji, Kolter,
    Salakhutdinov, Ermon; 2023; arXiv:2311.16424.
    """
    known, scale = Measurement(measurement, operator, noise_std), positive("scale", scale, zero=True)
    prior_std = positive("prior_std", prior_std)

    def shift(call: Call) -> Tensor:
        much = call.gain if published else known.share(call, prior_std)
        return (scale * much) * known.operator.pull(known.miss(call.x0), call.x0)

    return Guided(denoiser, shift)


@method("dds", kind="restoring", operator="linear")
def dds(
    denoiser: Denoiser,
    measurement: Tensor,
    operator: Any,
    noise_std: float = 0.0,
    *,
    gamma: float | None = None,
    iterations: int = 5,
    prior_std: float = 1.0,
    published: bool = False,
) -> Denoiser:
    """Decomposed diffusion sampling: predicted x0 made consistent with the measurement by conjugate gradients from D.

        D' = argmin_u  gamma / 2 |A u - y|^2 + 1/2 |u - D|^2,    gamma = r^2 / noise_std^2 by default (r as in `dps`)

    Without noise (and gamma) |A u - y|^2 alone, and few iterations keep u near D. published: gamma 1, and the predicted
    noise kept; the paper's noise is that of solver="ddim" with eta near 1.

    Args and errors as `dps`; linear operators, real or with complex numbers as two channels. Cost: none of the network.

    Reference: Decomposed Diffusion Sampler for Accelerating Large-Scale Inverse Problems; Chung, Lee, Ye; 2024;
    arXiv:2303.05754.
    """
    known, iterations = Measurement(measurement, operator, noise_std), whole("iterations", iterations)
    prior_std, A = positive("prior_std", prior_std), known.operator
    given = positive("gamma", gamma) if gamma is not None else 1.0 if published else None
    if not A.linear:
        raise ValueError(f"{A.name} is not linear, which dds needs; dps, lgd and mpgd take any operator")

    def shift(call: Call) -> Tensor:
        back, gain = A.T(known.miss(call.x0)), call.gain if published else 1.0
        if given is None and known.noise_std == 0:
            return gain * conjugate_gradients(lambda u: A.T(A(u)), back, iterations)
        strength = given if given is not None else call.spread(prior_std) / known.noise_std**2
        return gain * conjugate_gradients(lambda u: u + strength * A.T(A(u)), strength * back, iterations)

    return Guided(denoiser, shift)


@method("impute", kind="restoring", operator="pinv")
def impute(denoiser: Denoiser, measurement: Tensor, operator: Any) -> Denoiser:
    """What is measured is put in place of what is predicted: D' = D + A^+ (y - A D), known pixels or known gray values.

    For operators with a pseudo-inverse, such as mask, colour, downsample, and exact measurements. `replacement` is the
    published form, on the noisy state between steps. Cost: none of the network. Raises ValueError as `dps`.

    Reference: Score-Based Generative Modeling through Stochastic Differential Equations; Song, Sohl-Dickstein, Kingma, Kumar,
    Ermon, Poole; 2021; arXiv:2011.13456, Appendix I.
    """
    known = Measurement(measurement, operator)
    pinv = inverse(known)
    return Guided(denoiser, lambda call: pinv(known.miss(call.x0)))


def inverse(known: Measurement) -> Any:
    """A^+ of a linear operator that has one."""
    A = known.operator
    if not A.linear or A.pinv is None:
        raise ValueError(
            f"{A.name} has no pseudo-inverse to put measurements in place with: mask, colour and downsample have, "
            "Operator(..., pinv=) gives one; dds solves for any linear operator"
        )
    return A.pinv
