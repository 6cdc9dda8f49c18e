"""Guidance by losses of predicted x0 whose step is as long as norms say: no gradient of the network, no scale to find."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fewstep.checks import positive, whole
from fewstep.samplers.guidance.accumulated_step import Accumulated, by_time
from fewstep.samplers.guidance.accumulated_step import views as views_of
from fewstep.samplers.guidance.guidance_entry import method
from fewstep.samplers.guidance.measurement import Measurement
from fewstep.samplers.run.denoiser import Denoiser
from fewstep.samplers.run.guided import Call, Guided
from fewstep.samplers.run.per_sample import beside, norm, one_each

Map = Callable[[Tensor], Tensor]


@method("dreamguider", kind="restoring", operator="any")
def dreamguider(
    denoiser: Denoiser,
    measurement: Tensor | None = None,
    operator: Any = None,
    noise_std: float = 0.0,
    scale: float = 1.0,
    *,
    loss: Map | None = None,
    augmentations: Sequence[Map] | int = (),
    prior_std: float = 1.0,
    published: bool = False,
    weights: tuple[float, float] = (1.0, 1.0),
) -> Denoiser:
    """In the manner of Dreamguider: predicted x0 goes down a loss's gradient, by a length that norms choose.

        D' = D - h g / |g|,    g = grad_D L,    h = min(scale r sqrt(d), 2 (L - L_min) / |g|)

    The first bound is the deviation of x0 given x, of d elements (r as in `dps`): as far as x0 is still unknown. The second is
    where a loss that is quadratic along g would be least (Polyak's step, twice, since such a loss falls with the square),
    so that steps shorten as the loss does. Every sample has its own, neither depends on the solver or nfe, nor on a factor
    of the loss.

    published: gradients at predicted x0 and at predicted eps, whose directions are the same, since D = (x - sigma eps) / alpha,
    weighed by time and by `weights`, on the state between the steps of "ddpm", with distance over accumulated gradients for a
    length: see accumulated_step.py. The weights c and d are the caller's: what is public does not say their values.

    Args:
        measurement, operator, noise_std, prior_std: as in `dps`; L = |y - A D|^2 / 2, L_min = m noise_std^2 / 2 for m numbers
            measured. loss: (B, *shape) -> (B,), at least 0, of clean samples, instead; L_min = 0.
        scale: 1 trusts the spread. augmentations: functions of a batch, differentiable, applied alike to y and A(D) (with
            `loss`, to D): the losses are averaged. Use ones that draw no random numbers, which would make steps differ; a
            number stands for so many translations with a cut-out, of images.
    Cost: the loss's gradient, none of the network. Raises ValueError as `dps`.

    Reference: Dreamguider: Improved Training free Diffusion-based Conditional Generation; Nair, Patel; 2024; arXiv:2406.02549.
    """
    if (loss is None) == (measurement is None) or (measurement is None) != (operator is None):
        raise ValueError("dreamguider needs a measurement and its operator, or a `loss` of clean samples instead")
    known = None if measurement is None else Measurement(measurement, operator, noise_std)
    scale, prior_std = positive("scale", scale, zero=True), positive("prior_std", prior_std)
    given = views_of(whole("augmentations", augmentations)) if isinstance(augmentations, int) else list(augmentations)
    views, gone = given or [lambda u: u], Accumulated()
    if not all(map(callable, views)):
        raise ValueError("`augmentations` must be functions of a batch, (B, ...) -> (B, ...)")
    at_x0, at_eps = (positive("weights", weight, zero=True) for weight in weights)

    def value(x0: Tensor) -> Tensor:
        if known is None:
            assert loss is not None
            return torch.stack([one_each(loss(view(x0)), x0, "loss") for view in views]).mean(0)
        y = known.y.to(x0)
        found = y - known.miss(x0)
        gaps = [(view(y) - view(found)).flatten(1) for view in views]
        least = known.noise_std**2
        return torch.stack([0.5 * (gap.square().sum(1) - gap.shape[1] * least) for gap in gaps]).mean(0)

    def shift(call: Call) -> Tensor:
        with torch.enable_grad():
            at = call.x0 if call.x0.requires_grad else call.x0.detach().requires_grad_()
            values = value(at)
            (g,) = torch.autograd.grad(values.sum(), at, create_graph=call.outside)
        if published:
            much = by_time(call, at_x0, at_eps) / call.weight
            return -(scale * much) * gone.length(call, g) * g
        size = norm(g).clamp(min=1e-20)
        reach = scale * (call.spread(prior_std) * g[0].numel()) ** 0.5
        polyak = 2 * beside(values, g).clamp(min=0) / size
        return -(polyak.clamp(max=reach) / size) * g

    return Guided(denoiser, shift)
