"""Denoisers made of denoisers: experts multiplied, mixed, or set side by side in space and in noise level.

    product     s = sum_k b_k s_k                     mixture      s = sum_k r_k(x, t) s_k,   sum_k r_k = 1
    regions     s = sum_k m_k s_k, m_k a mask         intervals    s = s_k, k by sigma / alpha

All are denoisers again: they nest, and whatever guides one guides them (`dps(cfg(product(...), ...), ...)`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isclose
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewstep.samplers.guidance.composed_denoiser import At, Composed, alike, numbers
from fewstep.samplers.guidance.guidance_entry import method
from fewstep.samplers.run.denoiser import Denoiser


@method("product", kind="composition")
def product(denoisers: Sequence[Denoiser], weights: Sequence[float] | None = None) -> Denoiser:
    """Scores added up: s = sum_k b_k s_k, all conditions at once.

        guidance.product([unconditional, red, round], [1 - 3.0 - 3.0, 3.0, 3.0])    # "red" and "round", each at scale 3

    Args:
        denoisers: of one schedule; any predictions. weights: b, 1 each by default; negative ones keep away from something.
            Their sum must be above 0; where it is not 1 the result predicts eps.
    Cost: every denoiser once a call. The samples' law is not quite prod_k p_k^b_k: `fkc` weighs particles so that it is.

    Reference: Compositional Visual Generation with Composable Diffusion Models; Liu, Li, Du, Torralba, Tenenbaum; 2022;
    arXiv:2206.01714.
    """
    parts = alike(denoisers)
    b = numbers("weights", [1.0] * len(parts) if weights is None else weights, len(parts))
    if not sum(b) > 0:
        raise ValueError(f"`weights` must sum to more than 0, for the product to have a law at pure noise; got {b}")
    own = parts[0].prediction if isclose(sum(b), 1.0, rel_tol=1e-12) else "epsilon"
    return Composed(parts, lambda at: _sum([w * at.ask(one) for w, one in zip(b, parts, strict=True)]), own)


@method("mixture", kind="composition")
def mixture(denoisers: Sequence[Denoiser], weights: Sequence[float] | Callable[[Tensor, Any], Tensor]) -> Denoiser:
    """One law or another: the score of sum_k w_k p_k is sum_k r_k s_k, with r_k the share of k at x.

    Args:
        denoisers: of one schedule; any predictions. weights: f(x, t) -> responsibilities (K, B), at least 0, divided by
            their sum; t is the time in the schedule's unit, a number or (B,). Exact for
            r_k = w_k p_k(x, t) / sum_j w_j p_j(x, t). Numbers that sum to 1 average the scores instead, as
            `product` does: that is the geometric mean of the laws.
    Cost: every denoiser once a call.
    """
    parts = alike(denoisers)
    if not callable(weights):
        w = numbers("weights", weights, len(parts))
        if min(w) < 0 or not isclose(sum(w), 1.0, abs_tol=1e-6):
            raise ValueError(f"`weights` of a mixture are at least 0 and sum to 1; got {w}. `product` takes any")
        return product(parts, [v / sum(w) for v in w])

    def rule(at: At) -> Tensor:
        t = at.nodes.t
        shares = weights(at.x, float(t[0]) if len(t) == 1 else torch.from_numpy(t).to(at.x.device))
        if not isinstance(shares, Tensor) or shares.shape != (len(parts), len(at.x)):
            got = tuple(shares.shape) if isinstance(shares, Tensor) else type(shares).__name__
            raise ValueError(f"`weights` must return responsibilities of shape ({len(parts)}, {len(at.x)}); got {got}")
        outputs = [at.ask(one) for one in parts]
        shares = (shares / shares.sum(0)).to(outputs[0]).view(len(parts), -1, *(1,) * (at.x.ndim - 1))
        return _sum([r * o for r, o in zip(shares, outputs, strict=True)])

    return Composed(parts, rule)


@method("regions", kind="composition")
def regions(denoisers: Sequence[Denoiser], masks: Sequence[Tensor] | Tensor) -> Denoiser:
    """Each denoiser in its own part of the sample; where masks overlap, their weighted mean.

    Args:
        denoisers: of one schedule; any predictions. masks: one a denoiser, each broadcast to a sample (1, H, W), say;
            at least 0, and every element in at least one. They are divided by their sum.
    Cost: every denoiser once a call. Raises ValueError: negative masks; elements that no mask holds.

    Reference: MultiDiffusion: Fusing Diffusion Paths for Controlled Image Generation; Bar-Tal, Yariv, Lipman, Dekel; 2023;
    arXiv:2302.08113.
    """
    parts = alike(denoisers)
    given = [torch.as_tensor(m) for m in masks]
    if len(given) != len(parts):
        raise ValueError(f"one mask a denoiser; got {len(given)} for {len(parts)}")
    try:
        whole = torch.stack(torch.broadcast_tensors(*given)).to(torch.float64)
    except RuntimeError:
        shapes = ", ".join(str(tuple(m.shape)) for m in given)
        raise ValueError(f"`masks` must broadcast to one shape, a sample's; got {shapes}") from None
    total = whole.sum(0)
    if not bool((whole >= 0).all()) or not bool((total > 0).all()):
        raise ValueError("`masks` must be at least 0, and every element of a sample in at least one of them")
    shares = whole / total

    def rule(at: At) -> Tensor:
        outputs = [at.ask(one) for one in parts]
        return _sum([m * o for m, o in zip(shares.to(outputs[0]), outputs, strict=True)])

    return Composed(parts, rule)


@method("intervals", kind="composition")
def intervals(denoisers: Sequence[Denoiser], edges: Sequence[float]) -> Denoiser:
    """An expert for each range of noise levels, of which only the one in charge is called.

    Args:
        denoisers: from noise to data; of one schedule, any predictions. edges: levels sigma / alpha between them,
            decreasing, one less than denoisers: number k works in (edges[k], edges[k - 1]].
    Cost: one denoiser a call; samples with times of their own call those that any of them needs. At an edge the score
    jumps, and the history of a multistep solver spans it.

    Reference: eDiff-I: Text-to-Image Diffusion Models with an Ensemble of Expert Denoisers; Balaji, Nah, Huang, Vahdat, Song,
    Zhang, Kreis, Aittala, Aila, Laine, Catanzaro, Karras, Liu; 2022; arXiv:2211.01324.
    """
    parts = alike(denoisers)
    bounds = np.array(numbers("edges", edges, len(parts) - 1))
    if (bounds <= 0).any() or (np.diff(bounds) >= 0).any():
        raise ValueError(f"`edges` are levels sigma / alpha above 0, decreasing; got {bounds.tolist()}")

    def rule(at: At) -> Tensor:
        charge = (at.levels[:, None] <= bounds).sum(1)
        first, *others = np.unique(charge)
        output = at.ask(parts[first])
        for k in others:
            output = torch.where(at.among(charge == k) > 0, at.ask(parts[k]), output)
        return output

    return Composed(parts, rule)


def _sum(terms: Sequence[Tensor]) -> Tensor:
    return sum(terms[1:], terms[0])
