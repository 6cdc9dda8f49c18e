"""Classifier-free guidance of two denoisers, called one after the other."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop

from ..denoiser import Denoiser
from ..probing import PipelineDenoiser

Tensor = torch.Tensor


def cfg(conditional: Denoiser, unconditional: Denoiser, scale: float | Tensor) -> Denoiser:
    """Both outputs extrapolated, u + scale (c - u), from two calls one after the other instead of one of twice the batch.

        guided = guidance.cfg(Denoiser.from_pipeline(pipe, prompt=..., guidance_scale=1.0),
                              Denoiser.from_pipeline(pipe, prompt="", guidance_scale=1.0), 7.5)

    scale: a number, or a tensor (0-dim, or one a sample (B, 1, ...)) that may require a gradient. Where gradients are on, each
    call is made again on the way back, so that at most one of the two holds its activations: half the memory, half as many
    calls more. `nfe` counts the pair as one.

    Raises: ValueError for denoisers of different schedules or predictions.

    Reference: Classifier-Free Diffusion Guidance; Ho, Salimans; 2022; arXiv:2207.12598.
    """
    for name, one in (("conditional", conditional), ("unconditional", unconditional)):
        if not isinstance(one, Denoiser):
            raise ValueError(f"`{name}` must be a Denoiser; got {type(one).__name__}")
    if conditional.schedule != unconditional.schedule or conditional.prediction != unconditional.prediction:
        raise ValueError(
            "both denoisers must have one schedule and prediction type; got "
            f"{conditional.schedule!r}, {conditional.prediction!r} and {unconditional.schedule!r}, {unconditional.prediction!r}"
        )

    def guided(x: Tensor, tau: Tensor) -> Tensor:
        u, c = (_called(one, x, tau) for one in (unconditional, conditional))
        return u + scale * (c - u)

    vector: Any = conditional.vector_time if conditional.vector_time == unconditional.vector_time else False
    return Denoiser(guided, conditional.schedule, conditional.prediction, vector)


def _called(denoiser: Denoiser, x: Tensor, tau: Tensor) -> Tensor:
    """The output, without activations that wait for the way back."""
    if not torch.is_grad_enabled():
        return denoiser.call(x, tau)
    if isinstance(denoiser, PipelineDenoiser):
        denoiser.fn.fitting(x)  # its preparations are no part of the call that is made again
    with set_checkpoint_early_stop(False):  # stopping in the middle of a suspended pipeline would end it
        found: Tensor = checkpoint(denoiser.call, x, tau, use_reentrant=False)
    return found
