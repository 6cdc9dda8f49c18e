"""`Scheduler`: plays a table inside any diffusers pipeline. It knows the contract of a scheduler and no coefficient.

A saved pipeline names this module. Import fewstep's Scheduler before loading it back: `from fewstep import Scheduler`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from diffusers.configuration_utils import register_to_config
from diffusers.schedulers.scheduling_utils import KarrasDiffusionSchedulers
from diffusers.utils import DummyObject
from torch import Tensor

from fewstep.samplers.config.known_classes import changed
from fewstep.samplers.noise.draws import Noise
from fewstep.samplers.noise.sources import GeneratorNoise, source
from fewstep.samplers.rollouts.in_a_scheduler import Recording
from fewstep.samplers.run.ownership import version
from fewstep.samplers.run.step import State, Step, first_state, like_state
from fewstep.samplers.scheduler.binding import DONE, Bound, Following, Seen, bind
from fewstep.samplers.scheduler.config import Adopting, described, key_with
from fewstep.samplers.scheduler.diffusers_parts import SchedulerMixin, SchedulerOutput, StepTuple
from fewstep.samplers.scheduler.model import Model, model
from fewstep.samplers.scheduler.noising import Noising
from fewstep.samplers.scheduler.tensors import angles, model_clock, numbers, public_sigmas
from fewstep.samplers.scheduler.timetable import Timetable, same_times, timetable
from fewstep.samplers.validity.in_pipeline import InDomain


class Scheduler(SchedulerMixin, Adopting, Following, InDomain, Noising, Recording):  # type: ignore[misc]
    """Any table solver as a diffusers scheduler: `pipe.scheduler = Scheduler.from_config(pipe.scheduler.config, "unipc")`.

    The state is x_t = alpha_t x0 + sigma_t eps of the model's own schedule: unit noise for VP and flow models, sigma_max
    for EDM and VE models. It is accumulated in float32 (float64 for float64 samples) and returned in the sample's dtype.
    `timesteps` lists every network call, the stages of a step included, so set_timesteps(n) costs n evaluations.

    Args:
        num_train_timesteps, beta_start, beta_end, beta_schedule, trained_betas, prediction_type: the model, for
            construction by hand. `from_config` reads any scheduler's config, with spacings, shifts and all.
        solver: name or alias in SOLVERS. grid: name in GRIDS, list of decreasing times, or None for the grid that the
            config describes. solver_options: of the solver, e.g. {"order": 3}. noise: "independent", or "brownian" for
            one path a sample, which gives the same image at any number of steps.
        learned: an artefact (or its path, or `to_dict`), in place of solver and grid: set_timesteps(n) takes its table for n
            evaluations; guidance, outside and policy as in `from_config`. Runs that begin in the middle, as image to image
            does, take its solver without corrections on the learned times that remain.

    Raises:
        ValueError: unknown solver, grid or option; a config that describes no noise schedule.
    """

    _compatibles = [
        *(kind.name for kind in KarrasDiffusionSchedulers),
        "FlowMatchEulerDiscreteScheduler",
        "FlowMatchHeunDiscreteScheduler",
        "EDMDPMSolverMultistepScheduler",
    ]
    order = 1

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: str = "linear",
        trained_betas: Sequence[float] | np.ndarray | None = None,
        prediction_type: str = "epsilon",
        solver: str = "dpmpp_2m",
        grid: str | list[float] | None = None,
        solver_options: dict[str, Any] | None = None,
        noise: str = "independent",
        learned: dict[str, Any] | None = None,
        guidance: float | None = None,
        outside: str | None = None,
        policy: str | None = None,
    ):
        pass  # registering the arguments reads them

    @classmethod
    def _get_compatibles(cls) -> list[type]:
        """Of `_compatibles`, those whose own requirements are installed."""
        return [c for c in super()._get_compatibles() if not isinstance(c, DummyObject)]

    def _configure(self) -> None:
        """What exists before set_timesteps: the training range as timesteps and sigmas."""
        self._read, self._entries = self._internal_dict, dict(self._internal_dict)
        self._key = key_with(self._read)
        self._model: Model = model(self._key)
        schedule, nodes = self._model.schedule, self._model.training
        self.timesteps = model_clock(schedule, np.asarray(schedule.model_time(nodes.t[:-1])))
        self.sigmas = public_sigmas(schedule, nodes)
        self._noise_level = float(nodes.sigma[0]) if schedule.kind == "ve" else 1.0
        self.num_inference_steps: int | None = None
        for name, table in self._model.beta_tables.items():
            self.__dict__.pop(name, None)  # of an earlier config
            if table is not None:
                setattr(self, name, torch.tensor(table, dtype=torch.float32))
        self._asked: tuple[Any, ...] | None = None
        self._table: Timetable | None = None
        self._bound: Bound | None = None
        self._restart()

    def _restart(self) -> None:
        self._begin_index: int | None = None
        self._step: Any = None  # the Step to take next, or DONE
        self._state: State | None = None
        self._returned: Tensor | None = None
        self._version: int | None = None
        self._noise: Noise | None = None  # of this run, where it remembers
        self._scaled, self._record, self._named = False, None, ""  # how its first timestep was told
        self._seen: Seen | None = None  # by the network, as scale_model_input handed it out

    def __len__(self) -> int:
        return self._model.schedule.num_train_timesteps

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Begin the run at network call `begin_index`: its solver starts afresh on the remaining calls."""
        if begin_index < 0:
            raise ValueError(f"`begin_index` must not be negative; got {begin_index}")
        self._begin_index = begin_index
        if self._table is not None and self._bound is not None and begin_index < self._table.tableau.nfe:
            if self._step is None:
                self._bound = bind(self._table, begin_index, self._bound.device, self._bound.dtype)

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: torch.device | str | None = None,
        sigmas: Sequence[float] | np.ndarray | Tensor | None = None,
        mu: float | None = None,
        timesteps: Sequence[float] | np.ndarray | Tensor | None = None,
        *,
        original_inference_steps: int | None = None,
        max_timesteps: float | None = None,
        intermediate_timesteps: float | None = None,
    ) -> None:
        """Prepare a run of exactly n network evaluations; forgets the previous one.

        Args:
            num_inference_steps: n. device: of `timesteps`, and where step() is expected.
            sigmas: explicit levels, decreasing, n or n + 1 with a final 0; flow levels are shifted here, once.
            mu: dynamic shift; required where the config uses dynamic shifting, else ignored.
            timesteps: explicit times for the network; with `sigmas`, those drive the solver.
            original_inference_steps: of an LCM or TCD config, in its place for this run.
            max_timesteps, intermediate_timesteps: first time of an SCM model, and second of two.

        Raises:
            ValueError: n < 1, lengths that differ, levels that do not decrease, a missing `mu`.
        """
        if self._internal_dict is not self._read:  # pipelines that correct a config replace it as a whole
            self._configure()
        elif told := changed(self._internal_dict, self._entries):  # users set attributes of it
            self.register_to_config(**told)
        if max_timesteps is not None and timesteps is None and num_inference_steps:
            timesteps = angles(num_inference_steps, max_timesteps, intermediate_timesteps)
        shift = None if mu is None else float(mu)
        self._asked = (num_inference_steps, numbers(sigmas), numbers(timesteps), shift)
        changes = self._fitting()
        if original_inference_steps is not None:
            changes["original_inference_steps"] = original_inference_steps
        self._run_key = key_with(self._read, **changes) if changes else self._key
        self._table = self._with_own_weights(timetable(self._run_key, *self._asked))
        self.timesteps = self._table.timesteps.to(device, copy=True)
        self.sigmas = self._table.sigmas.clone()
        self.num_inference_steps = self._table.tableau.nfe
        self._noise_level = self._table.noise_level
        self._clock, self._handed = self.timesteps, self._table.tableau.model_times
        self._bound = bind(self._table, 0, self.timesteps.device, torch.float32)
        self._restart()

    def scale_model_input(self, sample: Tensor, timestep: Any = None) -> Tensor:
        """The network's input for a state: the state itself, but times 1/sqrt(sigma^2 + sigma_data^2) for EDM models."""
        scales = None if self._table is None else self._table.input_scales
        if scales is None:
            self._seen = Seen.of(sample)
            return sample
        index = self.step_index
        if index is None:
            index = self._located(timestep) if self._begin_index is None else self._begin_index
        return sample * scales[index]

    def step(
        self,
        model_output: Tensor,
        timestep: Any,
        sample: Tensor,
        eta: float = 0.0,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        variance_noise: Tensor | None = None,
        return_dict: bool = True,
        per_token_timesteps: Tensor | None = None,
        prev_timestep: Any = None,
        *,
        r_timestep: Any = None,
    ) -> Any:
        """The state at the next network call, from the network's output at this one.

        Args:
            model_output: (B, C, ...), or (B, 2C, ...) with a learned variance, of any floating dtype.
            timestep: read only at the first step of a run that has no begin index; prev_timestep: never, the table knows it.
            sample: state, (B, C, ...).
            eta: what pipelines pass on; above 0, it takes the place of the solver's option `eta` (ddim, ancestral) for
                this run. Other solvers do not read it.
            generator: one, or a list with one a sample; used by rows with noise. variance_noise: their noise, given.
            return_dict: False for a tuple (prev_sample, pred_original_sample), the second computed when it is read.
            r_timestep: where a flow map was told to lead, as its pipelines pass it: must be that of `r_timesteps`.
            per_token_timesteps: (B, N) for flow states (B, N, C) whose tokens have times of their own; the output is
                minus the velocity then, as the pipelines that pass this have it. A token whose time is still
                to come gets its clean sample right; its state is the caller's to keep.

        Raises:
            ValueError: before set_timesteps, after the last step, or a model output of another shape.
        """
        # The table is compiled: which row comes next is known, and `timestep` is not looked at again (reading it would make
        # the host wait for the device). The state between calls is ours, the sample is the caller's: where it is not the very
        # tensor that was returned, unchanged since (`_version`), somebody edited it, and the anchor moves by the same.
        step = self._step or self._first_step(timestep, sample, eta)
        self._follow(timestep, sample)
        self._leads(step, r_timestep)
        if per_token_timesteps is not None:
            model_output = self._of_tokens(model_output, per_token_timesteps / step.model_time)
        state: Any = self._state
        if sample is not self._returned or (self._version is not None and sample._version != self._version):
            state = self._entered(sample)
        noises = self._draw(step, state.input, generator, variance_noise) if step.draws else ()
        after = self._taken(step, state, like_state(model_output, sample), noises)
        self._step, self._state = step.next or DONE, after
        previous = self._returned = after.input.to(sample.dtype)
        self._version = None if previous is after.input else version(previous)

        def predicted() -> Tensor:
            x0 = step.x0(state.input, like_state(model_output, sample))
            return (x0 if step.post is None else step.post(x0)).to(sample.dtype)

        if return_dict:
            return SchedulerOutput(previous, predicted())
        return (previous, predicted()) if torch.compiler.is_compiling() else StepTuple((previous, predicted))

    def _draw(self, step: Step, like: Tensor, generator: Any, given: Tensor | None) -> list[Tensor]:
        """The noises of a row, the first of them `given` where the caller brings it."""
        if self.config.get("noise") == "brownian":
            self._noise = self._noise or source("brownian", None, generator, like.shape[0])
        noise = self._noise or GeneratorNoise(generator)
        first = [] if given is None else [given.to(like.dtype)]
        return first + [noise(draw, like) for draw in step.draws[len(first) :]]

    def _first_step(self, timestep: Any, sample: Tensor, eta: float) -> Step:
        """Step zero of the run: at the begin index, else where `timestep` stands in `timesteps`."""
        if self._table is None or self._bound is None:
            raise ValueError("call set_timesteps() before step()")
        self._meet(sample)
        begin = self._begins(timestep)
        self._require_scaled(begin)
        dtype = torch.float64 if sample.dtype == torch.float64 else torch.float32
        if eta and (options := self._model.with_eta(float(eta))) is not None:
            said = {**described(self._read).get("solver_options", {}), **options}
            self._run_key = key_with(self._read, solver_options=said)
            self._table = same_times(timetable(self._run_key, *(self._asked or ())), self._table)
            self._bound = bind(self._table, begin, sample.device, dtype)
        if (self._bound.begin, self._bound.device, self._bound.dtype) != (begin, sample.device, dtype):
            self._bound = bind(self._table, begin, sample.device, dtype)
        return self._bound.steps[0]

    def _entered(self, sample: Tensor) -> State:
        """The state with an input from outside: a first sample, or an edited one, which moves the anchor with it."""
        assert self._bound is not None
        x, state = sample.to(self._bound.dtype), self._state
        if state is None:
            return first_state(self._bound.tableau, x)
        carry = x if state.carry is state.input else state.carry + (x - state.input)
        return State(carry, x, state.history, state.versions)

    def _of_tokens(self, output: Tensor, share: Tensor) -> Tensor:
        """The velocity at the time of the step that predicts the x0 of tokens at a share of it: x0 = x - t (share v)."""
        if self._model.schedule.kind != "flow":
            raise ValueError("`per_token_timesteps` belongs to flow models; this scheduler's model is none")
        return -output * share.unsqueeze(-1)

    def __getstate__(self) -> dict[str, Any]:
        bound = None if self._bound is None else (self._bound.begin, self._bound.device, self._bound.dtype)
        rebuilt = ("_model", "_table", "_bound", "_step", "_read", "_seen", "_record")
        return {**{k: v for k, v in self.__dict__.items() if k not in rebuilt}, "at": (bound, self.step_index)}

    def __setstate__(self, saved: dict[str, Any]) -> None:
        bound, index = saved.pop("at")
        self.__dict__.update(saved)
        self._read, self._model, self._seen = self._internal_dict, model(self._key), None
        self._table = None if self._asked is None else timetable(self._run_key, *self._asked)
        self._bound = self._step = None
        if self._table is not None:
            self._bound = bind(self._table, *bound)
            steps = (*self._bound.steps, DONE)
            self._step = None if index is None else steps[index - self._bound.begin]


Scheduler.__module__ = "fewstep.samplers.scheduler"  # what a saved pipeline names, and finds again
