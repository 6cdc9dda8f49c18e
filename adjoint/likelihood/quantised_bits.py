"""Bits per dimension of quantised data, from exact log-likelihoods."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fewstep.adjoint.likelihood.likelihood_arguments import check_batch, checked_seeds
from fewstep.adjoint.likelihood.log_density import log_likelihood
from fewstep.checks import whole
from fewstep.samplers.noise.brownian import unit_normal
from fewstep.samplers.noise.draws import drawn_seeds, onto
from fewstep.samplers.run.denoiser import Denoiser

DEQUANTISATION = 2**34  # counters of noise, beyond those of samplers and probes


def bits_per_dim(
    denoiser: Denoiser,
    x0: Tensor,
    nfe: int | None = None,
    solver: str = "adams6",
    *,
    levels: int = 256,
    span: tuple[float, float] = (-1.0, 1.0),
    dequantise: str | None = "uniform",
    seeds: Sequence[int] | None = None,
    return_info: bool = False,
    **options: Any,
) -> Any:
    """Bits per dimension of quantised data, (B,): an upper bound, in expectation, on those of a code for the levels.

        bits = -(log p(x0 + u) / d + log delta) / log 2,     delta = (high - low) / (levels - 1),   u ~ U(-delta/2, delta/2)

    The levels are low + k delta, k = 0 .. levels - 1, as in x = 2 k / 255 - 1; u is centred on them, so that the network
    sees what it was trained on. (Code that trains on (k + u) / 256 passes dequantise=None and span = (0, 255/256).)
    A sharper bound needs a t_end whose noise sigma / alpha is well below delta, and a network that knows it.

    Args:
        x0: (B, *shape), on the levels; with dequantise=None any real values, to which no noise is added.
        seeds: one int a sample, of its u and its probes. options: of `log_likelihood`. With return_info its info too, the
            standard error over probes in bits.

    Raises: ValueError for values off the levels, and all of `log_likelihood`.

    Reference: A note on the evaluation of generative models; Theis, van den Oord, Bethge; 2015; arXiv:1511.01844.
    """
    check_batch(x0)
    low, high = (float(v) for v in span)
    delta = (high - low) / (whole("levels", levels, 2) - 1)
    if not (math.isfinite(delta) and delta > 0):
        raise ValueError(f"`span` must be (lowest level, highest level), finite and increasing; got {span!r}")
    if dequantise not in ("uniform", None):
        raise ValueError(f'`dequantise` must be "uniform" or None; got {dequantise!r}')
    seeds = drawn_seeds(None, len(x0)) if seeds is None else checked_seeds(seeds, x0)
    if dequantise:
        k = (x0.detach().double() - low) / delta
        if not bool(((k - k.round()).abs() < 0.1).all() and (k > -0.5).all() and (k < levels - 0.5).all()):
            raise ValueError(
                f"x0 must lie on the {levels} levels from {low:g} to {high:g}; got values off them between "
                f"{float(x0.min()):.4g} and {float(x0.max()):.4g}. Scale x0, pass its `span` and `levels`, or dequantise=None"
            )
        z = onto(x0.detach().double(), [unit_normal(seed, (DEQUANTISATION, 0, 0), x0.shape[1:]) for seed in seeds])
        x0 = x0 + (delta * (torch.special.ndtr(z) - 0.5)).to(x0.dtype)
    value, info = log_likelihood(denoiser, x0, nfe, solver, seeds=seeds, return_info=True, **options)
    unit = x0[0].numel() * math.log(2)
    bits = -value / unit - math.log2(delta)
    stderr = None if info.stderr is None else info.stderr / unit
    return (bits, replace(info, stderr=stderr)) if return_info else bits
