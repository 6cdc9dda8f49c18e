"""A scheduler without a solver: its times are those that are asked for, its steps hand the network's output out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fewstep.samplers.schedule.base import Array, NoiseSchedule
from fewstep.samplers.schedule.outputs import Prediction
from fewstep.samplers.scheduler.diffusers_parts import SchedulerOutput
from fewstep.samplers.scheduler.scheduler import Scheduler
from fewstep.samplers.scheduler.tensors import public_sigmas


class Halt(NamedTuple):
    """Where a pipeline stands: the network's output after guidance, the state it belongs to, and how to answer."""

    output: Tensor
    state: Tensor
    answer: Callable[[Tensor], Any]


class Probe(Scheduler):
    """Drives a pipeline's loop from outside.

    tau: what the network is shown in this turn; None before the first turn, which takes the pipeline's own first time.
    turns: how many turns the loop may take. ended: makes the loop end where it would begin its next turn.
    """

    tau: Tensor | None = None
    turns = 0
    ended = False
    _asked_for = False

    @classmethod
    def of(cls, scheduler: Any) -> Probe:
        """A probe for the model that a scheduler's config describes."""
        probe = cls.from_config(scheduler, solver="ddim")
        return probe

    def fresh(self) -> Probe:
        """Another of the same model, for another run: what has been read off the config is shared."""
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        return other

    @property
    def schedule(self) -> NoiseSchedule:
        """Of the model."""
        return self._model.schedule

    @property
    def prediction(self) -> Prediction:
        """What the network's output is."""
        return self._model.prediction

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: torch.device | str | None = None,
        sigmas: Sequence[float] | np.ndarray | Tensor | None = None,
        mu: float | None = None,
        timesteps: Sequence[float] | np.ndarray | Tensor | None = None,
        **own: Any,
    ) -> None:
        """A grid for the pipeline to prepare itself by; what its loop meets are the times that are asked for."""
        # Pipelines read the tensor (its length, its first value, slices for image to image) before they iterate over it, so
        # it stays a tensor with plausible values; only its iteration is ours, and hands out the times that callers ask for.
        super().set_timesteps(num_inference_steps, device, sigmas, mu, timesteps, **own)
        self.timesteps = _iterated(self.timesteps, self._ask)

    def _ask(self, own: Tensor) -> Iterator[Tensor]:
        self.turns = len(own)
        for t in own:
            if self.ended:
                return
            self.tau = t if self.tau is None else self.tau
            self._asked_for = True
            yield self.tau

    def step(
        self,
        model_output: Tensor,
        timestep: Any,
        sample: Tensor,
        eta: float = 0.0,
        generator: Any = None,
        variance_noise: Tensor | None = None,
        return_dict: bool = True,
        per_token_timesteps: Tensor | None = None,
        prev_timestep: Any = None,
        *,
        r_timestep: Any = None,
    ) -> Any:
        """The Halt to suspend the pipeline with."""
        # One turn, one step: a pipeline that steps twice a turn, or steps in a loop of its own, would be given a state of
        # one time with the output of another.
        if not self._asked_for:
            raise ValueError("this pipeline does not step its scheduler once for each of the scheduler's timesteps")
        self._asked_for = False
        if per_token_timesteps is not None:
            model_output = self._of_tokens(model_output, per_token_timesteps / timestep)
        return Halt(model_output, sample, lambda x: SchedulerOutput(x, x) if return_dict else (x, x))

    def scale_model_input(self, sample: Tensor, timestep: Any = None) -> Tensor:
        """The network's input: the state, but times c_in for EDM models (which reads tau's value)."""
        scale = getattr(self.schedule, "input_scale", None)
        return sample if scale is None or self.tau is None else sample * scale(self._level())[0]

    @property
    def sigmas(self) -> Tensor:
        """The level of this turn, whatever the index; computed when somebody reads it."""
        # Some pipelines scale by `scheduler.sigmas[i]` with an index of their own, which means nothing here: every entry is
        # the level of this turn.
        own: Tensor = self.__dict__["sigmas"]
        if self.tau is None:
            return own
        nodes = self.schedule.nodes(self.schedule.time_of_model(self._shown()))
        return public_sigmas(self.schedule, nodes).expand(len(own))

    @sigmas.setter
    def sigmas(self, value: Tensor) -> None:
        self.__dict__["sigmas"] = value

    def _shown(self) -> Array:
        return np.array([float("nan") if self.tau is None else float(self.tau)])

    def _level(self) -> Array:
        return self.schedule.sigma(self.schedule.time_of_model(self._shown()))

    def __deepcopy__(self, memo: Any) -> Probe:
        return self


def _iterated(values: Tensor, ask: Callable[[Tensor], Iterator[Tensor]]) -> Tensor:
    """The same tensor, which iterates by `ask`; so do its slices and copies."""

    class Times(torch.Tensor):
        def __iter__(self) -> Any:
            return ask(self.as_subclass(torch.Tensor))

    return values.as_subclass(Times)
