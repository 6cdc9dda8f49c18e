"""`sample`: the one loop that executes every table."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
import torch

from .denoiser import Denoiser
from .lowering import lower
from .noise import GeneratorNoise, Noise, NoiseSource
from .player import Post, State, Step, first_state
from .registry import build
from .tableau import Tableau

Tensor = torch.Tensor
Generators = torch.Generator | Sequence[torch.Generator]


@dataclass(frozen=True)
class Info:
    """What a run did: nfe, accepted and rejected steps, status "done", wall-clock seconds, the table it played."""

    nfe: int
    accepted: int
    rejected: int
    status: str
    seconds: float
    tableau: Tableau


class Progress:
    """What callback and hook see after a row: .index, .t (time of the new state x), .x, .x0 (lazily), .nfe so far."""

    def __init__(self, step: Step, t: float, before: State, output: Tensor, after: State):
        self.index, self.t, self.x, self.nfe = step.index, t, after.input, step.index + 1
        self._step, self._before, self._output = step, before, output

    @property
    def x0(self) -> Tensor:
        """The clean sample predicted by this row's network call."""
        return self._step.x0(self._before.input, self._output)


def sample(
    denoiser: Denoiser,
    x_T: Tensor,
    solver: str | Tableau = "dpmpp_2m",
    nfe: int | None = None,
    grid: Any = None,
    *,
    t_start: float | None = None,
    t_end: float | None = None,
    generator: Generators | None = None,
    noise_seeds: Sequence[int] | None = None,
    callback: Callable[[Progress], Any] | None = None,
    hook: Callable[[Progress], Tensor | None] | None = None,
    progress: bool = False,
    return_info: bool = False,
    check: str = "end",
    post: Post | None = None,
    **solver_options: Any,
) -> Any:
    """Draw samples with exactly `nfe` network evaluations (10 by default).

    Args:
        denoiser: Denoiser. x_T: state at t_start, (B, *shape), floating; float64 keeps float64 algebra, half precision is
            accumulated in float32 and returned in x_T's dtype.
        solver: SOLVERS name, alias, or a Tableau (then nfe, grid, t_start, t_end and options must be absent).
        nfe: network evaluations. grid: GRIDS name, decreasing times, or None for the schedule's default.
        t_start, t_end: ends in the schedule's time; default t_max and the schedule's end (sigma = 0 where it is reached).
        generator: torch.Generator, or one a sample, for stochastic solvers; noise_seeds: one int a sample instead.
        callback: called after every row with .index .t .x .x0 .nfe. hook: the same, may return a new x.
        progress: show a bar. return_info: return (x0, Info). post: applied to every predicted x0 (e.g. clipping).
        check: "end" reads the result once and raises if it is not finite; "each" does so after every row and names it
            (a device read a row); "none" never reads.

    Returns:
        The sample, (B, *shape) of x_T's dtype; with return_info also an Info.

    Raises:
        ValueError: any wrong argument, before the first network call; a network output that is not finite.
    """
    _validate(denoiser, x_T, check, callback=callback, hook=hook, post=post)
    _validate_noise(x_T, generator, noise_seeds)
    if isinstance(solver, Tableau):
        if any(given is not None for given in (nfe, grid, t_start, t_end)) or solver_options:
            raise ValueError(
                "a Tableau is already compiled: pass nfe, grid, t_start, t_end and options to build() instead"
            )
        tableau = solver
        _validate_place(tableau, denoiser)
    else:
        if nfe is None and grid is None:
            nfe = 10
        tableau = build(solver, denoiser.schedule, nfe, grid, t_start=t_start, t_end=t_end, **solver_options)
    began = time.perf_counter()
    wide = torch.float64 if x_T.dtype == torch.float64 else torch.float32
    steps = lower(tableau, denoiser.prediction, x_T.device, wide, post)
    noise: Noise = NoiseSource(noise_seeds) if noise_seeds is not None else GeneratorNoise(generator)
    state = first_state(tableau, x_T.to(wide), noise)
    for step in _bar(steps, progress):
        output = denoiser.call(state.input.to(x_T.dtype), step.model_time)
        after = step(state, output, [noise(step.index + 1, slot, state.input) for slot in step.slots])
        if callback or hook:
            after = _tell(
                Progress(step, float(tableau.times[step.index + 1]), state, output, after), after, callback, hook
            )
        if check == "each":
            shown = tableau.model_times[step.index]
            _require_finite(after.input, f"row {step.index} (t = {step.t:.6g}, model time {shown:.6g})")
        state = after
    if check == "end":
        _require_finite(state.input, 'the result; check="each" names the step where it starts')
    result = state.input.to(x_T.dtype)
    if not return_info:
        return result
    return result, Info(tableau.nfe, tableau.nfe, 0, "done", time.perf_counter() - began, tableau)


