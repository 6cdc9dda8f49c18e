"""A network with its schedule and prediction type: the only thing a sampler knows about a model."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .player import like_state
from .schedule import Nodes, NoiseSchedule
from .tableau import convert, prediction_coefficients

if TYPE_CHECKING:
    from .probing import PipelineDenoiser

Tensor = torch.Tensor


class Denoiser:
    """fn(x, tau) -> output together with what the output means.

    Args:
        fn: maps x (B, *shape) and tau (0-dim tensor, schedule.model_time(t)) to the network's output, of x's shape or
            with twice the channels (learned variance: the second half is dropped).
        schedule: NoiseSchedule the network was trained on.
        prediction: "epsilon", "sample" (x0), "v_prediction" (alpha eps - sigma x0), "flow_prediction" (eps - x0)
            or "score" (-eps / sigma).

    `denoiser(x, t)` is the raw output at time t of the schedule; `.x0(x, t)` and `.eps(x, t)` convert it.
    `.nfe` counts calls over the object's life, except those inside a graph that the caller compiles.
    """

    def __init__(self, fn: Callable[[Tensor, Tensor], Tensor], schedule: NoiseSchedule, prediction: str = "epsilon"):
        if not callable(fn):
            raise ValueError(f"`fn` must be a callable fn(x, tau) -> output; got {type(fn).__name__}")
        if not isinstance(schedule, NoiseSchedule):
            raise ValueError(
                f"`schedule` must be a NoiseSchedule; got {type(schedule).__name__}. "
                "NoiseSchedule.from_config reads a diffusers config"
            )
        prediction_coefficients(prediction, schedule.nodes(np.array([schedule.t_min])))
        self.fn, self.schedule, self.prediction = fn, schedule, prediction
        self.nfe = 0

    def call(self, x: Tensor, tau: Tensor) -> Tensor:
        """One network evaluation at model time tau: the output in x's shape."""
        if not torch.compiler.is_compiling():
            self.nfe += 1
        return like_state(self.fn(x, tau), x)

    def __call__(self, x: Tensor, t: float) -> Tensor:
        """The raw network output at time t."""
        tau = torch.as_tensor(self.schedule.model_time(float(t)), dtype=clock(x.dtype), device=x.device)
        return self.call(x, tau)

    def x0(self, x: Tensor, t: float) -> Tensor:
        """Predicted clean sample at (x, t)."""
        return self._form("x0", x, t)

    def eps(self, x: Tensor, t: float) -> Tensor:
        """Predicted noise at (x, t)."""
        return self._form("eps", x, t)

    def _form(self, form: str, x: Tensor, t: float) -> Tensor:
        node = Nodes(*(np.array([float(v)]) for v in self.schedule.nodes(float(t))))
        (p,), (q,) = convert(self.prediction, [form], node)
        return float(p) * x + float(q) * self(x, t)

    @staticmethod
    def from_pipeline(pipe: Any, **call_kwargs: Any) -> PipelineDenoiser:
        """Any diffusers pipeline as a denoiser on its latents, with its own conditioning and guidance; see `probing`."""
        from .probing import denoiser_from_pipeline

        return denoiser_from_pipeline(pipe, **call_kwargs)


def clock(dtype: torch.dtype) -> torch.dtype:
    """dtype of model times beside a state of `dtype`."""
    return torch.float64 if dtype == torch.float64 else torch.float32
