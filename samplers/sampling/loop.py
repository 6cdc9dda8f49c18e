"""`sample`: the one loop that executes every table, and the door to the drivers, which choose their own steps."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from numbers import Integral
from typing import Any

import torch

from fewstep.samplers.artefact.artefact import Artefact
from fewstep.samplers.building.compiling import build
from fewstep.samplers.building.names import checked_options, resolve
from fewstep.samplers.building.solver_entry import SOLVERS
from fewstep.samplers.noise.draws import Noise
from fewstep.samplers.noise.sources import source
from fewstep.samplers.run.checks import mean_for, require_finite, validate, validate_noise, validate_place
from fewstep.samplers.run.denoiser import Denoiser
from fewstep.samplers.run.lowering import lower
from fewstep.samplers.run.step import Post, State, Step, first_state, moved
from fewstep.samplers.table.tableau import Tableau

Tensor = torch.Tensor
Generators = torch.Generator | Sequence[torch.Generator]


@dataclass(frozen=True)
class Info:
    """What a run did.

    nfe: network evaluations a sample (of drivers that differ by sample: the most, and `each` has them all). accepted,
    rejected: steps. status: "done", or the limit that ended it. seconds: wall clock. calls: network calls one after
    another, fewer than nfe where many times are evaluated at once. tableau: what was played, None for drivers.
    """

    nfe: int
    accepted: int
    rejected: int
    status: str
    seconds: float
    tableau: Tableau | None
    calls: int
    each: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Progress:
    """What callback and hook see after a step: .index, .t (time of the new state x), .x, .x0 (lazily), .nfe so far."""

    index: int
    t: float
    x: Tensor
    nfe: int
    predicted: Callable[[], Tensor]

    @property
    def x0(self) -> Tensor:
        """The clean sample that the network predicted in this step."""
        return self.predicted()


def sample(
    denoiser: Denoiser,
    x_T: Tensor,
    solver: str | Tableau | Artefact = "dpmpp_2m",
    nfe: int | None = None,
    grid: Any = None,
    *,
    guidance: float | None = None,
    t_start: float | None = None,
    t_end: float | None = None,
    generator: Generators | None = None,
    noise_seeds: Sequence[int] | None = None,
    noise: str = "independent",
    mu: Tensor | None = None,
    callback: Callable[[Progress], Any] | None = None,
    hook: Callable[[Progress], Tensor | Post | None] | None = None,
    progress: bool = False,
    return_info: bool = False,
    check: str = "end",
    post: Post | None = None,
    **solver_options: Any,
) -> Any:
    """Draw samples with exactly `nfe` network evaluations (10 by default), or as many as an adaptive driver needs.

    Args:
        denoiser: Denoiser. x_T: state at t_start, (B, *shape), floating; float64 keeps float64 algebra, half precision is
            accumulated in float32 and returned in x_T's dtype.
        solver: SOLVERS name, alias, or a Tableau (then nfe, grid, t_start, t_end and options must be absent), or a learned
            Artefact, which has a table for each nfe (it may be left away where there is one) and each guidance.
        nfe: network evaluations; for adaptive drivers, the most they may spend. grid: GRIDS name, decreasing times, or
            None for the schedule's default. guidance: scale the denoiser was made with, for artefacts learned for several.
        t_start, t_end: ends in the schedule's time; default t_max and the schedule's end (sigma = 0 where it is reached).
        generator: torch.Generator, or one a sample, for stochastic solvers; noise_seeds: one int a sample instead, which
            makes a sample's noise the same alone and in any batch.
        noise: "independent" increments, or "brownian": those of one path a sample, so that the same seed gives the same
            image as nfe grows. mu: mean that the process reverts to, for NoiseSchedule.mean_reverting.
        callback: called after every row with .index .t .x .x0 .nfe. hook: the same, may return a new x, or (tables only) a
            function (B, *shape) -> (B, *shape) for all that the solver carries: the state and outputs of the past.
        progress: show a bar. return_info: return (x0, Info). post: applied to every predicted x0 (e.g. clipping).
        check: "end" reads the result once and raises if it is not finite; "each" does so after every row and names it
            (a device read a row); "none" never reads.

    Returns:
        The sample, (B, *shape) of x_T's dtype; with return_info also an Info. A driver that met a limit warns and returns
        the state it had.

    Raises:
        ValueError: any wrong argument, before the first network call; a network output that is not finite.
    """
    validate(denoiser, x_T, check, callback=callback, hook=hook, post=post)
    validate_noise(x_T, generator, noise_seeds)
    if isinstance(solver, Artefact):
        solver, nfe = learned_table(denoiser, solver, x_T, nfe, guidance), None
    elif guidance is not None:
        raise ValueError("`guidance` chooses a table of a learned artefact; other solvers need a guided denoiser only")
    mu = mean_for(denoiser.schedule, x_T, mu)
    began = time.perf_counter()
    drawn = source(noise, noise_seeds, generator, x_T.shape[0], denoiser.schedule.jump_scale, denoiser.field)
    wide = torch.float64 if x_T.dtype == torch.float64 else torch.float32
    spec = {"nfe": nfe, "grid": grid, "t_start": t_start, "t_end": t_end}
    look = _Look(callback, hook)
    if isinstance(solver, str) and SOLVERS[resolve(solver)[0]].kind == "driver":
        if mu is not None:
            raise ValueError(f"{solver!r} does not run on mean-reverting schedules; take a solver that is a table")
        run = {"noise": drawn, "seeds": noise_seeds, "generator": generator, "post": post, "progress": progress}
        info, x = _drive(denoiser, x_T.to(wide), solver, x_T.dtype, look, spec, run, solver_options)
    else:
        tableau = table_for(denoiser, solver, spec, solver_options)
        constant = None if mu is None else mu.to(wide)
        steps = lower(tableau, denoiser.prediction, x_T.device, wide, post, constant)
        state = first_state(tableau, x_T.to(wide))
        x = _play(denoiser, tableau, _bar(steps, progress), state, x_T.dtype, drawn, look, check)
        info = Info(tableau.nfe, tableau.nfe, 0, "done", 0.0, tableau, tableau.nfe)
    if check == "end" or (check == "each" and info.tableau is None):
        require_finite(x, 'the result; check="each" names the step where it starts')
    result = x.to(x_T.dtype)
    return (result, replace(info, seconds=time.perf_counter() - began)) if return_info else result


def table_for(denoiser: Denoiser, solver: str | Tableau, spec: dict[str, Any], options: dict[str, Any]) -> Tableau:
    """The table asked for, on the denoiser's schedule."""
    if not isinstance(solver, Tableau):
        nfe = 10 if spec["nfe"] is None and spec["grid"] is None else spec["nfe"]
        return build(solver, denoiser.schedule, **{**spec, "nfe": nfe}, **options)
    if any(given is not None for given in spec.values()) or options:
        raise ValueError("a Tableau is already compiled: pass nfe, grid, t_start, t_end and options to build() instead")
    validate_place(solver, denoiser)
    return solver


