"""What samples look like: through the decoder of a pipeline that steps latents, with gradients."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from fewstep.samplers.learned.problem.problem import Part, Problem

DECODERS = ("vae", "vqvae", "movq")  # components of pipelines
AT_ONCE = 4  # samples in a decoder, whose activations are many times as large as its image


def decoded(problem: Problem, part: Part, x0: Tensor) -> Tensor:
    """Images in -1 to 1 of a part's samples, by the pipeline itself; samples of a model without a decoder are images.

    Decoded again on the way back, a few at a time: memory is that of these.

    Raises:
        ValueError: a pipeline whose end returns no tensor that depends on the latents.
    """
    source = problem.source
    if source is None or not any(getattr(source.pipe, name, None) is not None for name in DECODERS):
        return x0
    found, at = [], 0
    while at < len(part.seeds):
        few = problem.part(part.seeds[at : at + AT_ONCE])
        found.append(_decoded(few, x0[at : at + len(few.seeds)]))
        at += len(few.seeds)
    return torch.cat(found)


def _decoded(part: Part, x0: Tensor) -> Tensor:
    if not (torch.is_grad_enabled() and x0.requires_grad):
        return _through(part, x0)
    found: Tensor = checkpoint(lambda x: _through(part, x), x0, use_reentrant=False, preserve_rng_state=False)
    return found


def _through(part: Part, x0: Tensor) -> Tensor:
    own: Any = copy.copy(part.denoiser)  # a loop of its own: the one that steps is not used up
    own.fn.call = {**own.fn.call, "output_type": "pt"}
    images = own.decode(x0)
    if not isinstance(images, Tensor) or len(images) != len(x0) or (x0.requires_grad and not images.requires_grad):
        raise ValueError(
            f"{type(own.fn.pipe).__name__} ends in no tensor of images with a gradient (output_type='pt'), so that decoded "
            "images cannot be learned by: take a `loss` of the latents"
        )
    return 2 * images - 1
