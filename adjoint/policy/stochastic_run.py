"""`adjoint.rollout`: a stochastic run that knows how likely it was, for policy gradients by any table with noise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fewstep.adjoint.policy.values_by_step import by_step
from fewstep.checks import unknown
from fewstep.samplers.artefact.artefact import Artefact
from fewstep.samplers.artefact.choosing import Named, chosen
from fewstep.samplers.building.compiling import no_table
from fewstep.samplers.noise.sources import check_kind, source
from fewstep.samplers.rollouts.known_states import called
from fewstep.samplers.rollouts.noisy_rows import NoisyRows
from fewstep.samplers.rollouts.recorded_run import Recorder, Trajectory
from fewstep.samplers.run.checks import mean_for, require_finite, validate, validate_noise
from fewstep.samplers.run.denoiser import Denoiser
from fewstep.samplers.run.lowering import lower
from fewstep.samplers.run.step import Post, first_state
from fewstep.samplers.sampling.asked_table import learned_table, table_for
from fewstep.samplers.table.tableau import Tableau

SILENT = ("played", "given")


@torch.no_grad()
def rollout(
    denoiser: Denoiser,
    x_T: Tensor,
    solver: Any = "ddpm",
    nfe: int | None = None,
    grid: Any = None,
    *,
    noise_seeds: Sequence[int] | None = None,
    generator: Any = None,
    noise: str = "independent",
    silent: str = "played",
    guidance: float | None = None,
    t_start: float | None = None,
    t_end: float | None = None,
    mu: Tensor | None = None,
    post: Post | None = None,
    **solver_options: Any,
) -> Trajectory:
    """The run that `fewstep.sample` makes, as a Trajectory: states, noises, means, deviations, log-probabilities. No graph.

        t = adjoint.rollout(denoiser, x_T, "flow_sde", 10, noise_seeds=seeds, w="grpo", scale=0.49)
        (advantages * t.ratio(denoiser).sum(1)).mean().backward()

    Args:
        denoiser, x_T, solver, nfe, grid, ...: as in `sample`; any table with noise, multistep and multistage ones too. An
            option that is a number (`tau`, `eta`, `scale`) may be a list, one a step: noise in a window of the run, as in
            MixGRPO, is tau=[0, 0, 1, 1, 0, 0].
        silent: what a replay makes of rows without noise before others. "played": they are functions of the weights, and
            gradients go through them; exact. "given": their states are taken as they were: fewer network calls, as public
            code has it, and what gradients say of these rows is left out.

    After the last row with noise the sample is a function of the state there, through which no log-probability sees the
    weights: str(t) says so. With `t_end` above 0, or a schedule that ends there, every row has noise.

    Raises:
        ValueError: wrong arguments, and a table without noise, before the first network call; dropout that is on.
    """
    if silent not in SILENT:
        raise unknown("value of `silent`", silent, SILENT)
    validate(denoiser, x_T, "end", post=post)
    validate_noise(x_T, generator, noise_seeds)
    check_kind(noise)
    for name in ("hook", "callback"):
        if name in solver_options:
            raise ValueError(f"`{name}` changes states between rows, whose density is then another: leave it away")
    if denoiser.field is not None:
        raise ValueError(
            "this denoiser's noise is a Gaussian field, whose density has no value at most states: rollout needs white noise"
        )
    table = _table(denoiser, x_T, solver, guidance, solver_options, nfe=nfe, grid=grid, t_start=t_start, t_end=t_end)
    noisy, mu = NoisyRows.of(table), mean_for(denoiser.schedule, x_T, mu)
    x = x_T.to(torch.float64 if x_T.dtype == torch.float64 else torch.float32)
    mu = None if mu is None else mu.to(x.dtype)
    steps = lower(table, denoiser.prediction, x.device, x.dtype, post, mu)
    drawn = source(noise, noise_seeds, generator, len(x), denoiser.schedule.jump_scale)
    state = first_state(table, x)
    recorder = Recorder(table, noisy, state)
    for step in steps:
        output = called(denoiser, state.input.to(x_T.dtype), step)
        state = recorder.advance(step, state, output, [drawn(draw, state.input) for draw in step.draws])
    require_finite(state.input, "the result")
    return recorder.finished(x_T.dtype, post, mu, silent)


def _table(
    denoiser: Denoiser, x_T: Tensor, solver: Any, guidance: float | None, options: dict[str, Any], **ends: Any
) -> Tableau:
    """The table asked for, options by step among them."""
    plays = chosen(solver)
    if isinstance(plays, Artefact):
        return learned_table(denoiser, plays, x_T, ends["nfe"], guidance)
    if guidance is not None:
        raise ValueError("`guidance` chooses a table of a learned artefact; other solvers need a guided denoiser only")
    if isinstance(plays, Named):
        if plays.entry.kind == "driver":
            raise no_table(plays.entry.name)
        return by_step(lambda own: table_for(denoiser, plays, ends, own), plays.entry, options)
    return table_for(denoiser, plays, ends, options)
