"""Classifier guidance: an unconditional model, and a classifier that knows which class a sample is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fewstep.checks import positive
from fewstep.samplers.guidance.guidance_entry import method
from fewstep.samplers.guidance.network_covariance import slope
from fewstep.samplers.run.denoiser import Denoiser
from fewstep.samplers.run.guided import Call, Guided

Scale = float | Callable[[Any], Any]


@method("classifier", kind="scale")
def classifier(
    denoiser: Denoiser,
    network: Callable[..., Tensor],
    classes: int | Tensor,
    scale: Scale = 1.0,
    *,
    clean: bool = False,
) -> Denoiser:
    """Samples of the classes asked for, from a model that knows none, by the gradient of a classifier.

        D' = D + scale (sigma^2 / alpha) grad_x log p(class | x, t)

    With the exact classifier and scale 1 this is the exact conditional model. Over an unconditional model 10 is common.

    Args:
        denoiser: what is guided. network: a classifier of noisy samples, (x (B, *shape), tau) -> logits (B, K), shown the same
            time as the denoiser; clean: one of clean samples, x0 -> (B, K), asked at predicted x0 through the network.
        classes: an int for all, or (B,) of them, 0 to K - 1. scale: a number, or a function of sigma / alpha (a number, or
            (B, 1, ...)): through the network, clean classifiers mislead at high noise: lambda rho: 5.0 * (rho < 10).
    Cost: the classifier's gradient, and no vector-Jacobian product of the diffusion network; with clean, one. The first
    call asks the classifier once more, for its number of classes.

    Raises: ValueError for classes that are no ints or out of range, for as many as there are no samples, and for logits of
    another shape, before the diffusion network is called.

    Reference: Diffusion Models Beat GANs on Image Synthesis; Dhariwal, Nichol; 2021; arXiv:2105.05233.
    """
    if not callable(network):
        raise ValueError(f"`network` must be a classifier, a function; got {type(network).__name__}")
    strength = scale if callable(scale) else positive("scale", scale, zero=True)
    return _Classified(denoiser, network, _labels(classes), strength, clean)


class _Classified(Guided):
    """A denoiser guided by a classifier. count: number of its classes, once it has been asked."""

    def __init__(self, inner: Denoiser, network: Callable[..., Tensor], classes: Tensor, scale: Scale, clean: bool):
        super().__init__(inner, self._pulled if clean else self._pushed, gradient=clean)
        self.network, self.classes, self.scale, self.clean = network, classes, scale, clean
        self.count: int | None = None

    def call(self, x: Tensor, tau: Tensor, step: Any = None) -> Tensor:
        """The guided output, in x's shape; float32 at least."""
        if len(self.classes) not in (1, len(x)):
            raise ValueError(f"{len(self.classes)} classes for a batch of {len(x)}: give one a sample, or one for all")
        if self.count is None:
            with torch.no_grad():
                logits = self.network(x) if self.clean else self.network(x, tau)
            if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(x):
                got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
                raise ValueError(f"the classifier must return logits of shape ({len(x)}, K); got {got}")
            top = int(self.classes.max())
            if top >= logits.shape[1]:
                raise ValueError(
                    f"class {top} is out of range: the classifier knows {logits.shape[1]}, 0 to {logits.shape[1] - 1}"
                )
            self.count = logits.shape[1]
        return super().call(x, tau, step)

    def _weight(self, call: Call) -> Any:
        return 0.0 if call.blind else (self.scale(call.rho) if callable(self.scale) else self.scale) * call.tweedie

    def _picked(self, logits: Tensor) -> Tensor:
        """log p of every sample's class, (B,)."""
        labels = self.classes.to(logits.device).expand(len(logits))
        return logits.log_softmax(1).gather(1, labels[:, None])[:, 0]

    def _pushed(self, call: Call) -> Tensor:
        with torch.enable_grad():
            at = call.x if call.x.requires_grad else call.x.detach().requires_grad_()
            found = self._picked(self.network(at, call.tau)).sum()
            (g,) = torch.autograd.grad(found, at, create_graph=call.outside)
        return self._weight(call) * call.raised(g.to(call.output))

    def _pulled(self, call: Call) -> Tensor:
        g = slope(lambda x0: self._picked(self.network(x0.to(call.x))), call, "network")
        return self._weight(call) * call.pull(g)


def _labels(classes: Any) -> Tensor:
    """Classes as a tensor of ints, (B,) or (1,)."""
    found = classes.detach().cpu() if isinstance(classes, Tensor) else torch.as_tensor(classes)
    whole = not (found.is_floating_point() or found.is_complex() or found.dtype == torch.bool)
    if not whole or found.ndim > 1 or found.numel() == 0 or int(found.min()) < 0:
        raise ValueError(f"`classes` must be an int from 0, or (B,) of them; got {classes!r}")
    return found.reshape(-1).long()
