"""What samples look like: through the decoder of a pipeline that steps latents, with gradients."""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from fewstep.samplers.learned.problem.problem import Part, Problem

DECODERS = ("vae", "vqvae", "movq")  # components of pipelines
AT_ONCE = 4  # samples in a decoder, whose activations are many times as large as its image
NEAR = 0.02  # rms of images of range 2: rounding of half precision is below it
_plain: WeakKeyDictionary[Any, dict[Hashable, bool]] = (
    WeakKeyDictionary()
)  # pipeline -> call -> whether `_direct` is its own


def decoded(problem: Problem, part: Part, x0: Tensor) -> Tensor:
    """Images in -1 to 1 of a part's samples; samples of a model without a decoder are images.

    By the decoder alone, D(x0 / scale + shift), where that has been seen to be what the pipeline makes of its latents; else by
    the pipeline itself, which evaluates its network once more to begin. Decoded again on the way back, a few at a time:
    memory is that of these.

    Raises:
        ValueError: a pipeline whose end returns no tensor that depends on the latents.
    """
    source = problem.source
    if source is None or not any(getattr(source.pipe, name, None) is not None for name in DECODERS):
        return x0
    found, at = [], 0
    plain = _is_plain(problem, part)
    while at < len(x0):
        few = part if plain else problem.part(part.seeds[at : at + AT_ONCE])
        share = x0[at : at + min(AT_ONCE, len(few.seeds))]
        problem.spent += 0 if plain else len(share) * (2 if torch.is_grad_enabled() and share.requires_grad else 1)
        found.append(_kept_small(partial(_direct if plain else _whole, few), share))
        at += len(share)
    return torch.cat(found)


def _is_plain(problem: Problem, part: Part) -> bool:
    """Whether the decoder alone gives what the pipeline does: looked at once for each shape."""
    pipe = part.denoiser.fn.pipe  # type: ignore[attr-defined]
    known, key = _plain.setdefault(pipe, {}), (tuple(part.x_T.shape[1:]), str(part.x_T.dtype), id(_decoder(pipe)))
    if key not in known:
        few = problem.part(part.seeds[:1])
        x = few.x_T / few.x_T.double().square().mean().sqrt().to(few.x_T)
        with torch.no_grad():
            problem.spent += 1
            whole = _whole(few, x)
            try:
                gap = float((_direct(few, x) - whole).double().square().mean().sqrt())
            except (AttributeError, TypeError, RuntimeError, ValueError):
                gap = float("inf")
        known[key] = gap <= NEAR
    return known[key]


def _kept_small(decode: Callable[[Tensor], Tensor], x0: Tensor) -> Tensor:
    if not (torch.is_grad_enabled() and x0.requires_grad):
        return decode(x0)
    found: Tensor = checkpoint(decode, x0, use_reentrant=False, preserve_rng_state=False)
    return found


def _decoder(pipe: Any) -> Any:
    return next(part for name in DECODERS if (part := getattr(pipe, name, None)) is not None)


def _direct(part: Part, x0: Tensor) -> Tensor:
    """Of the decoder alone; packed latents are unpacked as their pipeline does it."""
    loop: Any = part.denoiser.fn
    pipe, call, vae = loop.pipe, loop.call, _decoder(loop.pipe)
    if x0.ndim == 3:
        sides = (call.get(side) or pipe.default_sample_size * pipe.vae_scale_factor for side in ("height", "width"))
        x0 = pipe._unpack_latents(x0, *sides, pipe.vae_scale_factor)
    z = x0 / vae.config.scaling_factor + (getattr(vae.config, "shift_factor", None) or 0.0)
    images: Tensor = vae.decode(z.to(vae.dtype), return_dict=False)[0]
    return images.float().clamp(-1, 1)


def _whole(part: Part, x0: Tensor) -> Tensor:
    """Of the pipeline, from its loop to its end."""
    own: Any = copy.copy(part.denoiser)  # a loop of its own: the one that steps is not used up
    own.fn.call = {**own.fn.call, "output_type": "pt"}
    images = own.decode(x0)
    if not isinstance(images, Tensor) or len(images) != len(x0) or (x0.requires_grad and not images.requires_grad):
        raise ValueError(
            f"{type(own.fn.pipe).__name__} ends in no tensor of images with a gradient (output_type='pt'), so that decoded "
            "images cannot be learned by: take a `loss` of the latents"
        )
    return 2 * images.float() - 1
