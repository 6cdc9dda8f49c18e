"""Any diffusers pipeline as a denoiser: its own `__call__`, suspended at every `scheduler.step`.

A pipeline is a loop `for t in timesteps: output = network(x, t); x = scheduler.step(output, t, x)`. It runs here as a
generator (`suspend.py`) with a `Probe` for its scheduler, whose timesteps are the times asked for and whose step hands the
output out. Prompts are encoded once; a denoiser call is one turn of the pipeline's own loop, in the caller's thread, grad
mode and autocast.
"""

from __future__ import annotations

import copy
import inspect
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from fewstep.checks import unknown
from fewstep.samplers.pipeline.encoding import Encoded
from fewstep.samplers.pipeline.probe import Halt, Probe
from fewstep.samplers.pipeline.suspend import suspendable
from fewstep.samplers.run.denoiser import PipelineDenoiser
from fewstep.samplers.validity.domain import adapters_of, scales_of, weights_of

TURNS = 250  # of a pipeline's loop before it is started afresh
_TIMES = "the times come with each call of the denoiser"
_COUNTS = "its effect depends on the number of the step, and a denoiser knows only the time"
_CALLS = "use sample(..., callback=)"
REFUSED = {
    "latents": "they are what the denoiser is called with",
    **dict.fromkeys(("num_inference_steps", "timesteps", "sigmas", "denoising_start", "denoising_end"), _TIMES),
    **dict.fromkeys(("control_guidance_start", "control_guidance_end", "skip_guidance_layers"), _COUNTS),
    **dict.fromkeys(("callback", "callback_steps"), _CALLS),
    **dict.fromkeys(("callback_on_step_end", "callback_on_step_end_tensor_inputs"), _CALLS),
    "eta": "noise is the solver's business",
    "return_dict": "`decode` returns the result itself",
}


def denoiser_from_pipeline(pipe: Any, **call_kwargs: Any) -> SuspendedPipeline:
    """`Denoiser.from_pipeline`."""
    check_arguments(pipe, call_kwargs)
    return SuspendedPipeline(pipe, call_kwargs)


class SuspendedPipeline(PipelineDenoiser):
    """What `Denoiser.from_pipeline` makes: the pipeline's own loop, which stands still between calls."""

    fn: Loop

    def __init__(self, pipe: Any, call: dict[str, Any]):
        probe, (reads, two_times) = Probe.of(pipe.scheduler), second_time(pipe, call)
        probe.leads = reads
        super().__init__(Loop(pipe, call, probe), probe.schedule, probe.prediction, two_times=two_times)

    def __copy__(self) -> SuspendedPipeline:
        """Another of the same pipeline, which is shared, networks and all, with a loop of its own: one for each thread."""
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        other.fn, other.nfe = copy.copy(self.fn), 0
        return other

    @property
    def shape(self) -> tuple[int, ...]:
        with self.fn.alone():
            return tuple(self.fn.own().latents.shape)

    @property
    def t_start(self) -> float:
        with self.fn.alone():
            first = self.fn.own().first
        assert first is not None  # the loop has asked for its first time
        return float(self.schedule.time_of_model(float(first)))

    def initial_noise(self, generator: Any = None) -> Tensor:
        with self.fn.alone():
            if generator is not None:
                self.fn.generator, self.fn.run = _copied(generator), None
            return self.fn.own().latents

    def told(self, weights: bool = False) -> dict[str, Any]:
        pipe, call = self.fn.pipe, self.fn.call
        known = {"guidance": scales_of(pipe, call), "adapters": adapters_of(pipe)}
        return {**known, "weights": weights_of(pipe)} if weights else known

    def decode(self, latents: Tensor) -> Any:
        kind = self.fn.call.get("output_type", "pil")
        if latents.requires_grad and torch.is_grad_enabled() and kind in ("pil", "np"):
            raise ValueError(
                f'output_type={kind!r} has no gradient: make the denoiser with output_type="pt", or decode latents.detach()'
            )
        return self.fn.finish(latents)

    def prepare(self, x: Tensor) -> None:
        """Starts the pipeline's loop for states like x, where it is not suspended in one already."""
        with self.fn.alone():
            self.fn.fitting(x)

    def close(self) -> None:
        self.fn.run = None


