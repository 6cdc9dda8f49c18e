"""L-BFGS through the space of noise, each sample by itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fewstep.adjoint.inversion.inverting import invert
from fewstep.adjoint.optimise.lbfgs import lbfgs
from fewstep.adjoint.optimise.noise_space import Loss, NoiseSpace, Optimised, ends_of, on_shell, shell_of
from fewstep.checks import positive, whole, within
from fewstep.samplers.guidance.guidance_entry import method
from fewstep.samplers.run.denoiser import Denoiser
from fewstep.samplers.run.per_sample import wide


@method("d_flow", kind="noise", gradients=1)
def d_flow(
    denoiser: Denoiser,
    x_T: Tensor,
    loss: Loss,
    solver: Any = "dpm_2",
    nfe: int | None = None,
    grid: Any = None,
    *,
    iterations: int = 30,
    clip: float = 0.1,
    memory: int = 10,
    shell: float | None = 0.0,
    prior: float = 0.0,
    guess: Tensor | None = None,
    blend: float = 0.1,
    seeds: Sequence[int] | None = None,
    method: str | None = None,
    progress: bool = False,
    t_start: float | None = None,
    t_end: float | None = None,
    **solver_options: Any,
) -> Optimised:
    """L-BFGS on the noise, with a line search: exact gradients of a few steps make curvatures that can be trusted.

        z <- z - t H g,    t by the strong Wolfe conditions, H of the last `memory` steps: all of each sample's own

        found = guidance.d_flow(denoiser, x_T, lambda x0: (mask * (x0 - image)).square().flatten(1).sum(1));    found.x0

    There is no regulariser of x0: differentiating through the flow already favours directions in which data vary.

    Args:
        x_T, loss, solver, nfe (12 by default), grid, prior, seeds, progress, ...: as in `doodl`. "dpm_2" is the midpoint rule
            in lam; on flow schedules "heun" with alpha=0.5 is that in t.
        iterations: evaluations of loss and gradient, those of the line search counted. clip: first try of a step at most,
            and of the very first, in lengths of noise. memory: pairs that H remembers.
        shell: |z| is held within sqrt(d) (1 +- shell), by shortening or lengthening z before it is used: 0 moves it on the
            sphere, None lets it go, as published. What leaves a shell moves on its surface.
        guess: images (B, *shape) to start from: sqrt(blend) invert(guess) + sqrt(1 - blend) x_T, inverted by plain DDIM.
        method: of `adjoint.sample`, an exact one; None as in `doodl`.

    Returns, cost and errors as of `doodl`; `guess` costs nfe network calls.

    Reference: D-Flow: Differentiating through Flows for Controlled Generation; Ben-Hamu, Puny, Gat, Karrer, Singer, Lipman;
    2024; arXiv:2402.14017.
    """
    if method in ("adjoint_dpm", "adjoint_deis"):
        raise ValueError(f'{method!r} approximates the gradient, and a line search needs it exactly: take "checkpoint"')
    ends = ends_of(solver, nfe, grid, t_start, t_end, 12)
    width = shell_of(shell)
    hold = None if width is None else partial(on_shell, shell=width)
    space = NoiseSpace(
        denoiser, x_T, loss, solver, ends, solver_options, prior=prior, seeds=seeds, method=method, hold=hold
    )
    iterations, memory, clip = whole("iterations", iterations), whole("memory", memory), positive("clip", clip)
    start = space.start if guess is None else _blended(space, denoiser, guess, blend)
    return space.run(lbfgs(start, clip * space.length, memory), iterations, progress)


def _blended(space: NoiseSpace, denoiser: Denoiser, guess: Tensor, blend: float) -> Tensor:
    """sqrt(blend) invert(guess) + sqrt(1 - blend) z."""
    if not isinstance(guess, Tensor) or guess.shape != space.start.shape:
        got = tuple(guess.shape) if isinstance(guess, Tensor) else type(guess).__name__
        raise ValueError(f"`guess` must be images of x_T's shape {tuple(space.start.shape)}; got {got}")
    blend = within("blend", blend, 0, 1, hint="It is the guess's share of the variance")
    table = space.table
    ends: dict[str, Any] = {"t_start": float(table.times[0]), "t_end": float(table.times[-1])}
    with torch.no_grad():
        image = guess.to(space.start.device, space.dtype)
        found = invert(denoiser, image, "ddim", table.nfe, iterations=1, **ends)
    return math.sqrt(blend) * wide(found) / space.std + math.sqrt(1 - blend) * space.start
