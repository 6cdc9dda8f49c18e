"""What a driver is given and what it gives back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewstep.samplers.noise.draws import Noise, drawn_seeds
from fewstep.samplers.run.denoiser import Denoiser
from fewstep.samplers.run.step import Post
from fewstep.samplers.schedule.base import NoiseSchedule


@dataclass(frozen=True)
class Task:
    """One call of `sample` with a driver, its arguments checked.

    x: state at t_start, (B, *shape), float32 or float64. nfe: as given, None where it was not. grid: as given.
    noise: the run's source. dtype: what the network takes. tell: reports progress, and may move the state (hook).
    """

    denoiser: Denoiser
    x: Tensor
    t_start: float
    t_end: float
    nfe: int | None
    grid: Any
    noise: Noise
    seeds: tuple[int, ...] | None
    generator: Any
    dtype: torch.dtype
    post: Post | None
    progress: bool
    tell: Callable[..., Tensor]

    @property
    def schedule(self) -> NoiseSchedule:
        """The denoiser's."""
        return self.denoiser.schedule

    @cached_property
    def own_seeds(self) -> tuple[int, ...]:
        """A seed a sample: those given, or drawn by the generator."""
        return self.seeds or tuple(drawn_seeds(self.generator, self.x.shape[0]))

    def predict(self, form: str, x: Tensor, t: Any, rows: Any = None) -> Tensor:
        """One network evaluation at (x, t), t a number or one a sample: "x0", "eps" or "flow", in x's dtype.

        rows: numbers of the samples that x holds, where it may not be all. A network that takes the whole batch only is
        shown the others' first states with them.
        """
        if rows is not None and len(rows) < len(self.x) and self.denoiser.vector_time == "whole":
            at, times = torch.from_numpy(rows).to(x.device), np.full(len(self.x), np.ravel(t)[0])
            times[rows] = t
            return self.predict(form, self.x.to(x.dtype).index_copy(0, at, x), times)[at]
        return self.denoiser.predict(form, x.to(self.dtype), t, self.post).to(x.dtype)


@dataclass(frozen=True)
class Outcome:
    """How a driver ended.

    x: the samples. nfe: evaluations that the slowest sample spent; calls: network calls one after another; each: the
    evaluations of every sample, where they differ. status: "done", or the limit that was met: "max_nfe",
    "min_step" or "max_sweeps". why: what stopped it, where that is no limit but the network.
    """

    x: Tensor
    nfe: int
    calls: int
    accepted: int
    rejected: int = 0
    status: str = "done"
    each: tuple[int, ...] | None = None
    why: str = ""
