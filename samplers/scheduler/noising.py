"""Noise put onto clean samples, at levels of a run or of the whole training range."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewstep.samplers.scheduler.model import Model
from fewstep.samplers.scheduler.tensors import numbers, public_sigmas
from fewstep.samplers.scheduler.timetable import Timetable


class Noising:
    """The part of a Scheduler that image to image and training use."""

    _model: Model
    _table: Timetable | None
    _begin_index: int | None
    _noise_level: float
    _scaled: bool  # somebody has asked for init_noise_sigma since set_timesteps

    @property
    def init_noise_sigma(self) -> float:
        """Deviation of the noise that a run begins with: pipelines multiply theirs by it.

        1 of VP and flow models, the first sigma of VE and EDM models; of a run with an analytic first step (afs=True) times
        sigma_1 / sigma_0, which is that step.
        """
        self._scaled = True
        return self._noise_level

    def _require_scaled(self, begin: int) -> None:
        """ValueError where the analytic first step was left to a caller who does not take it."""
        if self._table is not None and self._table.free != 1 and begin == 0 and not self._scaled:
            raise ValueError(
                "`afs` takes its free step by scheduler.init_noise_sigma, which nobody asked for since set_timesteps(): "
                "pipelines of flow models, and those that begin at an image, do not. Leave afs away here, or run "
                "sample(Denoiser.from_pipeline(pipe), ..., afs=True); in a loop of your own begin with noise times that"
            )

    @property
    @abstractmethod
    def step_index(self) -> int | None:
        """Network calls behind the next step; None before the first step."""

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """alpha x0 + sigma eps at the level of the next call of the run, or, without a begin index, of each timestep.

        Args:
            original_samples, noise: (B, ...). timesteps: (B,) or (1,), entries of `timesteps` or any training times.
        """
        alpha, sigma = self._levels(timesteps)
        return _mixed(alpha, original_samples, sigma, noise, original_samples)

    def get_velocity(self, sample: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """What a network of velocities is trained on: alpha eps - sigma x0 of VP models, eps - x0 of flows.

        Args:
            sample, noise: x0 and eps, (B, ...). timesteps: (B,) or (1,), training times.

        Raises:
            ValueError: VE and EDM models, which have none.
        """
        schedule = self._model.schedule
        if schedule.kind == "flow":
            ones = np.ones(1)
            return _mixed(ones, noise, -ones, sample, sample)
        if schedule.kind != "vp":
            raise ValueError(f"a {schedule.kind} model has no velocity: only VP and flow models are trained on one")
        alpha, sigma = self._model.levels(None, np.array(numbers(timesteps)))
        return _mixed(alpha, noise, -sigma, sample, sample)

    @property
    def sigma_min(self) -> float:
        """The least positive entry of `sigmas` over the training range."""
        return self._sigma_range()[0]

    @property
    def sigma_max(self) -> float:
        """The largest entry of `sigmas` over the training range; infinite at pure noise of VP models."""
        return self._sigma_range()[1]

    def _sigma_range(self) -> tuple[float, float]:
        sigmas = public_sigmas(self._model.schedule, self._model.training)[:-1]
        return float(sigmas.min()), float(sigmas.max())

    def scale_noise(self, sample: Tensor, timestep: Tensor, noise: Tensor) -> Tensor:
        """`add_noise` with the argument order of flow schedulers."""
        return self.add_noise(sample, noise, timestep)

    def _levels(self, timesteps: Any) -> tuple[Any, Any]:
        """(alpha, sigma), one a sample."""
        if self._table is None or self._begin_index is None:
            return self._model.levels(
                None if self._table is None else self._table.tableau, np.array(numbers(timesteps))
            )
        index = self._begin_index if self.step_index is None else self.step_index
        nodes = self._table.tableau.nodes
        return nodes.alpha[[index]], nodes.sigma[[index]]


def _mixed(a: Any, x: Tensor, b: Any, y: Tensor, like: Tensor) -> Tensor:
    """a x + b y, numbers of samples, accumulated in float32 at least."""
    shape = (-1, *(1,) * (like.ndim - 1))
    wide = torch.float64 if like.dtype == torch.float64 else torch.float32
    p, q = (torch.tensor(np.asarray(v, np.float64), dtype=wide, device=like.device).view(shape) for v in (a, b))
    return (p * x + q * y).to(like.dtype)