def learned_table(
    denoiser: Denoiser, artefact: Artefact, x: Tensor, nfe: int | None, guidance: float | None
) -> Tableau:
    """The table of an artefact for this model."""
    model: dict[str, Any] = {"schedule": denoiser.schedule, "prediction": denoiser.prediction}
    return artefact.table(nfe, guidance, shape=x.shape[1:], **model)


def _play(
    denoiser: Denoiser,
    tableau: Tableau,
    steps: Iterable[Step],
    state: State,
    dtype: torch.dtype,
    noise: Noise,
    look: _Look,
    check: str,
) -> Tensor:
    """The loop that executes every table; dtype is what the network takes."""
    for step in steps:
        output = denoiser.call(state.input.to(dtype), step.model_time, step)
        after = step(state, output, [noise(draw, state.input) for draw in step.draws])
        if look:
            x0, t = partial(step.x0, state.input, output), float(tableau.times[step.index + 1])
            after = moved(after, look.wanted(step.index, t, after.input, step.index + 1, x0))
        if check == "each":
            shown = tableau.model_times[step.index]
            require_finite(after.input, f"row {step.index} (t = {step.t:.6g}, model time {shown:.6g})")
        state = after
    return state.input


def _drive(
    denoiser: Denoiser,
    x: Tensor,
    solver: str,
    dtype: torch.dtype,
    look: _Look,
    spec: dict[str, Any],
    run: dict[str, Any],
    options: dict[str, Any],
) -> tuple[Info, Tensor]:
    """A driver's run and its samples; a warning where it met a limit."""
    from fewstep.samplers.drivers.driven_run import Task

    schedule, entry = denoiser.schedule, SOLVERS[resolve(solver)[0]]
    nfe, ends = spec["nfe"], (spec["t_start"], spec["t_end"])
    if nfe is not None and (isinstance(nfe, bool) or not isinstance(nfe, Integral) or nfe < 1):
        raise ValueError(f"`nfe` must be a whole number of network evaluations, at least 1; got {nfe!r}")
    first, last = (
        float(own if t is None else t) for t, own in zip(ends, (schedule.t_max, schedule.t_end), strict=True)
    )
    if not 0 <= last < first:
        raise ValueError(f"sampling goes down in time: expected 0 <= t_end < t_start; got {first!r} and {last!r}")
    seeds = None if run["seeds"] is None else tuple(map(int, run["seeds"]))
    chosen = checked_options(entry, options)
    nfe = None if nfe is None else int(nfe)
    task = Task(denoiser, x, first, last, nfe, spec["grid"], dtype=dtype, tell=look.tell, **{**run, "seeds": seeds})
    out = entry.fn(task, **chosen)
    if out.status != "done":
        warnings.warn(
            f"{entry.name} stopped before its end: {out.status} after {out.nfe} network evaluations. Allow more, or ask for "
            "less precision",
            stacklevel=3,
        )
    return Info(out.nfe, out.accepted, out.rejected, out.status, 0.0, None, out.calls, out.each), out.x


@dataclass(frozen=True)
class _Look:
    """callback and hook of a run."""

    callback: Callable[[Progress], Any] | None
    hook: Callable[[Progress], Tensor | Post | None] | None

    def __bool__(self) -> bool:
        return bool(self.callback or self.hook)

    def wanted(self, index: int, t: float, x: Tensor, nfe: int, x0: Callable[[], Tensor]) -> Tensor | Post:
        """The state after callback and hook have seen it, or the function that the hook wants for all of it."""
        if not self:
            return x
        seen = Progress(index, t, x, nfe, x0)
        if self.callback:
            self.callback(seen)
        wanted = self.hook(seen) if self.hook else None
        if isinstance(wanted, Tensor) and wanted.shape != x.shape:
            raise ValueError(f"hook returned shape {tuple(wanted.shape)}; expected {tuple(x.shape)}")
        return x if wanted is None else wanted

    def tell(self, index: int, t: float, x: Tensor, nfe: int, x0: Callable[[], Tensor]) -> Tensor:
        """The state after callback and hook have seen it."""
        wanted = self.wanted(index, t, x, nfe, x0)
        if not isinstance(wanted, Tensor):
            raise ValueError("hook returned a function of all that a table carries; drivers take a new x only")
        return wanted


def _bar(steps: Sequence[Step], show: bool) -> Any:
    if not show:
        return steps
    from tqdm.auto import tqdm

    return tqdm(steps, desc="sampling", unit="eval")