class Loop:
    """The loop of a pipeline, started when needed and suspended between calls: (x, tau) -> output.

    Of flow maps with the time that they lead to. A copy starts a loop of its own.
    """

    def __init__(self, pipe: Any, call: dict[str, Any], probe: Probe):
        self.pipe, self.call, self.probe = pipe, call, probe
        self.generator = _copied(call.get("generator") or torch.Generator().manual_seed(0))
        self.encoded = Encoded()
        self.batch: int | None = None  # of the pipeline called as it was given
        self.run: Run | None = None
        self.busy = threading.Lock()

    @property
    def parameters(self) -> Mapping[str, Any]:
        """What the pipeline takes."""
        return inspect.signature(type(self.pipe).__call__).parameters

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "run": None, "busy": None, "generator": _copied(self.generator)}

    def __setstate__(self, saved: dict[str, Any]) -> None:
        self.__dict__.update(saved, busy=threading.Lock())

    @contextmanager
    def alone(self) -> Iterator[None]:
        """For one caller at a time; ValueError for a second one, who would be given the first one's step."""
        if not self.busy.acquire(blocking=False):
            raise ValueError(
                "this denoiser is being evaluated already: give each thread a copy of its own, copy.copy(denoiser), and "
                "evaluate none within itself"
            )
        try:
            yield
        finally:
            self.busy.release()

    def __call__(self, x: Tensor, tau: Tensor, tau_next: Tensor | None = None) -> Tensor:
        with self.alone():
            run, self.run = self.fitting(x), None  # a run that raises is not used again
            output = run.turn(x, tau, tau_next)
            self.run = run
        return output

    def finish(self, latents: Tensor) -> Any:
        """The pipeline's result from these latents; uses the run up."""
        with self.alone():
            run, self.run = self.fitting(latents), None
            return run.finish(latents)

    def own(self) -> Run:
        """A run of the pipeline called as it was given."""
        if self.run is None or not self.run.fresh() or len(self.run.latents) != self.batch:
            self.batch = len(self._start().latents)
        assert self.run is not None
        return self.run

    def fitting(self, x: Tensor) -> Run:
        """The suspended run, or a new one where it does not fit x, is used up, or its tensors have changed."""
        if self.batch is None:
            self.own()
        run = self.run
        if run is None or not run.fresh() or run.latents.shape != x.shape:
            run = self._start(**self._samples(len(x)))
        if run.latents.shape != x.shape:
            raise ValueError(
                f"the pipeline steps latents of shape {tuple(run.latents.shape)}; got {tuple(x.shape)}. Arguments such as "
                "prompt, height and width set it; `denoiser.shape` tells it"
            )
        return run

    def _start(self, **changes: Any) -> Run:
        """The pipeline up to its first step; what it draws is the same every time."""
        fixed = {"generator": _copied(self.generator), "num_inference_steps": TURNS, "return_dict": False}
        call = {**self.call, **{name: v for name, v in fixed.items() if name in self.parameters}, **changes}
        self.run = Run(self.pipe, call, self.probe.fresh(), self.encoded)
        return self.run

    def _samples(self, count: int) -> dict[str, Any]:
        """The argument that makes the pipeline work on `count` samples."""
        name = next((n for n in self.parameters if n.startswith("num_") and n.endswith("_per_prompt")), None)
        if self.batch is None or count == self.batch:
            return {}
        if name and count % self.batch == 0:
            return {name: count // self.batch * self.call.get(name, 1)}
        return {"batch_size": count} if "batch_size" in self.parameters else {}


class Run:
    """One call of a pipeline, suspended in a step. latents: what it started from; first: the time it first asked for."""

    def __init__(self, pipe: Any, call: dict[str, Any], probe: Probe, encoded: Encoded):
        self.inputs = list(_tensors(call))
        self.versions = self._versions()
        self.probe = probe
        own = copy.copy(pipe)
        vars(own).update(scheduler=self.probe, _progress_bar_config={"disable": True})
        if (encode_prompt := encoded.of(own)) is not None:
            vars(own)["encode_prompt"] = encode_prompt
        self.loop = suspendable(type(pipe).__call__, "step")(own, **call)
        with torch.set_grad_enabled(any(t.requires_grad for t in self.inputs)):
            halt = self._go(None)
        if halt is None:
            raise ValueError("the pipeline ended before its first step: there is nothing to denoise")
        self.latents, self.first, self.answer = halt.state.detach(), self.probe.tau, halt.answer
        self.turns = 1

    def turn(self, x: Tensor, tau: Tensor, tau_next: Tensor | None) -> Tensor:
        """The network's output at x and model time tau, after guidance; tau_next: where a flow map leads."""
        state = x.to(self.latents)
        self.probe.tau, self.probe.target = tau, tau_next
        halt = self._go(self.answer(state))
        if halt is None:
            raise ValueError("the pipeline ended its loop by itself; was it interrupted, or is `strength` too small?")
        if halt.state.data_ptr() != state.data_ptr() and not torch.equal(halt.state, state):
            raise ValueError(
                "this pipeline changes its latents between steps, so that its output is no function of (x, t); inpainting "
                "by blending does. Use a model with a mask input, or blend in sample(..., hook=)"
            )
        self.answer = halt.answer
        self.turns += 1
        return halt.output.to(x)

    def finish(self, latents: Tensor) -> Any:
        """Ends the loop with these latents as the last state; the pipeline's result."""
        self.probe.ended = True
        if self._go(self.answer(latents.to(self.latents))) is not None:
            raise ValueError("this pipeline goes on after its loop; decode the latents with its VAE")
        return self.result[0]

    def fresh(self) -> bool:
        """Whether there are turns left, and the pipeline's tensor arguments still hold what they held at its start."""
        return self.turns < self.probe.turns and self.versions == self._versions()

    def _versions(self) -> list[int]:
        return [0 if t.is_inference() else t._version for t in self.inputs]

    def _go(self, value: Any) -> Halt | None:
        """Let the pipeline run to its next step, or to its end: None. The caller's grad mode stays as it is."""
        try:
            with torch.set_grad_enabled(torch.is_grad_enabled()):
                value = self.loop.send(value)
                while not isinstance(value, Halt):  # the `step` of some other object
                    value = self.loop.send(value)
        except StopIteration as end:
            self.result = end.value
            return None
        return value


def check_arguments(pipe: Any, call: Mapping[str, Any]) -> None:
    """ValueError for what a pipeline's `__call__` does not take, or a denoiser cannot use."""
    if getattr(getattr(pipe, "scheduler", None), "config", None) is None or not callable(pipe):
        raise ValueError(
            f"expected a diffusers pipeline with a `scheduler`; got {type(pipe).__name__}. Of combined pipelines take the "
            "part that makes the image"
        )
    taken = [name for name in inspect.signature(type(pipe).__call__).parameters if name not in ("self", "kwargs")]
    for name in call:
        if name in REFUSED:
            raise ValueError(f"`{name}` makes no sense for a denoiser: {REFUSED[name]}")
        if name not in taken:
            raise unknown(f"argument of {type(pipe).__name__}", name, [n for n in taken if n not in REFUSED])


def second_time(pipe: Any, call: Mapping[str, Any]) -> tuple[bool, bool]:
    """Whether a pipeline looks for the time that a step leads to, and whether its network is shown it, as flow maps are.

    AnyFlow's look, and show it unless called with use_mean_velocity=False; HunyuanImage's and HunyuanVideo 1.5's do both where
    the network's config says use_meanflow. Others that have a second time (ACE-Step) show the first one twice.
    """
    networks = [part for part in getattr(pipe, "components", {}).values() if isinstance(part, torch.nn.Module)]
    if any(getattr(getattr(part, "config", None), "use_meanflow", False) for part in networks):
        return True, True
    mean = inspect.signature(type(pipe).__call__).parameters.get("use_mean_velocity")
    return (False, False) if mean is None else (True, bool(call.get("use_mean_velocity", mean.default)))


def _tensors(value: Any) -> Iterator[Tensor]:
    """The tensors in nested lists, tuples and dicts."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (Mapping, list, tuple)):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _tensors(part)


def _copied(generator: Any) -> Any:
    """A generator, or a list of them, in the same state."""
    if isinstance(generator, (list, tuple)):
        return [_copied(one) for one in generator]
    return None if generator is None else generator.clone_state()
