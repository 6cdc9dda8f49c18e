"""The noise e that an image is seen with, alpha x + sigma e, in each mode of score distillation.

sds, vsd   drawn anew
sdi        (x_t - alpha x) / sigma, x_t from the image by inversion
cfd        that of the seed, always
dsd        eps of the seed's own ODE path, at the last of its times before t
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewstep.adjoint.inversion.inverting import invert
from fewstep.samplers.run.denoiser import Denoiser
from fewstep.samplers.run.per_sample import wide
from fewstep.samplers.sampling.loop import sample

MODES = ("sds", "vsd", "sdi", "dsd", "cfd")


class Noises:
    """e of a mode. generator: of what is drawn anew."""

    def __init__(
        self, denoiser: Denoiser, mode: str, seeds: Sequence[int] | None, generator: torch.Generator | None,
        falling: np.ndarray[Any, Any] | None, solver: str, nfe: int,
    ) -> None:  # fmt: skip
        self.denoiser, self.mode, self.falling = denoiser, mode, falling
        self.seeds = None if seeds is None else [int(seed) for seed in seeds]
        self.generator = torch.Generator().manual_seed(0) if generator is None else generator
        self.solver, self.nfe = solver, nfe
        self._own: Tensor | None = None
        self._path: tuple[list[float], list[Tensor]] | None = None

    def at(self, x: Tensor, t: float, step: int) -> Tensor:
        """e (B, *shape) of images at time t."""
        if self.mode in ("sds", "vsd"):
            return self.fresh(x)
        if self.mode == "sdi":
            return self._inverted(x, t)
        own = self._of_seeds(x)
        return own if self.mode == "cfd" else self._on_path(x, t, own)

    def fresh(self, x: Tensor) -> Tensor:
        """Drawn anew, of unit variance."""
        drawn = torch.randn(x.shape, generator=self.generator, device=self.generator.device, dtype=wide(x).dtype)
        return drawn.to(x.device)

    def _inverted(self, x: Tensor, t: float) -> Tensor:
        """What x_t has beside alpha x, where the ODE leads from x_t to x."""
        at = self.denoiser.schedule.nodes(t)
        own = {} if self.solver in ("ddim", "euler") else {"check": False}
        x_t = invert(self.denoiser, x, self.solver, self.nfe, t_start=t, **own)
        return (wide(x_t) - float(at.alpha) * wide(x)) / float(at.sigma)

    def _of_seeds(self, x: Tensor) -> Tensor:
        """One e a seed. ValueError where there are more images than seeds, or fewer."""
        assert self.seeds is not None
        if len(x) != len(self.seeds) or (self._own is not None and self._own.shape != x.shape):
            raise ValueError(
                f"there are {len(self.seeds)} `seeds`, one an image of one shape; got images {tuple(x.shape)}: render all of "
                "them in every step"
            )
        if self._own is None:
            each = [torch.Generator().manual_seed(seed) for seed in self.seeds]
            drawn = [torch.randn(x.shape[1:], generator=g, dtype=wide(x).dtype) for g in each]
            self._own = torch.stack(drawn).to(x.device)
        return self._own

    def _on_path(self, x: Tensor, t: float, own: Tensor) -> Tensor:
        """eps that the path of the seeds had at the last of its times before t."""
        if self._path is None:
            self._path = self._walked(x, own)
        times, eps = self._path
        passed = [k for k, time in enumerate(times) if time > t * (1 + 1e-9)]
        return own if not passed else eps[passed[-1]]

    def _walked(self, x: Tensor, own: Tensor) -> tuple[list[float], list[Tensor]]:
        """Times of the network calls of the path, and eps there: at the optimisation's own times where these are few."""
        schedule = self.denoiser.schedule
        if self.falling is not None and len(self.falling) <= self.nfe:
            grid = np.append(self.falling, schedule.t_end if self.falling[-1] > schedule.t_end else [])
        else:
            begin = schedule.t_max if self.falling is None else float(self.falling[0])
            grid = np.linspace(begin, schedule.t_end, self.nfe + 1)
        nodes = schedule.nodes(grid)
        states = [float(nodes.sigma[0]) * own]  # x_T of a clean image 0, the mean of what begins
        found: list[Tensor] = []

        def keep(step: Any) -> None:
            k = step.index
            found.append((wide(states[-1]) - float(nodes.alpha[k]) * wide(step.x0)) / float(nodes.sigma[k]))
            states.append(step.x)

        sample(self.denoiser, states[0].to(x.dtype), "ddim", grid=grid, callback=keep, check="none")
        return [float(t) for t in grid[:-1]], found
