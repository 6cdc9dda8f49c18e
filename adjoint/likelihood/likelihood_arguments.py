"""Checks of what a likelihood is asked with, each before any network call."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from fewstep.adjoint.gradient.transforms import refuse_transforms
from fewstep.adjoint.likelihood.flow_solvers import SOLVERS
from fewstep.checks import positive, unknown, whole
from fewstep.samplers.run.checks import validate


def check_batch(x: Any) -> None:
    """Samples (B, *shape), floating and finite."""
    if not isinstance(x, Tensor) or not x.is_floating_point() or x.ndim < 2 or not x.numel():
        what = f"{x.dtype} of shape {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"`x0` must be a floating tensor of shape (B, *shape) with at least one value; got {what}")
    if not bool(torch.isfinite(x).all()):
        raise ValueError("`x0` must be finite; it has values that are not")


def checked_seeds(seeds: Any, x: Tensor) -> list[int]:
    """One whole number a sample."""
    if not (isinstance(seeds, Sequence) and all(isinstance(s, Integral) for s in seeds)) or len(seeds) != len(x):
        raise ValueError(f"`seeds` must be whole numbers, one for each of the {len(x)} samples; got {seeds!r}")
    return [int(s) for s in seeds]


def check_likelihood(
    denoiser: Any,
    x: Any,
    *,
    solver: Any,
    trace: Any,
    distribution: Any,
    probes: Any,
    chunk: Any,
    seeds: Any,
    prior: Any,
    **tolerances: Any,
) -> None:
    """Each argument on its own, before any network call."""
    refuse_transforms(x, str(trace), "a likelihood")
    check_batch(x)
    validate(denoiser, x, "end", prior=prior)
    if denoiser.schedule.has_mean:
        raise ValueError("likelihoods on mean-reverting schedules are not there: the flow depends on mu")
    if torch.is_inference_mode_enabled():
        raise ValueError("a trace needs gradients through the network: use torch.no_grad(), not torch.inference_mode()")
    for name, value, known in (
        ("solver", solver, SOLVERS),
        ("trace", trace, ("auto", "exact", "hutchinson")),
        ("distribution", distribution, ("rademacher", "gaussian")),
    ):
        if value not in known:
            raise unknown(name, str(value), known)
    whole("probes", probes)
    whole("chunk", 1 if chunk is None else chunk)
    if seeds is not None:
        checked_seeds(seeds, x)
    for name, value in tolerances.items():
        positive(name, value)
