"""`sample`: the one loop that executes every table, and the door to the drivers, which choose their own steps."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fewstep.samplers.artefact.artefact import Artefact
from fewstep.samplers.artefact.choosing import Named, chosen
from fewstep.samplers.noise.draws import Noise
from fewstep.samplers.noise.sources import source
from fewstep.samplers.run.checks import mean_for, require_finite, validate, validate_noise
from fewstep.samplers.run.denoiser import Denoiser
from fewstep.samplers.run.lowering import lower
from fewstep.samplers.run.ownership import require_fresh, shares
from fewstep.samplers.run.step import Post, State, Step, first_state, moved
from fewstep.samplers.sampling.asked_table import learned_table, table_for
from fewstep.samplers.sampling.asking import Asked, sizes_of
from fewstep.samplers.sampling.driving import drive
from fewstep.samplers.sampling.watching import Info, Look, Progress
from fewstep.samplers.table.tableau import Tableau

Generators = torch.Generator | Sequence[torch.Generator]


def sample(
    denoiser: Denoiser,
    x_T: Tensor,
    solver: str | os.PathLike[str] | Tableau | Artefact | Callable[..., Any] = "dpmpp_2m",
    nfe: int | None = None,
    grid: Any = None,
    *,
    guidance: float | None = None,
    policy: str | None = None,
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
    parallel: bool = False,
    **solver_options: Any,
) -> Any:
    """Draw samples with exactly `nfe` network evaluations (10 by default), or as many as an adaptive driver needs.

    Args:
        denoiser: Denoiser. x_T: state at t_start, (B, *shape), floating; float64 keeps float64 algebra, half precision is
            accumulated in float32 and returned in x_T's dtype.
        solver: SOLVERS name, alias, or a Tableau (then nfe, grid, t_start, t_end and options must be absent), or a learned
            Artefact, which has a table for each nfe (it may be left away where there is one) and each guidance, or the file
            NAME.json of either; or a function `f(path, *, options) -> Solution`.
        nfe: network evaluations; for adaptive drivers, the most they may spend. grid: GRIDS name, decreasing times, a
            function `f(schedule, n, t_start, t_end)`, or None for the schedule's default. guidance: scale the denoiser was
            made with, for artefacts learned for several. policy: for an artefact played elsewhere than it was learned, as far
            as is known: "warn" (default), "refuse", or "nearest", the nearest guidance's table.
        t_start, t_end: ends in the schedule's time; default t_max and the schedule's end (sigma = 0 where it is reached).
        generator: torch.Generator, or one a sample, for stochastic solvers; noise_seeds: one int a sample instead, which
            makes a sample's noise the same alone and in any batch.
        noise: "independent" increments, or "brownian": those of one path a sample, so that the same seed gives the same
            image as nfe grows. mu: mean that the process reverts to, for
            NoiseSchedule.mean_reverting, or image that a bridge starts from (x_T itself where it is left away).
        callback: called after every row with .index .t .x .x0 .nfe. hook: the same, may return a new x, or (tables only) a
            function (B, *shape) -> (B, *shape) for all that the solver carries: the state and outputs of the past.
        progress: show a bar. return_info: return (x0, Info). post: applied to every predicted x0 (e.g. clipping).
        parallel: rows that do not need each other's outputs (`epd`) are asked for in one call of several times the batch,
            by a denoiser with `vector_time`; the same numbers in less time where the machine has room. Info.calls counts calls.
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
    plays = chosen(solver)
    if isinstance(plays, Artefact):
        plays, nfe = learned_table(denoiser, plays, x_T, nfe, guidance, policy), None
    elif guidance is not None or policy is not None:
        raise ValueError("`guidance` chooses a table of a learned artefact; other solvers need a guided denoiser only")
    pinned = mu is None and denoiser.schedule.kind == "bridge"
    mu = mean_for(denoiser.schedule, x_T, mu)
    began = time.perf_counter()
    drawn = source(noise, noise_seeds, generator, x_T.shape[0], denoiser.schedule.jump_scale, denoiser.field)
    wide = torch.float64 if x_T.dtype == torch.float64 else torch.float32
    spec = {"nfe": nfe, "grid": grid, "t_start": t_start, "t_end": t_end}
    look = Look(callback, hook)
    if isinstance(plays, Named) and plays.entry.kind == "driver":
        if mu is not None:
            raise ValueError(
                f"{plays.entry.name!r} does not run on {denoiser.schedule.kind} schedules; take a solver that is a table"
            )
        run = {"noise": drawn, "seeds": noise_seeds, "generator": generator, "post": post, "progress": progress}
        info, x = drive(
            denoiser, x_T.to(wide), plays.entry, look, dtype=x_T.dtype, spec=spec, run=run, options=solver_options
        )
    else:
        tableau = table_for(denoiser, plays, spec, solver_options)
        constant = None if mu is None else mu.to(wide)
        if pinned and tableau.nodes.S[0]:
            raise ValueError(
                f"a bridge that starts at t = {tableau.times[0]:.6g}, after its pinned end, needs the image it came from: mu="
            )
        steps = lower(tableau, denoiser.prediction, x_T.device, wide, post, constant, cached=True)
        begun = x_T.to(wide)
        if solver_options.get("afs"):
            from fewstep.samplers.building.analytic_start import free_step

            begun = begun * free_step(tableau, t_start)
        sizes = sizes_of(denoiser, tableau, look) if parallel else (1,) * tableau.nfe
        state = first_state(tableau, begun)
        with _blocks(denoiser, tableau) as blocks:
            asked = Asked(denoiser, x_T.dtype, sizes, blocks)
            x = _play(asked, tableau, _bar(steps, progress), state, noise=drawn, look=look, check=check)
        info = Info(tableau.nfe, tableau.nfe, 0, "done", 0.0, tableau, len(sizes))
    if check == "end" or (check == "each" and info.tableau is None):
        require_finite(x, 'the result; check="each" names the step where it starts')
    result = x.to(x_T.dtype)
    return (result, replace(info, seconds=time.perf_counter() - began)) if return_info else result


def _blocks(denoiser: Denoiser, tableau: Tableau) -> AbstractContextManager[Any]:
    """The run of the network's blocks, where the table leaves some out."""
    if tableau.cache is None:
        return nullcontext()
    from fewstep.samplers.blocks.block_run import block_run

    return block_run(denoiser, tableau.cache)


def _play(
    asked: Asked,
    tableau: Tableau,
    steps: Iterable[Step],
    state: State,
    *,
    noise: Noise,
    look: Look,
    check: str,
) -> Tensor:
    """The loop that executes every table. The result is nobody else's tensor."""
    first = output = state.input
    for step in steps:
        output = asked.output(step, state)
        require_fresh(output, state.history)
        after = step(state, output, [noise(draw, state.input) for draw in step.draws])
        if look:
            x0, t = partial(step.x0, state.input, output), float(tableau.times[step.index + 1])
            after = moved(after, look.wanted(step.index, t, after.input, step.index + 1, x0))
        if check == "each":
            shown = tableau.model_times[step.index]
            require_finite(after.input, f"row {step.index} (t = {step.t:.6g}, model time {shown:.6g})")
        state = after
    x = state.input
    return x.clone() if shares(x, output) or shares(x, first) else x


def _bar(steps: Sequence[Step], show: bool) -> Any:
    if not show:
        return steps
    from tqdm.auto import tqdm

    return tqdm(steps, desc="sampling", unit="eval")
