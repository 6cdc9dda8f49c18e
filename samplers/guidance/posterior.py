"""Posterior sampling with the gradient of the network: a measurement's likelihood through predicted x0.

    D' = D + (sigma^2 / alpha) l,    l = grad_x log p(y | x),    p(y | x) = E[ N(y; A x0, noise_std^2) | x ]

The methods differ in what they take x0 given x to be. With D its mean, J = dD/dx and C = Cov(x0 | x) = (sigma^2 / alpha) J,

    exact_covariance   N(D, C):      l = J^T A^T (A C A^T + noise_std^2)^-1 (y - A D)
    pigdm              N(D, r^2):    l = J^T A^T (r^2 A A^T + noise_std^2)^-1 (y - A D)
    dps                the same with |A|^2 for A A^T;    any A
    lgd                a few samples of N(D, r^2);       any A, any loss (`loss_guidance.py`)

r^2 = sigma^2 s^2 / (sigma^2 + alpha^2 s^2) for data of variance s^2 (`prior_std`). The elements of real data belong together:
C is far from r^2, up to hundreds of times larger in some directions, and guidance that trusts r^2 overshoots. So the
direction is the method's, and its length is what C itself asks for (`line_search`): the most probable point on the ray,

    D' = D + t C w,    t = <m, A C w> / (noise_std^2 <w, C w> + |A C w|^2),    m = y - A D,    w the method's A^T (...)

for one more A and no call of the network; t is 1 where r^2 is right. Further iterations of `dps` go on from there. None of
them but the first, and that on Gaussian data only, samples the posterior: they restore.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fewstep.checks import positive, whole
from fewstep.samplers.guidance.guidance_entry import method
from fewstep.samplers.guidance.linear_solve import conjugate_gradients
from fewstep.samplers.guidance.measurement import Measurement
from fewstep.samplers.guidance.network_covariance import along, most_probable
from fewstep.samplers.run.denoiser import Denoiser
from fewstep.samplers.run.guided import Call, Guided
from fewstep.samplers.run.per_sample import beside, norm

Loss = Callable[[Tensor], Tensor]


@method("dps", kind="restoring", operator="any", gradients=1)
def dps(
    denoiser: Denoiser,
    measurement: Tensor,
    operator: Any,
    noise_std: float = 0.0,
    scale: float = 1.0,
    *,
    line_search: bool = True,
    iterations: int = 1,
    prior_std: float = 1.0,
    published: bool = False,
) -> Denoiser:
    """Diffusion posterior sampling: the likelihood of the measurement at predicted x0, for any operator.

        D' = D + scale t (sigma^2 / alpha) J^T A'^T (y - A D),    t = 1 / (noise_std^2 + r^2 |A|^2) without line search

    More iterations, of conjugate gradients, go on to the most probable x0 of N(D, C) and the measurement: two or three
    restore better than twice the steps. The strength depends neither on the solver nor on nfe. published: the paper's shift
    between steps, x' <- x' - scale grad_x |y - A D|, which acts once a step: 1000 of them, and a scale found by trying (0.3
    to 1).

    Args:
        denoiser: what is guided; a guided one too. measurement: (B, *m), or (1, *m). operator: Operator, or (A, A^T).
        noise_std: of the measurement. scale: of the shift; pictures are restored best by 2, where the ray ends that is more
        probable than D. line_search: its length from the network's own covariance. prior_std: of the data, in its units,
        for r; of no matter with line search.
    Cost: `iterations` vector-Jacobian products of the network a call. Raises ValueError: see Measurement.

    Reference: Diffusion Posterior Sampling for General Noisy Inverse Problems; Chung, Kim, Mccann, Klasky, Ye; 2023;
    arXiv:2209.14687.
    """
    known, scale = Measurement(measurement, operator, noise_std), positive("scale", scale, zero=True)
    prior_std, iterations = positive("prior_std", prior_std), whole("iterations", iterations)

    def shift(call: Call) -> Tensor:
        if line_search and not published:
            rows: Loss = lambda x0: known.miss(x0).flatten(1)  # noqa: E731
            return scale * most_probable(call, rows, iterations, known.noise_std**2)
        miss = known.miss(call.x0)
        w = known.operator.pull(miss, call.x0)
        if published:
            return (scale / call.weight) * call.pull(w) / beside(norm(miss).clamp(min=1e-12), w)
        return (scale * call.tweedie) * call.pull(w) / (known.noise_std**2 + call.spread(prior_std) * known.norm**2)

    return Guided(denoiser, shift, gradient=True)


@method("pigdm", kind="restoring", operator="linear", gradients=1)
def pigdm(
    denoiser: Denoiser,
    measurement: Tensor,
    operator: Any,
    noise_std: float = 0.0,
    scale: float = 1.0,
    *,
    line_search: bool = True,
    prior_std: float = 1.0,
    iterations: int = 10,
    published: bool = False,
) -> Denoiser:
    """Pseudo-inverse guidance: the likelihood under x0 ~ N(D, r^2), exact for data of independent N(0, prior_std^2).

        D' = D + scale (sigma^2 / alpha) J^T A^T (r^2 A A^T + noise_std^2)^-1 (y - A D)

    times the length of `line_search`; and J^T (h+(y) - h+(h(D))) / r^2 for an operator that is not linear but has `pinv`, h+.
    Where A A^T is no number the system is solved by `iterations` of conjugate gradients. published: the paper's shift
    between the steps of DDIM, alpha r^2 times the gradient.

    Args and errors as `dps`; ValueError for an operator that is neither linear nor has a pinv. Cost: one vector-Jacobian
    product a call.

    Reference: Pseudoinverse-Guided Diffusion Models for Inverse Problems; Song, Vahdat, Mardani, Kautz; 2023.
    """
    known, scale = Measurement(measurement, operator, noise_std), positive("scale", scale, zero=True)
    prior_std, iterations = positive("prior_std", prior_std), whole("iterations", iterations)
    A = known.operator
    if not A.linear and A.pinv is None:
        raise ValueError(
            f"{A.name} is not linear: pigdm needs its pseudo-inverse, Operator(..., pinv=); dps needs none"
        )

    def shift(call: Call) -> Tensor:
        spread = call.spread(prior_std)
        if A.linear:
            miss = known.miss(call.x0)
            back = A.T(known.solve(miss, spread, iterations))
            if line_search and not published:
                return scale * along(call, known, back, miss)
        else:
            assert A.pinv is not None
            back = (A.pinv(known.y.to(call.x0)) - A.pinv(A(call.x0))) / spread
        much = call.alpha * spread / call.weight if published else call.tweedie
        return (scale * much) * call.pull(back)

    return Guided(denoiser, shift, gradient=True)


@method("exact_covariance", kind="restoring", operator="linear", gradients=11)
def exact_covariance(
    denoiser: Denoiser, measurement: Tensor, operator: Any, noise_std: float = 0.0, *, iterations: int = 10
) -> Denoiser:
    """The likelihood under x0 ~ N(D, Cov) with Tweedie's covariance: on Gaussian data it samples the posterior exactly.

        D' = D + Cov A^T (A Cov A^T + noise_std^2)^-1 (y - A D),    Cov = (sigma^2 / alpha) J

    by conjugate gradients, one vector-Jacobian product an iteration: m of them are exact for m measured numbers. A solution
    that leads past the measurement (the J of a network is no true covariance) gets the length that `dps` finds. Without
    noise the system gets a floor of 1e-6 r^2 |A|^2.

    Args and errors as `dps`; linear operators. Cost: up to iterations + 1 vector-Jacobian products a call.

    Reference: Tweedie Moment Projected Diffusions for Inverse Problems; Boys, Girolami, Pidstrigach, Reich, Mosca, Akyildiz;
    2023; arXiv:2310.06721.
    """
    known, iterations = Measurement(measurement, operator, noise_std), whole("iterations", iterations)
    A = known.operator
    if not A.linear:
        raise ValueError(f"{A.name} is not linear, which exact_covariance needs; dps and lgd take any operator")

    def shift(call: Call) -> Tensor:
        def covariance(v: Tensor) -> Tensor:
            return call.tweedie * call.pull(v)

        floor = max(known.noise_std**2, 1e-6 * known.norm**2 * float(torch.as_tensor(call.spread()).max()))
        system: Loss = lambda u: A(covariance(A.T(u))) + floor * u  # noqa: E731
        miss = known.miss(call.x0)
        return along(call, known, A.T(conjugate_gradients(system, miss, iterations)), miss, solved=True)

    return Guided(denoiser, shift, gradient=True)
