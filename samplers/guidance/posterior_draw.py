"""Restoring by draws: predicted x0 is replaced by one draw of x0 given the state and the measurement, and all noise by new.

    x0 ~ N(D, C) given y:    u = D + C^(1/2) e,    x0 = u + C A^T (A C A^T + noise_std^2)^-1 (y - A u - noise_std n)

A run that then noises x0 anew, `solver="renoise"`, is Gibbs' sampling between levels: it leaves p(x_t | y) as it is at every
level, whatever the steps, as far as p(x0 | x_t) is N(D, C). On Gaussian data that is so: no error of discretisation is left.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fewstep.checks import positive, whole
from fewstep.samplers.guidance.guidance_entry import method
from fewstep.samplers.guidance.linear_solve import conjugate_gradients
from fewstep.samplers.guidance.measurement import Measurement
from fewstep.samplers.noise.brownian import unit_normal
from fewstep.samplers.noise.draws import check_seeds, onto
from fewstep.samplers.run.denoiser import Denoiser
from fewstep.samplers.run.guided import Call, Guided
from fewstep.samplers.run.per_sample import beside, dot, norm

Map = Callable[[Tensor], Tensor]
COVARIANCES = ("network", "spread")
DRAWS = 2**34  # counters of these draws, beyond those of a seed's noise
SPREADS, NOISES = 0, 1


@method("daps", kind="restoring", operator="any", gradients=11)
def daps(
    denoiser: Denoiser,
    measurement: Tensor,
    operator: Any,
    noise_std: float = 0.0,
    *,
    covariance: str = "network",
    iterations: int = 5,
    prior_std: float = 1.0,
    seeds: Sequence[int] | None = None,
) -> Denoiser:
    """Decoupled annealing: predicted x0 becomes a draw of x0 given state and measurement; play it by solver="renoise".

    covariance: "network", C = (sigma^2 / alpha) J, whose root comes from `iterations` of Lanczos and whose system from as many
    of conjugate gradients: exact on Gaussian data once they are as many as it has different variances. "spread", the published
    C = r^2 (r as in `dps`), without gradients of the network. The publication draws by Langevin steps; here the draw is made at
    once, with A's derivative at D where A is not linear. A draw is a sample, not the mean: its PSNR is lower, by nature.

    Args:
        measurement, operator, noise_std, prior_std: as in `dps`. seeds: one a sample, which make a draw its own; torch's
            generator otherwise.
    Cost: 2 iterations + 1 vector-Jacobian products of the network a call, or none. Raises ValueError as `dps`.

    Reference: Improving Diffusion Inverse Problem Solving with Decoupled Noise Annealing; Zhang, Chu, Berner, Meng, Anandkumar,
    Song; 2024; arXiv:2407.01521.
    """
    known, iterations = Measurement(measurement, operator, noise_std), whole("iterations", iterations)
    prior_std, A = positive("prior_std", prior_std), known.operator
    if covariance not in COVARIANCES:
        raise ValueError(f"`covariance` must be one of {', '.join(map(repr, COVARIANCES))}; got {covariance!r}")

    def shift(call: Call) -> Tensor:
        D, spread = call.x0, call.spread(prior_std)
        if covariance == "network":
            times: Map = lambda v: call.tweedie * call.pull(v)  # noqa: E731
            u = root(times, drawn(seeds, SPREADS, call, D), iterations)
        else:
            times = lambda v: spread * v  # noqa: E731
            u = torch.as_tensor(spread).to(D).sqrt() * drawn(seeds, SPREADS, call, D)
        push: Map = lambda v: A.push(v, D)  # noqa: E731
        pull: Map = lambda v: A.pull(v, D)  # noqa: E731
        miss = known.miss(D)
        miss = miss - push(u) - known.noise_std * drawn(seeds, NOISES, call, miss)
        floor = max(known.noise_std**2, 1e-6 * known.norm**2 * float(torch.as_tensor(spread).max()))
        system: Map = lambda v: push(times(pull(v))) + floor * v  # noqa: E731
        return u + times(pull(conjugate_gradients(system, miss, iterations)))

    return Guided(denoiser, shift, gradient=covariance == "network")


def drawn(seeds: Sequence[int] | None, what: int, call: Call, like: Tensor) -> Tensor:
    """A unit Gaussian like this: of the samples' seeds and the row that asks, or torch's own."""
    if seeds is None:
        return torch.randn_like(like)
    check_seeds(tuple(seeds), like)
    row = getattr(call.step, "index", 0)
    return onto(like, [unit_normal(int(seed), (DRAWS, what, row), like.shape[1:]) for seed in seeds])


def root(times: Map, z: Tensor, iterations: int) -> Tensor:
    """C^(1/2) z of a symmetric C >= 0 by Lanczos: |z| V T^(1/2) e_1, V and T of the Krylov space of z; sample by sample.

    Directions are kept orthogonal to all before them. What comes out negative, of a J that is no covariance, counts as zero.
    """
    length = norm(z)
    v = z / length.clamp(min=1e-30)
    basis, diagonal, beside_it = [v], [], []
    for k in range(iterations):
        w = times(basis[-1])
        diagonal.append(dot(w, basis[-1]).flatten())
        for _ in range(2):  # once loses orthogonality to rounding
            for one in basis:
                w = w - dot(w, one) * one
        size = norm(w)
        if k + 1 == iterations:
            break
        alive = size > 1e-6 * diagonal[0].abs().clamp(min=1e-30).view_as(size)
        beside_it.append(torch.where(alive, size, 0.0).flatten())
        basis.append(torch.where(alive, w / torch.where(alive, size, 1.0), 0.0))
    T = torch.diag_embed(torch.stack(diagonal, -1))
    if beside_it:
        off = torch.stack(beside_it, -1)
        T = T + torch.diag_embed(off, 1) + torch.diag_embed(off, -1)
    values, vectors = torch.linalg.eigh(T.double())
    first = (vectors * values.clamp(min=0).sqrt()[:, None] @ vectors[:, 0, :, None])[..., 0].to(z)
    return length * sum((beside(first[:, k], z) * one for k, one in enumerate(basis)), torch.zeros_like(z))
