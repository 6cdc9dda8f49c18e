"""Denoisers of parts of a state, as one of the whole: bodies from pair models, links of a chain, tiles of a panorama.

    eps(x)[i] = sum_k b_k eps_k(x[part k])[i],      sum over the parts that hold i: sum_k b_k = 1

is the score of prod_k q_k(x[part k])^b_k at every level. Disjoint parts are independent, and it is exact. Overlaps by average
(b = 1 / how many hold i) make tiles agree. With exponents given (the links of a chain 1, what two of them share -1) the product
is the joint law itself, but noise and products do not commute: `fkc` of it weighs particles, and is exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewstep.samplers.guidance.composed_denoiser import At, Composed, alike, numbers
from fewstep.samplers.guidance.guidance_entry import method
from fewstep.samplers.run.denoiser import Denoiser
from fewstep.samplers.run.per_sample import wide
from fewstep.samplers.schedule.outputs import convert

Where = tuple[Any, ...]
OVERLAPS = ("mean",)


class Block(Denoiser):
    """One part's eps in its place, zero elsewhere."""

    def __init__(self, inner: Denoiser, where: Where):
        super().__init__(self.call, inner.schedule, "epsilon", inner.vector_time)
        self.inner, self.where = inner, where

    def call(self, x: Tensor, tau: Tensor, step: Any = None) -> Tensor:
        """The part is shown its part of x."""
        self.nfe += 1
        at = At(self, x, tau, step)
        place = (slice(None), *self.where)
        part = x[place]
        output = wide(self.inner.call(part, tau, step))
        of_state, of_output = convert(self.inner.prediction, ["eps"] * len(at.nodes.t), at.nodes)
        eps = at._level(of_output) * output
        if np.any(of_state):
            eps = eps + at._level(of_state) * wide(part)
        whole = torch.zeros_like(wide(x))
        whole[place] = eps
        return whole


class Parts(Composed):
    """The whole; `blocks` and `exponents` are what `fkc` weighs (None of averages, which are no product of densities)."""

    blocks: list[Block]
    exponents: list[float] | None


@method("parts", kind="composition")
def parts(
    pieces: Sequence[tuple[Denoiser, Any]],
    shape: Sequence[int] | None = None,
    *,
    exponents: Sequence[float] | None = None,
    overlap: str | None = None,
) -> Parts:
    """Denoisers of parts of a state as one denoiser of the whole: eps(x) = sum_k b_k eps_k(x[part k]) in its place.

        two = guidance.parts([(first, slice(0, 4)), (second, slice(4, 8))])
        chain = guidance.parts([(pair, slice(0, 2)), (pair, slice(1, 3)), (single, slice(1, 2))], exponents=[1, 1, -1])
        wide = guidance.parts([(tile, (slice(None), slice(None), slice(a, a + 64))) for a in (0, 32, 64)], overlap="mean")

    Args:
        pieces: (denoiser, where): a slice of the first dimension of a sample, or a tuple of slices, one a dimension.
        shape: of a sample; needed where a slice has no end. Dimensions that no slice speaks of are whole.
        exponents: one a piece: each entry's must sum to 1 over the pieces that hold it. overlap: "mean" averages instead.

    `fkc(parts(..., exponents=...))` samples the product exactly by weighted particles; sampled as it is, it is exact where
    parts are disjoint. Objectives go around it, as around any denoiser: `energy`, `classifier`, `fkc(reward=)`.

    Raises: ValueError for parts that leave gaps, that overlap with neither exponents nor overlap, exponents that do not sum
    to 1 somewhere, an empty slice, and at the first call for another shape.

    Reference: Compositional Generative Inverse Design; Wu, Maruyama, Wei, Zhang, Du, Iaccarino, Leskovec; 2024;
    arXiv:2401.13171. MultiDiffusion: Fusing Diffusion Paths for Controlled Image Generation; Bar-Tal, Yariv, Lipman, Dekel;
    2023; arXiv:2302.08113.
    """
    given = list(pieces)
    if not given or not all(isinstance(piece, tuple) and len(piece) == 2 for piece in given):
        raise ValueError("`parts` are pairs of a denoiser and where it is, such as [(denoiser, slice(0, 4)), ...]")
    inner = alike([denoiser for denoiser, _ in given])
    places = [_where(k, where) for k, (_, where) in enumerate(given)]
    covered = _covering(places, shape)
    if overlap not in (None, *OVERLAPS) or (overlap and exponents is not None):
        raise ValueError(f'`overlap` must be "mean", or None, and goes without `exponents`; got {overlap!r}')
    b = [1.0] * len(inner) if exponents is None else numbers("exponents", exponents, len(inner))
    total = _summed(covered, places, b)
    _check(covered, _summed(covered, places, [1.0] * len(inner)), total, exponents is not None, overlap)
    blocks = [Block(one, where) for one, where in zip(inner, places, strict=True)]
    weight = 1.0 / total if overlap else None

    def rule(at: At) -> Tensor:
        x = at.x
        if tuple(x.shape[1 : 1 + covered.ndim]) != tuple(covered.shape):
            raise ValueError(f"these parts are of samples of shape {tuple(covered.shape)}; got {tuple(x.shape[1:])}")
        found = sum(c * block.call(x, at.tau, at.step) for c, block in zip(b, blocks, strict=True))
        assert isinstance(found, Tensor)
        if weight is None:
            return found
        return found * torch.as_tensor(weight, dtype=found.dtype, device=x.device).view(
            *weight.shape, *[1] * (x.ndim - 1 - weight.ndim)
        )

    made = Parts(blocks, rule, "epsilon")
    made.blocks, made.exponents = blocks, None if overlap else b
    return made


