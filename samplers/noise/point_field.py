"""A Gaussian random field seen at given points, anywhere in the domain: the same function as on every grid.

    z(r_i) = sum_k sqrt(S_k) phi_k(r_i) xi_k,    C_ij = sum_k S_k phi_k(r_i) phi_k(r_j)

with the modes of `field.py`, so that a seed draws the same function at any points.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from math import pi, sqrt
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewstep.samplers.noise.brownian import unit_normal
from fewstep.samplers.noise.draws import Draw, Noise, onto
from fewstep.samplers.noise.field import START, GaussianField


@dataclass(frozen=True, init=False)
class PointField:
    """Noise for functions at irregular points: the last axis of a state (B, ..., n) is that of the points.

        field = PointField(GaussianField(0.1), points)                          # points (n, 2) in [0, 1]^2
        denoiser = Denoiser(network, NoiseSchedule.edm(), "sample", field=field)  # trained with field.draw's noise
        x_T = 80.0 * field.draw((1, n), seeds=range(16))

    Args:
        field: a GaussianField, whose `dims` are the points' coordinates; its `grid` is of no matter, but for "periodic".
        points: (n, dims) in [0, 1]^dims.

    Cost of a draw: n products with all modes, about (2 / length)^dims. Raises ValueError for points outside the domain.

    Reference: Score-Based Diffusion Models in Function Space; Lim, Kovachki, Baptista, Beckham, Azizzadenesheli, Kossaifi,
    Voleti, Song, Kreis, Kautz, Pal, Vahdat, Anandkumar; 2023; arXiv:2302.07400.
    """

    field: GaussianField
    points: tuple[tuple[float, ...], ...]

    def __init__(self, field: GaussianField, points: Any):
        if not isinstance(field, GaussianField):
            raise ValueError(f"`field` must be a GaussianField; got {type(field).__name__}")
        array = np.asarray(points.tolist() if hasattr(points, "tolist") else points, np.float64)
        if array.ndim != 2 or array.shape[1] != field.dims or len(array) == 0:
            raise ValueError(
                f"`points` must be (n, {field.dims}), a place of {field.dims} coordinates each; got shape {array.shape}"
            )
        if not (np.isfinite(array).all() and array.min() >= 0 and array.max() <= 1):
            raise ValueError(
                f"`points` must lie in [0, 1]^{field.dims}; got {array.min():.3g} to {array.max():.3g}: scale the domain"
            )
        object.__setattr__(self, "field", field)
        object.__setattr__(self, "points", tuple(map(tuple, array.tolist())))

    @cached_property
    def root(self) -> np.ndarray:
        """Phi sqrt(S), (n, modes of all axes), float64."""
        modes = self.field.spectrum.shape[0] // 2
        axes = [_at(np.array(axis), modes, self.field.period) for axis in zip(*self.points, strict=True)]
        products = reduce(lambda a, b: (a[:, :, None] * b[:, None]).reshape(len(a), -1), axes)
        return np.asarray(products * np.sqrt(self.field.spectrum).ravel())

    def draw(
        self,
        shape: Sequence[int],
        seeds: Sequence[int],
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """The functions of these seeds at the points, (B, *shape) with shape (..., n)."""
        like = torch.empty((), dtype=dtype, device=device).expand(len(seeds), *shape)
        inner = (*self._outer(like)[1:], *self.field.spectrum.shape)
        return self.of_modes(onto(like, [unit_normal(int(seed), (0, 0, START), inner) for seed in seeds]))

    def of_modes(self, xi: Tensor) -> Tensor:
        """Unit Gaussians of the modes, (..., *modes), as values at the points."""
        return xi.flatten(-self.field.dims) @ torch.from_numpy(self.root).to(xi).T

    def covariance(self, v: Tensor) -> Tensor:
        """C v, (..., n)."""
        self._outer(v)
        root = torch.from_numpy(self.root).to(v)
        return (v @ root) @ root.T

    def coloured(self, noise: Noise) -> Noise:
        """A source of functions at the points, of a source of independent Gaussians."""

        def draw(what: Draw, like: Tensor) -> Tensor:
            inner = (*self._outer(like), *self.field.spectrum.shape)
            return self.of_modes(noise(what, like.new_empty(()).expand(inner)))

        return draw

    def _outer(self, like: Tensor) -> tuple[int, ...]:
        """Shape of states but for the points."""
        if like.ndim < 2 or like.shape[-1] != len(self.points):
            raise ValueError(
                f"a field at {len(self.points)} points needs states (B, ..., {len(self.points)}); got {tuple(like.shape)}"
            )
        return tuple(like.shape[:-1])


def _at(places: np.ndarray, modes: int, period: float) -> np.ndarray:
    """Values (n, 2 modes + 1) of 1, sqrt(2) cos and sqrt(2) sin at places of an axis."""
    angle = 2 * pi / period * np.outer(places, np.arange(1, modes + 1))
    return np.concatenate([np.ones((len(places), 1)), sqrt(2) * np.cos(angle), sqrt(2) * np.sin(angle)], axis=1)
