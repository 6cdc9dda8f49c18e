"""A run of a driver, a solver that chooses its steps as it goes."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from fewstep.checks import MOST_EVALUATIONS, evaluations
from fewstep.samplers.building.names import checked_options
from fewstep.samplers.building.solver_entry import Entry
from fewstep.samplers.drivers.driven_run import Task
from fewstep.samplers.run.denoiser import Denoiser
from fewstep.samplers.sampling.watching import Info, Look


def drive(
    denoiser: Denoiser,
    x: Tensor,
    entry: Entry,
    look: Look,
    *,
    dtype: torch.dtype,
    spec: dict[str, Any],
    run: dict[str, Any],
    options: dict[str, Any],
) -> tuple[Info, Tensor]:
    """A driver's run and its samples; a warning where it met a limit.

    dtype: what the network takes. spec: nfe, grid, t_start, t_end as given. run: noise, seeds, generator, post, progress.
    """
    schedule = denoiser.schedule
    if entry.stochastic and schedule.jump_scale is not None:
        raise ValueError(
            f"{entry.name} draws Gaussian noise and follows scores, and {type(schedule).__name__} has neither: take an ODE "
            'solver, or a table whose noises are jumps of its law, such as "restart", "ddim" with eta or "euler_ancestral"'
        )
    if entry.stochastic and schedule.kind == "two-sided":
        raise ValueError(
            f"{entry.name!r} takes the start of {type(schedule).__name__} for noise, which it is not: take an ODE solver, or "
            '"flow_sde", whose noise comes with the score of the law between'
        )
    nfe, ends = spec["nfe"], (spec["t_start"], spec["t_end"])
    nfe = None if nfe is None else evaluations("nfe", nfe, MOST_EVALUATIONS)
    first, last = (
        float(own if t is None else t) for t, own in zip(ends, (schedule.t_max, schedule.t_end), strict=True)
    )
    if not 0 <= last < first:
        raise ValueError(f"sampling goes down in time: expected 0 <= t_end < t_start; got {first!r} and {last!r}")
    seeds = None if run["seeds"] is None else tuple(map(int, run["seeds"]))
    chosen = checked_options(entry, options)
    if len(x) == 0:
        return Info(0, 0, 0, "done", 0.0, None, 0, ()), x
    task = Task(denoiser, x, first, last, nfe, spec["grid"], dtype=dtype, tell=look.tell, **{**run, "seeds": seeds})
    out = entry.fn(task, **chosen)
    if out.status != "done":
        why = out.why or "Allow more, or ask for less precision"
        warnings.warn(
            f"{entry.name} stopped before its end: {out.status} after {out.nfe} network evaluations. {why}",
            stacklevel=3,
        )
    return Info(out.nfe, out.accepted, out.rejected, out.status, 0.0, None, out.calls, out.each), out.x