def _where(k: int, where: Any) -> Where:
    """A tuple of slices."""
    place = where if isinstance(where, tuple) else (where,)
    if not place or not all(isinstance(one, slice) for one in place) or any(one.step not in (None, 1) for one in place):
        raise ValueError(f"part {k} must be a slice, or a tuple of slices, without steps; got {where!r}")
    return place


def _covering(places: Sequence[Where], shape: Sequence[int] | None) -> np.ndarray:
    """Zeros of the dimensions that slices speak of."""
    if shape is None:
        count = max(map(len, places))
        ends = [[place[i].stop for place in places if len(place) > i] for i in range(count)]
        if any(stop is None or stop < 0 for stops in ends for stop in stops):
            raise ValueError("`shape` of a sample is missing: a slice has no end")
        shape = [max(stops) for stops in ends]
    return np.zeros(tuple(int(n) for n in shape))


def _summed(covered: np.ndarray, places: Sequence[Where], values: Sequence[float]) -> np.ndarray:
    """The sum of the values of the parts that hold each entry."""
    found = covered.copy()
    for k, (place, value) in enumerate(zip(places, values, strict=True)):
        if len(place) > covered.ndim or not found[place].size:
            raise ValueError(f"part {k}, {place}, holds nothing of a sample of shape {covered.shape}")
        found[place] += value
    return found


def _check(covered: np.ndarray, held: np.ndarray, total: np.ndarray, product: bool, overlap: str | None) -> None:
    """ValueError for gaps, and for overlaps that nobody speaks of."""
    if (held == 0).any():
        gap = tuple(int(i) for i in np.argwhere(held == 0)[0])
        raise ValueError(f"the parts leave gaps: none holds entry {gap} of a sample of shape {covered.shape}")
    if overlap:
        return
    if not product and (held > 1).any():
        place = tuple(int(i) for i in np.argwhere(held > 1)[0])
        raise ValueError(
            f'the parts overlap, first at entry {place}: overlap="mean" averages them, exponents= says what product they are'
        )
    if not np.allclose(total, 1.0):
        place = tuple(int(i) for i in np.argwhere(~np.isclose(total, 1.0))[0])
        raise ValueError(
            f"`exponents` must sum to 1 over the parts that hold an entry; at {place} they sum to {total[place]:g}: what two "
            "parts share needs one of -1"
        )
