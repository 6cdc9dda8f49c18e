"""Checks of what `sample` is given, each before any network call: what was given, what was expected, the fix."""

from __future__ import annotations

from collections.abc import Collection
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewstep.samplers.run.denoiser import Denoiser
from fewstep.samplers.schedule.base import NoiseSchedule
from fewstep.samplers.schedule.outputs import score_weight
from fewstep.samplers.table.tableau import Tableau


def mean_for(schedule: NoiseSchedule, x: Tensor, mu: Tensor | None) -> Tensor | None:
    """The mu of a schedule that has one, in the place and shape of x; ValueError where it is missing or needless.

    A bridge starts from mu: there x itself stands for it.
    """
    if schedule.kind == "bridge" and mu is None:
        return x
    if schedule.has_mean != (mu is not None):
        wanted = (
            "needs `mu`, the mean it reverts to (the degraded image)"
            if schedule.has_mean
            else "has no mean: leave `mu` away"
        )
        raise ValueError(f"{type(schedule).__name__} {wanted}")
    if mu is None:
        return None
    if not isinstance(mu, Tensor) or not mu.is_floating_point():
        raise ValueError(f"`mu` must be a floating tensor; got {type(mu).__name__}")
    try:
        return mu.to(x.device).expand_as(x)
    except RuntimeError:
        raise ValueError(
            f"`mu` must have x_T's shape {tuple(x.shape)} or broadcast to it; got {tuple(mu.shape)}"
        ) from None


def validate(denoiser: Any, x: Any, check: str, **called: Any) -> None:
    """A Denoiser, a floating batch, a known check, and functions where there are any."""
    if not isinstance(denoiser, Denoiser):
        raise ValueError(
            f"`denoiser` must be a Denoiser; got {type(denoiser).__name__}. Wrap a network with Denoiser(fn, schedule, "
            "prediction) or a pipeline with Denoiser.from_pipeline(pipe)"
        )
    if not isinstance(x, torch.Tensor) or not x.is_floating_point() or x.ndim < 1:
        what = f"{x.dtype} of shape {tuple(x.shape)}" if isinstance(x, torch.Tensor) else type(x).__name__
        raise ValueError(f"`x_T` must be a floating tensor of shape (B, *shape); got {what}")
    if check not in ("end", "each", "none"):
        raise ValueError(f'`check` must be "end", "each" or "none"; got {check!r}')
    for name, function in called.items():
        if function is not None and not callable(function):
            raise ValueError(f"`{name}` must be a function of one argument; got {type(function).__name__}")


def validate_noise(x: Tensor, generator: Any, seeds: Any) -> None:
    """One seed or generator a sample, or one generator for all."""
    if seeds is not None and generator is not None:
        raise ValueError("give either `generator` or `noise_seeds`, not both")
    if seeds is not None and not (isinstance(seeds, Collection) and all(isinstance(s, Integral) for s in seeds)):
        raise ValueError(f"`noise_seeds` must be whole numbers, one a sample; got {seeds!r}")
    if seeds is not None and len(seeds) != x.shape[0]:
        raise ValueError(f"{len(seeds)} noise seeds for a batch of {x.shape[0]}: give one seed a sample")
    sources = generator if isinstance(generator, (list, tuple)) else [] if generator is None else [generator]
    for one in sources:
        if not isinstance(one, torch.Generator):
            raise ValueError(f"`generator` must be a torch.Generator, or a list with one a sample; got {one!r}")
    if sources is generator and len(sources) != x.shape[0]:
        raise ValueError(f"{len(sources)} generators for a batch of {x.shape[0]}: pass one generator, or one a sample")


def on_schedule(tableau: Tableau, schedule: NoiseSchedule) -> bool:
    """Whether a table's nodes lie on a schedule."""
    there = schedule.nodes(tableau.times)
    return all(
        np.allclose(getattr(there, f), getattr(tableau.nodes, f), rtol=1e-6, atol=1e-9) for f in ("alpha", "sigma")
    )


def require_scores(tableau: Tableau, denoiser: Denoiser) -> None:
    """ValueError for rows that want a score of a denoiser that has none."""
    if not any(map(score_weight, tableau.forms)) or getattr(denoiser, "has_score", False):
        return
    raise ValueError(
        f"{tableau.name!r} draws noise between two laws of data, which needs the score beside the velocity, and this denoiser "
        'has one field: give two, TwoFields(fn, schedule, ("velocity", "score")), or take an ODE solver (flow_sde with w=0)'
    )


def validate_place(tableau: Tableau, denoiser: Denoiser) -> None:
    """The table's nodes must lie on the schedule that the network was trained on."""
    require_scores(tableau, denoiser)
    if not on_schedule(tableau, denoiser.schedule):
        raise ValueError(
            f"the table was compiled for {tableau.schedule!r}, the network belongs to {denoiser.schedule!r}; "
            "build() it for the denoiser's schedule"
        )


def require_finite(x: Tensor, where: str) -> None:
    """One read of the device; NaN never travels silently. A graph that is being made has no values to read."""
    if torch.compiler.is_compiling():
        return
    if not bool(torch.isfinite(x).all()):
        bad = int((~torch.isfinite(x)).flatten(1).any(1).sum()) if x.ndim > 1 else 1
        raise ValueError(
            f"the network's output led to values that are not finite in {bad} of {x.shape[0]} samples at {where}"
        )


def require_uncached(tableau: Tableau) -> None:
    """ValueError for a table that leaves blocks of the network out."""
    if tableau.cache is not None:
        raise ValueError(
            f"{tableau.name}: this table leaves blocks of the network out, which `sample` plays, and a Scheduler within "
            "fewstep.samplers.feature_cache(pipe); nothing else does. Elsewhere take dataclasses.replace(table, cache=None), "
            "the same rows with the whole network"
        )
