"""What the Fokker-Planck equation leaves of a network's answer, and whether it is a gradient at all.

In y = x / alpha and rho = sigma / alpha every schedule diffuses by d p / d(rho^2 / 2) = div grad p, so that a true score
s = grad log p = -eps / rho obeys ds / d(rho^2 / 2) = grad(div s + |s|^2). In units of eps, with lam = -log rho and
u = y / rho,

    R = (eps + d eps / d lam) - grad_u (|eps|^2 - div_u eps)          is zero at every level,
    J = d eps / du                                                    is symmetric there.

|R|^2 is asked by random directions v, E_v <v, R>^2 = |R|^2, and the divergence by random signs z, E_z <z, J z> = div_u eps,
two for one direction, whose product is unbiased; of few dimensions it is summed along the axes instead. Derivatives along
v and z are central differences, J' z is one vector-Jacobian product: nothing is differentiated
twice, so that any network will do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fewstep.samplers.run.denoiser import Denoiser

FEW = 8  # dimensions whose divergence is summed
STEP, LEVEL = 0.03, 0.05  # of differences in u along a direction of unit entries, and in lam
CALLS, PULLED = 14, 5  # network evaluations of each sample at a level, and of these with a way back


class Residual(NamedTuple):
    """Of every sample, (B,): |R|^2 and |J z - J' z|^2 / 4 and |J z + J' z|^2 / 4, each over the dimension."""

    fokker_planck: Tensor
    skew: Tensor
    even: Tensor


def residual(denoiser: Denoiser, x: Tensor, lam: float, drawn: Sequence[Tensor]) -> Residual:
    """R and the symmetry of J at states x (B, *shape) of a level lam; drawn: unit Gaussians for v and two z, each as x."""
    schedule = denoiser.schedule
    node = schedule.node(float(schedule.t_of_lam(lam)))
    y, rho = x / node.alpha, node.sigma / node.alpha

    def eps(u_moved: Tensor, level: float = node.lam) -> Tensor:
        at = schedule.node(float(schedule.t_of_lam(level)))
        return denoiser.eps(at.alpha * (y + rho * u_moved), at.t)

    nothing = torch.zeros_like(x)
    with torch.no_grad():
        changed = eps(nothing) + (eps(nothing, node.lam + LEVEL) - eps(nothing, node.lam - LEVEL)) / (2 * LEVEL)
        v, signs = drawn[0], [z.sign() for z in drawn[1:]]
    d = x[0].numel()
    probes = [[z] for z in signs] if d > FEW else [_axes(x)]
    ends = [_grown(eps, side * STEP * v, probes) for side in (1, -1)]
    with torch.no_grad():
        off = [inner(v, changed) - (after - before) / (2 * STEP) for after, before in zip(*ends, strict=True)]
        z = signs[0]
        along = (eps(STEP * z) - eps(-STEP * z)) / (2 * STEP)
    back, _ = _pulled(eps, nothing, z)
    return Residual(off[0] * off[-1] / d, _square(along - back) / 4 / d, _square(along + back) / 4 / d)


def _axes(x: Tensor) -> list[Tensor]:
    """Unit vectors of every dimension, each as x."""
    units = torch.eye(x[0].numel(), dtype=x.dtype, device=x.device)
    return [unit.view(x.shape[1:]).expand_as(x) for unit in units]


def _grown(eps: Callable[[Tensor], Tensor], u: Tensor, probes: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """|eps|^2 - sum_z <z, J z> at a state moved by u, (B,) for each list of z."""
    found = []
    for several in probes:
        pulled = [_pulled(eps, u, z) for z in several]
        trace = sum(inner(back, z) for (back, _), z in zip(pulled, several, strict=True))
        found.append(pulled[0][1].square().flatten(1).sum(1) - trace)
    return found


def _pulled(eps: Callable[[Tensor], Tensor], u: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """J' z and eps."""
    with torch.enable_grad():
        u = u.detach().requires_grad_()
        value = eps(u)
        if not value.requires_grad:
            raise ValueError(
                "the network's output does not depend on x as far as autograd sees: it detaches x, or runs under no_grad. "
                "Wrap the network itself, Denoiser(lambda x, t: unet(x, t).sample, schedule)"
            )
        (back,) = torch.autograd.grad(value, u, z)
    return back, value.detach()


def inner(a: Tensor, b: Tensor) -> Tensor:
    """<a, b> of every sample, (B,)."""
    return (a * b).flatten(1).sum(1)


def _square(a: Tensor) -> Tensor:
    return inner(a, a)
