"""What sampling costs beside the network: `python tests/benchmarks/overhead.py [--device cuda]`.

Prints tables, asserts nothing: times belong to the machine; the last one is that of the pages.
Ours and diffusers' schedulers take turns in one run, on one thread, at 1x4x64x64; the network's output is a tensor made
beforehand. On a GPU the kernels of a step are counted and one step is captured in a CUDA graph.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import click
import kept
import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fewstep.samplers import SOLVERS, NoiseSchedule, Scheduler, build
from fewstep.samplers.coefficients.phi import phis
from fewstep.samplers.run.lowering import lower
from fewstep.samplers.run.step import State

STEPS, ROUNDS, RUNS, SHAPE = 20, 15, 5, (1, 4, 64, 64)
SD = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
# name of ours: (options, diffusers class, its options)
PAIRS: dict[str, tuple[dict[str, Any], str, dict[str, Any]]] = {
    "dpmpp_2m": ({}, "DPMSolverMultistepScheduler", {}),
    "deis_log_rho": ({"order": 3}, "DEISMultistepScheduler", {"solver_order": 3}),
    "unipc": ({"order": 3}, "UniPCMultistepScheduler", {"solver_order": 3}),
    "ddim": ({}, "DDIMScheduler", {"clip_sample": False}),
    "euler": ({}, "EulerDiscreteScheduler", {}),
}
SHOWN = {"dpmpp_2m": "DPM++ 2M", "deis_log_rho": "DEIS, log rho, order 3", "unipc": "UniPC, order 3", "ddim": "DDIM",
         "euler": "Euler"}  # fmt: skip
VIEWS = {"view", "_unsafe_view", "t", "transpose", "expand", "slice", "select", "detach", "alias", "unsqueeze", "squeeze",
         "permute", "as_strided", "split", "unbind", "_reshape_alias"}  # fmt: skip


class Operations(TorchDispatchMode):
    """Counts tensor operations, views left out."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func.overloadpacket.__name__ not in VIEWS
        return func(*args, **(kwargs or {}))


