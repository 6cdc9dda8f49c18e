"""A step beside the network: time, kernels, and the step in one CUDA graph; beside diffusers' schedulers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from fewstep import NoiseSchedule, build
from fewstep.samplers.run.lowering import lower
from fewstep.samplers.run.step import State

from .measuring import Place, Row

SOLVERS: dict[str, dict[str, Any]] = {"ddim": {}, "dpmpp_2m": {}, "unipc": {"order": 3}, "deis_log_rho": {"order": 3}}
PEERS = {"ddim": "DDIMScheduler", "dpmpp_2m": "DPMSolverMultistepScheduler", "unipc": "UniPCMultistepScheduler"}
VIEWS = {"view", "_unsafe_view", "t", "transpose", "expand", "slice", "select", "detach", "alias", "unsqueeze", "squeeze",
         "permute", "as_strided", "split", "unbind", "_reshape_alias"}  # fmt: skip
STEPS = 20


class Operations(TorchDispatchMode):
    """Counts tensor operations, views left out."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func.overloadpacket.__name__ not in VIEWS
        return func(*args, **(kwargs or {}))


def measure(place: Place) -> Iterator[Row]:
    schedule, shape = NoiseSchedule.vp_linear(), (1, 4, 64, 64)
    x, output = place.random(*shape), place.random(*shape, seed=1)
    with torch.no_grad():
        for name, options in SOLVERS.items():
            steps = lower(build(name, schedule, STEPS, **options), "epsilon", str(place.device))

            def play(steps: Any = steps) -> None:
                state = State(x, x)
                for step in steps:
                    state = step(state, output)

            play()
            with Operations() as operations:
                play()
            eager = place.seconds(play, 20) / STEPS
            yield Row(f"{name}, a step", 1e6 * eager, "us", f"{operations.count / STEPS:.1f} tensor operations")
            if place.cuda:
                yield from graphed(place, name, steps, x, output)
        yield from beside_diffusers(place, x, output)


def graphed(place: Place, name: str, steps: Any, x: torch.Tensor, output: torch.Tensor) -> Iterator[Row]:
    """Kernels of a full row, and the row captured and replayed."""
    before = State(x, x)
    for step in steps[:10]:
        before = step(before, output)
    step = steps[10]
    eager = place.seconds(lambda: step(before, output), 50)
    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as seen:
        step(before, output)
        place.wait()
    launched = sum(e.device_type == torch.autograd.DeviceType.CUDA for e in seen.events())
    yield Row(f"{name}, kernels of a full step", launched, "kernels")
    side = torch.cuda.Stream(place.device)
    side.wait_stream(torch.cuda.current_stream(place.device))
    with torch.cuda.stream(side):
        step(before, output)
    torch.cuda.current_stream(place.device).wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step(before, output)
    graph.replay()
    place.wait()
    same = torch.equal(captured.input, step(before, output).input)
    replayed = place.seconds(graph.replay, 50)
    note = f"{eager / replayed:.1f} times as fast as eager; {'equal' if same else 'NOT EQUAL'}"
    yield Row(f"{name}, a step in one CUDA graph", 1e6 * replayed, "us", note)


def beside_diffusers(place: Place, x: torch.Tensor, output: torch.Tensor) -> Iterator[Row]:
    if find_spec("diffusers") is None:
        yield Row("diffusers' schedulers", None, "", "left out: diffusers is not installed (pip install diffusers)")
        return
    import diffusers

    from fewstep import Scheduler

    def runs(scheduler: Any) -> Callable[[], None]:
        def run() -> None:
            scheduler.set_timesteps(STEPS, device=place.device)
            state = x
            for t in scheduler.timesteps:
                scheduler.scale_model_input(state, t)
                state = scheduler.step(output, t, state, return_dict=False)[0]

        return run

    for name, kind in PEERS.items():
        theirs = getattr(diffusers, kind)(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
        ours = Scheduler.from_config(theirs.config, solver=name, **SOLVERS[name])
        spent = [place.seconds(runs(scheduler), 10) / STEPS for scheduler in (theirs, ours)]
        note = f"{kind} of diffusers {diffusers.__version__}: {1e6 * spent[0]:.0f} us, {spent[0] / spent[1]:.1f} times as long"
        yield Row(f"{name}, a step of a Scheduler with set_timesteps", 1e6 * spent[1], "us", note)
