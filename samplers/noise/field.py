"""Noise as a Gaussian random field: a function of the continuous domain, the same one on every grid that looks at it.

    x = alpha x0 + sigma z,    z ~ N(0, C),    C(r, r') = E z(r) z(r') = sum_k S_k phi_k(r) phi_k(r')

with phi_k products of 1, sqrt(2) cos and sqrt(2) sin of 2 pi k r / period, one factor an axis, and S the kernel's spectrum:
z = Phi sqrt(S) xi and C v = Phi S Phi^T v are a few small matrix products, at any points, and xi belongs to the modes. In
w = C^(-1/2) x all is white, so that solvers, which are linear in states and noises, are what they were; but

    D = (x + sigma^2 C s) / alpha,    Cov(x0 | x) = (sigma^2 / alpha) C J^T,    D' = D + (sigma^2 / alpha) C l

so that guidance by a gradient l of the state takes C of it: `Call.pull` does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import inf, pi, sqrt
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewstep.bounded import MEBIBYTE, bounded
from fewstep.checks import whole
from fewstep.samplers.noise.brownian import unit_normal
from fewstep.samplers.noise.draws import Draw, Noise, onto

KERNELS = {"rbf": inf, "matern52": 2.5, "matern32": 1.5}  # smoothness nu
GRIDS = ("cells", "nodes", "periodic")
LEFT_OUT = {inf: 1e-8, 2.5: 1e-3, 1.5: 1e-3}  # of the variance, in the modes that are cut off
START = 2**32  # the row that initial noise is drawn for


@dataclass(frozen=True)
class GaussianField:
    """Unit variance everywhere in [0, 1]^dims, correlated over `length`: noise for data that are functions.

        field = GaussianField(0.05)
        denoiser = Denoiser(network, NoiseSchedule.edm(), "sample", field=field)   # trained with field.draw's noise
        x_T = 80.0 * field.draw((2, 32, 32), seeds=range(16));    x0 = sample(denoiser, x_T, "dpmpp_2m_sde", 50)

    Args:
        length: of the correlation, in units of the domain. kernel: "rbf", exp(-r^2 / 2 length^2), "matern52" or "matern32".
        dims: the last axes of a state are those of the grid; others (channels) have fields of their own.
        grid: what n points of an axis are: "cells", (j + 1/2) / n, "nodes", j / (n - 1), or "periodic", j / n on a torus.

    The covariance is the kernel to 1e-6 (matern: 1e-2, its last modes are cut off); on a torus the sum over its images.
    Cost of a draw: 2 n K (n + K) products a channel in two dimensions, with K about 2 / length modes an axis.

    Raises ValueError for a length that is not positive, names that are unknown and states with too few axes.

    Reference: Guided Diffusion Sampling on Function Spaces with Applications to PDEs; Yao, Mammadov, Berner, Kerrigan, Ye,
    Azizzadenesheli, Anandkumar; 2025; arXiv:2505.17004.
    """

    length: float
    kernel: str = "rbf"
    dims: int = 2
    grid: str = "cells"

    def __post_init__(self) -> None:
        if not (isinstance(self.length, (int, float)) and 0 < self.length < inf):
            raise ValueError(
                f"`length` is in units of the domain, above 0; got {self.length!r}. White noise needs no field"
            )
        for name, value, known in (("kernel", self.kernel, tuple(KERNELS)), ("grid", self.grid, GRIDS)):
            if value not in known:
                raise ValueError(f"`{name}` must be one of {', '.join(known)}; got {value!r}")
        whole("dims", self.dims)

    @property
    def period(self) -> float:
        """Of the torus that holds the domain: its images of the domain are too far away to correlate with it."""
        if self.grid == "periodic":
            return 1.0
        nu = KERNELS[self.kernel]
        return 1.0 + self.length * (6.1 if nu == inf else 14.0 / sqrt(2 * nu))

    @cached_property
    def spectrum(self) -> np.ndarray:
        """S of every product of basis functions, float64, (modes,) * dims; it sums to 1 at every point."""
        nu, f = KERNELS[self.kernel], np.arange(4000) / self.period
        line = _density(nu, self.length, f**2, 1)
        tail = 1 - np.cumsum(line * np.where(f > 0, 2, 1)) / (line[0] + 2 * line[1:].sum())
        K = max(1, int(np.argmax(tail < LEFT_OUT[nu])))
        k = np.concatenate([np.arange(K + 1), np.arange(1, K + 1)])
        squares = sum(np.meshgrid(*[(k / self.period) ** 2] * self.dims, indexing="ij"))
        density = _density(nu, self.length, squares, self.dims)
        return np.asarray(density / density.sum())

    def draw(
        self,
        shape: Sequence[int],
        seeds: Sequence[int],
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """Fields on the grid of one sample's `shape`, (B, *shape): a seed is the same function on every grid."""
        like = torch.empty((), dtype=dtype, device=device).expand(len(seeds), *shape)
        xi = [unit_normal(int(seed), (0, 0, START), self._modes(like)[1:]) for seed in seeds]
        return self.of_modes(onto(like, xi), like.shape)

    def of_modes(self, xi: Tensor, shape: Sequence[int]) -> Tensor:
        """C^(1/2) xi: unit Gaussians of the modes, (..., *modes), as fields on the grid of `shape`."""
        amplitude = torch.from_numpy(np.sqrt(self.spectrum)).to(xi)
        return self._through(amplitude * xi, [basis.T for basis in self._bases(shape)])

    def covariance(self, v: Tensor) -> Tensor:
        """C v on v's own grid, (..., *grid): the kernel's matrix times v."""
        self._modes(v)
        bases = self._bases(v.shape)
        power = torch.from_numpy(self.spectrum).to(v) * self._through(v, bases)
        return self._through(power, [basis.T for basis in bases])

    def coloured(self, noise: Noise) -> Noise:
        """A source of fields, of a source of independent Gaussians."""

        def draw(what: Draw, like: Tensor) -> Tensor:
            return self.of_modes(noise(what, like.new_empty(()).expand(self._modes(like))), like.shape)

        return draw

    def _modes(self, like: Tensor) -> tuple[int, ...]:
        """Shape of the modes of states like this."""
        if like.ndim <= self.dims:
            raise ValueError(
                f"a field of {self.dims} dimensions needs states (B, ..., *grid) of as many last axes; got {tuple(like.shape)}"
            )
        return (*like.shape[: -self.dims], *self.spectrum.shape)

    def _bases(self, shape: Sequence[int]) -> list[np.ndarray]:
        modes = self.spectrum.shape[0] // 2
        return [_basis(int(n), modes, self.period, self.grid) for n in shape[-self.dims :]]

    def _through(self, v: Tensor, matrices: Sequence[np.ndarray]) -> Tensor:
        """Every grid axis times its matrix: the first of them goes, and comes back as the last."""
        for matrix in matrices:
            v = torch.tensordot(v, torch.from_numpy(matrix).to(v), dims=([v.ndim - self.dims], [0]))
        return v


def _density(nu: float, length: float, f2: Any, dims: int) -> np.ndarray:
    """The kernel's spectral density at squared frequencies, up to a factor."""
    if nu == inf:
        return np.asarray(np.exp(-2 * pi**2 * length**2 * f2))
    return np.asarray((1 + 4 * pi**2 * f2 * length**2 / (2 * nu)) ** -(nu + dims / 2))


@bounded(32 * MEBIBYTE, lambda basis: basis.nbytes)
def _basis(n: int, modes: int, period: float, grid: str) -> np.ndarray:
    """Values (n, 2 modes + 1) of 1, sqrt(2) cos and sqrt(2) sin at the points of an axis."""
    points = {"cells": (np.arange(n) + 0.5) / n, "nodes": np.arange(n) / max(n - 1, 1), "periodic": np.arange(n) / n}[
        grid
    ]
    angle = 2 * pi / period * np.outer(points, np.arange(1, modes + 1))
    return np.concatenate([np.ones((n, 1)), sqrt(2) * np.cos(angle), sqrt(2) * np.sin(angle)], axis=1)