def synchronise(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def seconds(run: Callable[[], Any], device: str = "cpu") -> float:
    synchronise(device)
    began = time.perf_counter()
    run()
    synchronise(device)
    return time.perf_counter() - began


def nothing() -> None:
    """No preparation."""


def medians(runs: dict[str, tuple[Callable[[], Any], Callable[[], Any]]], device: str) -> dict[str, float]:
    """Median seconds of each (preparation, run), the run alone; they take turns, a few runs a turn."""
    spent: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(ROUNDS + 1):
        for name, (prepare, run) in runs.items():
            total = 0.0
            for _ in range(RUNS):
                prepare()
                total += seconds(run, device)
            if turn:  # the first one warms up
                spent[name].append(total / RUNS)
    return {name: statistics.median(times) for name, times in spent.items()}


def schedulers(name: str) -> tuple[Any, Any]:
    """(diffusers' scheduler, ours) with the settings of Stable Diffusion."""
    import diffusers

    options, cls, extra = PAIRS[name]
    theirs = getattr(diffusers, cls)(**SD, **extra)
    return theirs, Scheduler.from_config(theirs.config, solver=name, **options)


def play(scheduler: Any, x: torch.Tensor, output: torch.Tensor) -> None:
    """One run, without the network and without set_timesteps."""
    for t in scheduler.timesteps:
        scheduler.scale_model_input(x, t)
        x = scheduler.step(output, t, x, return_dict=False)[0]


def per_step(device: str) -> list[tuple[str, ...]]:
    """And the rows of the pages."""
    torch.manual_seed(0)
    x, output = torch.randn(2, *SHAPE, device=device)
    runs: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {}
    counts: dict[str, float] = {}
    for name in PAIRS:
        theirs, ours = schedulers(name)
        for label, scheduler in (("diffusers", theirs), ("Scheduler", ours)):
            prepare = lambda s=scheduler: s.set_timesteps(STEPS, device=device)  # noqa: E731
            runs[f"{name} {label}"] = prepare, lambda s=scheduler: play(s, x, output)
        steps = lower(build(name, ours._model.schedule, STEPS, **PAIRS[name][0]), "epsilon", device)

        def rows(steps: Any = steps) -> None:
            state = State(x, x)
            for step in steps:
                state = step(state, output)

        runs[f"{name} Step"] = nothing, rows
    for label, (prepare, run) in runs.items():
        prepare()
        with Operations() as operations:
            run()
        counts[label] = operations.count / STEPS
    times = medians(runs, device)
    print(f"\nper step beside the network, {device}, {'x'.join(map(str, SHAPE))}, {STEPS} steps, median of {ROUNDS}")
    print(f"{'solver':<14}{'diffusers':>12}{'Scheduler':>12}{'Step':>10}   ratio   tensor operations a step")
    rows = []
    for name in PAIRS:
        d, s, r = (times[f"{name} {label}"] / STEPS * 1e6 for label in ("diffusers", "Scheduler", "Step"))
        ops = [counts[f"{name} {label}"] for label in ("diffusers", "Scheduler", "Step")]
        print(
            f"{name:<14}{d:>9.1f} us{s:>9.1f} us{r:>7.1f} us{d / s:>7.1f}x   {ops[0]:.1f} | {ops[1]:.1f} | {ops[2]:.1f}"
        )
        fewer = f"{ops[0]:.0f} -> {ops[1]:.1f}".removesuffix(".0")
        rows.append((SHOWN[name], f"{d:.0f} us", f"{s:.0f} us", f"{d / s:.1f}x", fewer))
    return rows


def compile_times() -> None:
    discrete = NoiseSchedule.discrete(np.cumprod(1 - np.linspace(1e-4, 0.02, 1000)))
    print("\na table of 20 rows, milliseconds (best of 9; the phi functions computed anew)")
    slowest = ("", 0.0)
    for name in (name for name, entry in SOLVERS.items() if entry.kind == "tableau"):
        build(name, discrete, 20)
        best = min(seconds(lambda name=name: (phis.cache_clear(), build(name, discrete, 20))) for _ in range(9)) * 1e3
        slowest = max(slowest, (name, best), key=lambda item: item[1])
        print(f"  {name:<18}{best:6.2f}")
    print(f"slowest: {slowest[0]} {slowest[1]:.2f} ms (wanted: below 5)")


def repeats(device: str) -> None:
    for name in PAIRS:
        theirs, ours = schedulers(name)
        runs = {
            label: (nothing, lambda s=scheduler: s.set_timesteps(STEPS, device=device))
            for label, scheduler in (("diffusers", theirs), ("ours", ours))
        }
        times = medians(runs, device)
        print(
            f"  set_timesteps again, {name:<14}{times['ours'] * 1e6:7.1f} us   diffusers {times['diffusers'] * 1e6:7.1f} us"
        )


def start_up() -> None:
    print(
        "\nstart, best of 7 (wanted: `fewstep --help` below 0.5 s, `import fewstep` below 50 ms beside Python itself)"
    )

    def best(*command: str) -> float:
        return min(seconds(lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL)) for _ in range(7))

    empty = best(sys.executable, "-c", "pass")
    imported = best(sys.executable, "-c", "import fewstep")
    print(f"  fewstep --help  {best(sys.executable, '-m', 'fewstep', '--help'):.3f} s")
    print(f"  import fewstep  {(imported - empty) * 1e3:.1f} ms (an empty Python: {empty * 1e3:.0f} ms)")


def kernels() -> None:
    """Kernels of a full row, and a row captured in a CUDA graph and replayed."""
    from torch.profiler import ProfilerActivity, profile

    schedule = NoiseSchedule.vp_linear()
    x, output = torch.randn(2, *SHAPE, device="cuda")
    print("\na full row on the GPU: kernels, time eager and replayed from a CUDA graph")
    for name in PAIRS:
        steps = lower(build(name, schedule, STEPS, **PAIRS[name][0]), "epsilon", "cuda")
        before = State(x, x)
        for step in steps[:10]:
            before = step(before, output)
        step = steps[10]
        with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as seen:
            step(before, output)
            torch.cuda.synchronize()
        launched = sum(e.device_type == torch.autograd.DeviceType.CUDA for e in seen.events())
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            step(before, output)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = step(before, output)
        graph.replay()
        torch.cuda.synchronize()
        same = torch.equal(captured.input, step(before, output).input)
        eager = lambda s=step, b=before: s(b, output)  # noqa: E731
        times = medians({"eager": (nothing, eager), "graph": (nothing, graph.replay)}, "cuda")
        print(f"  {name:<14}{launched:3d} kernels   eager {times['eager'] * 1e6:7.1f} us   "
              f"graph {times['graph'] * 1e6:7.1f} us   equal: {same}")  # fmt: skip


@click.command()
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option("--steps-only", "only", is_flag=True, help="The table of the pages alone.")
@kept.keep
def main(device: str, only: bool, keep: bool) -> None:
    """Print the tables."""
    import diffusers

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    with torch.no_grad():
        rows = per_step(device)
        if not only:
            repeats(device)
        if device == "cuda" and not only:
            kernels()
    if not only:
        compile_times()
        start_up()
    theirs = f"diffusers {diffusers.__version__}"
    print()
    kept.show("overhead", ("solver", theirs, "fewstep `Scheduler`", "ratio", "tensor operations"), rows, keep)


if __name__ == "__main__":
    main()
