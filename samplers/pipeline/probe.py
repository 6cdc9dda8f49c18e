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

_NEAR = 1e-5  # of a time: how far below it leads who leads nowhere


class Halt(NamedTuple):
    """Where a pipeline stands: the network's output after guidance, the state it belongs to, and how to answer."""

    output: Tensor
    state: Tensor
    answer: Callable[[Tensor], Any]


class Probe(Scheduler):
    """Drives a pipeline's loop from outside.

    tau: what the network is shown in this turn; None before the first turn, which takes the pipeline's own first time.
    leads: whether the pipeline also looks for the time after it, to where a flow map leads; target: that time in this turn,
    None for nowhere, which is shown as a little below tau.
    turns: how many turns the loop may take. ended: makes the loop end where it would begin its next turn.
    """

    tau: Tensor | None = None
    target: Tensor | None = None
    leads = False
    turns = 0
    _turn = -1
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

    def _with_own_weights(self, table: Any) -> Any:
        """As it is: its steps are no run's, and what plays later looks at the weights by itself."""
        return table

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
        self.timesteps = _iterated(self.timesteps, self._ask, self._later)

    def _ask(self, own: Tensor) -> Iterator[Tensor]:
        self.turns = len(own) - self.leads  # after the last, pipelines lead to the end by themselves
        for self._turn, t in enumerate(own):
            if self.ended:
                return
            self.tau = t if self.tau is None else self.tau
            self._asked_for = True
            yield self.tau

    def _later(self, index: Any) -> Tensor | None:
        """The time at an index after this turn's: where it leads."""
        return self._lead() if self.leads and isinstance(index, int) and index > self._turn >= 0 else None

    def _lead(self) -> Tensor:
        """The second time of this turn; never the first one, at which pipelines would leave the turn out."""
        assert self.tau is not None
        near = self.tau * (1 - _NEAR)
        return near if self.target is None else torch.minimum(self.target.to(near), near)

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
        # the level of this turn. Those of flow maps read the entry after this turn's: where it leads.
        own: Tensor = self.__dict__["sigmas"]
        if self.tau is None:
            return own
        levels = self._levels_at(self.tau).expand(len(own))
        if not self.leads:
            return levels
        return torch.cat([levels[: self._turn + 1], self._levels_at(self._lead()).expand(len(own) - self._turn - 1)])

    @sigmas.setter
    def sigmas(self, value: Tensor) -> None:
        self.__dict__["sigmas"] = value

    def _levels_at(self, tau: Tensor) -> Tensor:
        return public_sigmas(self.schedule, self.schedule.nodes(self.schedule.time_of_model(np.array([float(tau)]))))

    def _shown(self) -> Array:
        return np.array([float("nan") if self.tau is None else float(self.tau)])

    def _level(self) -> Array:
        return self.schedule.sigma(self.schedule.time_of_model(self._shown()))

    def __deepcopy__(self, memo: Any) -> Probe:
        return self


def _iterated(
    values: Tensor, ask: Callable[[Tensor], Iterator[Tensor]], later: Callable[[Any], Tensor | None]
) -> Tensor:
    """The same tensor, which iterates by `ask`, and whose entries are those of `later` where it knows; so do its slices."""

    class Times(torch.Tensor):
        def __iter__(self) -> Any:
            return ask(self.as_subclass(torch.Tensor))

        def __getitem__(self, index: Any) -> Any:
            known = later(index)
            entry = super().__getitem__(index) if known is None else known
            return entry if entry.ndim else entry.as_subclass(torch.Tensor)  # a sequence without a length, else

    return values.as_subclass(Times)
