"""Noise put onto clean samples, at levels of a run or of the whole training range."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewstep.samplers.scheduler.model import Model
from fewstep.samplers.scheduler.tensors import numbers
from fewstep.samplers.scheduler.timetable import Timetable


class Noising:
    """The part of a Scheduler that image to image and training use."""

    _model: Model
    _table: Timetable | None
    _begin_index: int | None

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
        shape = (-1, *(1,) * (original_samples.ndim - 1))
        wide = torch.float64 if original_samples.dtype == torch.float64 else torch.float32
        a, s = (torch.tensor(v, dtype=wide, device=original_samples.device).view(shape) for v in (alpha, sigma))
        return (a * original_samples + s * noise).to(original_samples.dtype)

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
