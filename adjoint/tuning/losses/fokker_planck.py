"""The Fokker-Planck equation that the score of any noising process obeys, as a residual of the network.

In u = x / alpha and rho = sigma / alpha every Gaussian path is du = sqrt(2 rho) dW in rho, whose density obeys
d log p / d rho = rho (div s + |s|^2), so that with s = -eps / rho

    R = eps - rho d eps / d rho + rho^2 grad div eps - rho grad |eps|^2 = 0.

div eps by one Hutchinson probe v, v^T J v with v = +-1; d eps / d rho by a central difference. A network that obeys it has one
law by ODE and by SDE.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from fewstep.adjoint.tuning.losses.loss_entry import tuning_loss
from fewstep.adjoint.tuning.losses.loss_scene import Scene
from fewstep.checks import positive
from fewstep.samplers.run.denoiser import Denoiser


@tuning_loss(
    "fokker_planck",
    reference="FP-Diffusion: Improving Score-based Diffusion Models by Enforcing the Underlying Score Fokker-Planck Equation, "
    "Lai et al., 2022, arXiv:2210.04296; Closing the ODE-SDE gap in score-based diffusion models through the Fokker-Planck "
    "equation, Deveney et al., 2023, arXiv:2311.15996",
    needs=("teacher",),
    alone=False,
)
def fokker_planck(scene: Scene, *, width: float = 0.02) -> Tensor:
    """|R|^2 / d at one of the table's times, on the line of noise and sample; width: of the difference in log rho.

    Costs one call with three orders of derivative, and two plain ones; the network must have second derivatives.
    """
    positive("width", width, hint="It is a step in log(sigma / alpha)")
    schedule, t = scene.around.problem.schedule, scene.a_time()
    if not math.isfinite(float(schedule.lam(t))):
        t = 0.5 * (t + float(schedule.t_end))
    scene.around.problem.spent += 3 * len(scene.part.seeds)
    probe = torch.randint(0, 2, scene.part.x_T.shape, generator=scene.generator).to(scene.part.x_T) * 2 - 1
    return residual(scene.part.denoiser, scene.between(t).detach(), t, probe, width).double().square().mean()


def residual(denoiser: Denoiser, x: Tensor, t: float, probe: Tensor, width: float = 0.02) -> Tensor:
    """R (B, *shape) at (x, t), with a graph to the weights where gradients are on; probe: +-1, of x's shape."""
    schedule = denoiser.schedule
    here = schedule.nodes(t)
    lam, rho = float(here.lam), float(here.sigma) / float(here.alpha)
    u = (x / float(here.alpha)).detach()
    keep = torch.is_grad_enabled()
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        u.requires_grad_()
        eps = denoiser.eps(float(here.alpha) * u, t)
        (pulled,) = torch.autograd.grad((eps * probe).sum(), u, create_graph=True)
        both = rho**2 * (pulled * probe).sum() - rho * eps.square().sum()
        (slope,) = torch.autograd.grad(both, u, create_graph=keep)
        across = torch.zeros_like(u)
        low, high = _clipped(denoiser, lam - width), _clipped(denoiser, lam + width)
        for lam_at, sign in ((low, 1.0), (high, -1.0)):  # rho falls as lam rises
            at = schedule.nodes(float(schedule.t_of_lam(lam_at)))
            across = across + sign * denoiser.eps(float(at.alpha) * u, float(at.t)) / (high - low)
        found = eps - across + slope  # rho d eps / d rho = -d eps / d lam
    return found if keep else found.detach()


def _clipped(denoiser: Denoiser, lam: float) -> float:
    """A log-SNR within the schedule."""
    schedule = denoiser.schedule
    least, most = float(schedule.lam(schedule.t_max)), float(schedule.lam(schedule.t_min))
    return min(max(lam, least), most)
