"""Gradient steps with momentum through the space of noise, each sample by itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fewstep.adjoint.optimise.lbfgs import Search
from fewstep.adjoint.optimise.noise_space import Loss, NoiseSpace, Optimised, ends_of, on_shell, shell_of
from fewstep.checks import positive, whole
from fewstep.samplers.guidance.guidance_entry import method
from fewstep.samplers.noise.draws import Draw
from fewstep.samplers.noise.sources import NoiseSource
from fewstep.samplers.run.denoiser import Denoiser
from fewstep.samplers.run.per_sample import norm

INJECTED = 95  # slot of the noises that doodl adds, out of the way of those of rows


@method("doodl", kind="noise", gradients=1)
def doodl(
    denoiser: Denoiser,
    x_T: Tensor,
    loss: Loss,
    solver: Any = "edict",
    nfe: int | None = None,
    grid: Any = None,
    *,
    iterations: int = 30,
    lr: float | None = None,
    clip: float = 0.02,
    momentum: float = 0.9,
    renorm: bool | str = True,
    shell: float | None = 0.05,
    noise: float = 0.0,
    prior: float = 0.0,
    seeds: Sequence[int] | None = None,
    method: str | None = None,
    progress: bool = False,
    t_start: float | None = None,
    t_end: float | None = None,
    **solver_options: Any,
) -> Optimised:
    """Gradient steps with momentum on the noise: end-to-end classifier guidance.

        v <- momentum v + shortened(lr g),    z <- renormalised(z - v + noise e),    g = dloss(x0(z)) / dz

        found = guidance.doodl(denoiser, x_T, lambda x0: -classifier(x0).log_softmax(1)[:, 3]);    found.x0

    Args:
        x_T: starts, (B, *shape). loss: x0 -> (B,), one a sample and of it alone; for a pipeline's latents it may decode them
            (output_type="pt"). solver, nfe, grid, ...: as in `sample`, of solvers that are tables;
            nfe is 50 (25 steps of EDICT) unless something says otherwise.
        iterations: gradient steps. lr: times the gradient; None takes every step as long as `clip` allows, whatever the
            loss's scale. clip: longest step, in lengths of noise, sqrt(d).
        renorm: mean 0 and variance 1 of each sample, of each of its channels ("channel"), or neither (False), at the start and
            after every step. shell: how far |z| may then be from sqrt(d), relatively; 0 holds it there, None lets it go.
            For x_T of an image (adjoint.invert) that is to be edited: renorm=False, shell=None. noise: of deviation e added.
            prior: times `noise_prior_penalty`.
        seeds: one a sample, of e and of what a stochastic solver draws, which is the same in every step. method: of
            `adjoint.sample`; None is "reversible" where the table can be undone (edict, bdia: memory of two latents and one
            network call), "checkpoint" elsewhere. progress: show a bar.

    Returns:
        Optimised: a sample's best is its own, the same alone and in any batch (as far as the network's rounding is).

    Cost: (iterations + 1) nfe network calls, and iterations * nfe of the way back with their vector-Jacobian products
    ("reversible" makes each twice); device memory of one network call. One device read an iteration.

    Raises:
        ValueError: bad arguments, before the first call; a loss that is not (B,), or not finite, by its iteration.

    Published: clip by element at 1e-3, momentum 0.9, length kept at the start's (renorm=False, shell=0), noise 1e-4, EDICT of
    50 steps (nfe=100), both of whose states are decoded; here it is the first.

    Reference: End-to-End Diffusion Latent Optimization Improves Classifier Guidance; Wallace, Gokul, Ermon, Naik; 2023;
    arXiv:2303.13703.
    """
    ends = ends_of(solver, nfe, grid, t_start, t_end, 50)
    space = NoiseSpace(denoiser, x_T, loss, solver, ends, solver_options, prior=prior, seeds=seeds, method=method)
    iterations, clip = whole("iterations", iterations), positive("clip", clip)
    momentum, noise = positive("momentum", momentum, zero=True), positive("noise", noise, zero=True)
    lr, shell = None if lr is None else positive("lr", lr), shell_of(shell)
    if noise and seeds is None:
        raise ValueError(f"`noise`={noise:g} is drawn from `seeds`, one a sample; got none")
    if renorm not in (True, False, "channel") or (renorm == "channel" and x_T.ndim < 3):
        raise ValueError(
            f'`renorm` must be True, False, or "channel" for states (B, C, ...); got {renorm!r} for shape {tuple(x_T.shape)}'
        )
    axes = tuple(range(2 if renorm == "channel" else 1, x_T.ndim)) if renorm else ()

    def made_noise(z: Tensor, step: int | None = None) -> Tensor:
        if noise and step is not None and seeds is not None:
            z = z + noise * NoiseSource(seeds)(Draw(step, INJECTED, 0.0, 0.0), z)
        z = standardised(z, axes) if axes else z
        return z if shell is None else on_shell(z, shell)

    start = made_noise(space.start)
    return space.run(_momentum(start, lr, clip * space.length, momentum, made_noise), iterations, progress)


def _momentum(
    z: Tensor, lr: float | None, longest: float, momentum: float, made_noise: Callable[[Tensor, int], Tensor]
) -> Search:
    """Steps of doodl, asked as those of `lbfgs`."""
    v, step, tiny = torch.zeros_like(z), 0, torch.finfo(z.dtype).tiny ** 0.5
    while True:
        _, g = yield z
        if lr is not None:
            g = lr * g
        share = longest / norm(g).clamp(min=tiny)
        v = momentum * v + g * (share if lr is None else share.clamp(max=1))
        z, step = made_noise(z - v, step), step + 1


def standardised(z: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Mean 0 and variance 1 along the axes."""
    z = z - z.mean(axes, keepdim=True)
    return z / z.square().mean(axes, keepdim=True).sqrt().clamp(min=torch.finfo(z.dtype).tiny)
