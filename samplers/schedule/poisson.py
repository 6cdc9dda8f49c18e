"""PFGM++: the electric field of N data in N + D dimensions, D = 1 Poisson flow, D -> infinity diffusion.

With r = sigma sqrt(D) the perturbation kernel is a multivariate t,

    p_r(x | y) ~ (|x - y|^2 + r^2)^(-(N + D) / 2),      x = y + sqrt(V) n,   V = r^2 / chi2_D,   n ~ N(0, I),

and dx/dsigma = (x - D_theta(x, sigma)) / sigma is the flow of EDM: every table and grid is EDM's. The prior differs, and so
does noise that takes a sample back up. V is inverse gamma, which is self-decomposable: V_new = V_old + S in law with an
independent S > 0,

    E e^(-s S) = (r_new / r_old)^(D/2) K_{D/2}(r_new sqrt(2 s)) / K_{D/2}(r_old sqrt(2 s)),

so x + sqrt(S) n moves p_{r_old} to p_{r_new} exactly, in any number N of data dimensions. (S is the time at which a Bessel
process of dimension 2 - D that starts at r_new first meets r_old.)

Reference: PFGM++: Unlocking the Potential of Physics-Inspired Generative Models; Xu, Liu, Tian, Tong, Tegmark, Jaakkola;
2023; arXiv:2302.04265.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike

from fewstep.lazy import optional
from fewstep.samplers.noise.draws import onto, uniforms
from fewstep.samplers.schedule.base import Array, schedule_class
from fewstep.samplers.schedule.continuous import EDM
from fewstep.samplers.schedule.inverse_gamma import quantile_of_jump


@schedule_class
@dataclass(frozen=True, eq=False)
class PFGM(EDM):
    """EDM with D extra dimensions (t = sigma = r / sqrt(D)); ends at sigma = 0. D: at least 1."""

    D: float = 2048.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (np.isfinite(self.D) and self.D >= 1):
            raise ValueError(f"`D`, the number of extra dimensions, must be a number of at least 1; got {self.D!r}.")

    def initial_noise(
        self,
        shape: Sequence[int],
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> torch.Tensor:
        """x_T of shape (B, ...): sigma_max n sqrt(D / chi2_D), one chi2_D a sample, made in float64.

        `generator` may be a list, one a sample; each gives its sample's n and then a uniform for chi2_D.
        """
        noise = super().initial_noise(shape, generator, device, torch.float64)
        scale = self._scale(uniforms(generator, shape[0])).reshape(-1, *(1,) * (noise.ndim - 1))
        return (noise * onto(noise, scale)).to(dtype or torch.get_default_dtype())

    def _scale(self, uniform: Array) -> Array:
        """sqrt(V) / sigma = sqrt(D / chi2_D) of uniforms."""
        with optional("PFGM++"):
            from scipy.special import gammainccinv

        return np.sqrt(0.5 * self.D / gammainccinv(0.5 * self.D, uniform))

    def jump_scale(self, sigma_old: float, sigma_new: float, uniform: ArrayLike) -> Array:
        """sqrt(S / (sigma_new^2 - sigma_old^2)): what a unit Gaussian times sqrt(sigma_new^2 - sigma_old^2) still lacks.

        uniform: in (0, 1), one a sample; the result rises with it. float64.
        """
        if not 0 <= sigma_old < sigma_new < np.inf:
            raise ValueError(f"noise goes from a lower to a higher sigma; got {sigma_old!r} to {sigma_new!r}")
        uniform = np.asarray(uniform, np.float64)
        if sigma_old == 0:
            return self._scale(uniform)
        return np.sqrt(quantile_of_jump(self.D, sigma_old / sigma_new)(uniform))