def _tell(seen: Progress, after: State, callback: Any, hook: Any) -> State:
    """Run callback and hook; a tensor from the hook moves the state, the anchor by the same displacement."""
    if callback:
        callback(seen)
    moved = hook(seen) if hook else None
    if moved is None:
        return after
    if moved.shape != after.input.shape:
        raise ValueError(f"hook returned shape {tuple(moved.shape)}; expected {tuple(after.input.shape)}")
    carry = moved if after.carry is after.input else after.carry + (moved - after.input)
    return State(carry, moved, after.history)


def _validate(denoiser: Any, x: Any, check: str, **called: Any) -> None:
    if not isinstance(denoiser, Denoiser):
        raise ValueError(
            f"`denoiser` must be a Denoiser; got {type(denoiser).__name__}. Wrap a network with Denoiser(fn, schedule, "
            "prediction) or a pipeline with Denoiser.from_pipeline(pipe)"
        )
    if not isinstance(x, torch.Tensor) or not x.is_floating_point() or x.ndim < 1:
        what = f"{x.dtype} of shape {tuple(x.shape)}" if isinstance(x, torch.Tensor) else type(x).__name__
        raise ValueError(f"`x_T` must be a floating tensor of shape (B, *shape); got {what}")
    if check not in ("end", "each", "none"):
        raise ValueError(f'`check` must be "end", "each" or "none"; got {check!r}')
    for name, function in called.items():
        if function is not None and not callable(function):
            raise ValueError(f"`{name}` must be a function of one argument; got {type(function).__name__}")


def _validate_noise(x: Tensor, generator: Any, seeds: Any) -> None:
    """One seed or generator a sample, or one generator for all."""
    if seeds is not None and generator is not None:
        raise ValueError("give either `generator` or `noise_seeds`, not both")
    if seeds is not None and not (isinstance(seeds, Collection) and all(isinstance(s, Integral) for s in seeds)):
        raise ValueError(f"`noise_seeds` must be whole numbers, one a sample; got {seeds!r}")
    if seeds is not None and len(seeds) != x.shape[0]:
        raise ValueError(f"{len(seeds)} noise seeds for a batch of {x.shape[0]}: give one seed a sample")
    sources = generator if isinstance(generator, (list, tuple)) else [] if generator is None else [generator]
    for source in sources:
        if not isinstance(source, torch.Generator):
            raise ValueError(f"`generator` must be a torch.Generator, or a list with one a sample; got {source!r}")
    if sources is generator and len(sources) != x.shape[0]:
        raise ValueError(f"{len(sources)} generators for a batch of {x.shape[0]}: pass one generator, or one a sample")


def _validate_place(tableau: Tableau, denoiser: Denoiser) -> None:
    """The table's nodes must lie on the schedule that the network was trained on."""
    there = denoiser.schedule.nodes(tableau.times)
    if not all(
        np.allclose(getattr(there, f), getattr(tableau.nodes, f), rtol=1e-6, atol=1e-9) for f in ("alpha", "sigma")
    ):
        raise ValueError(
            f"the table was compiled for {tableau.schedule!r}, the network belongs to {denoiser.schedule!r}; "
            "build() it for the denoiser's schedule"
        )


def _require_finite(x: Tensor, where: str) -> None:
    if not bool(torch.isfinite(x).all()):
        bad = int((~torch.isfinite(x)).flatten(1).any(1).sum()) if x.ndim > 1 else 1
        raise ValueError(
            f"the network's output led to values that are not finite in {bad} of {x.shape[0]} samples at {where}"
        )


def _bar(steps: Sequence[Step], show: bool) -> Any:
    if not show:
        return steps
    from tqdm.auto import tqdm

    return tqdm(steps, desc="sampling", unit="eval")
