"""Guidance between steps: hooks of `sample` that replace what is measured in the noisy state, also in diffusers pipelines.

A hook sees the new state and its time, and returns another state: the network's next input. The anchor moves with it, the
outputs of the past stay what they are, the network's answers at earlier inputs. A multistep solver keeps its order where the
inputs lie on a smooth path, and gains nothing from its past where each is thrown off anew.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fewstep.samplers.guidance.data_consistency import inverse
from fewstep.samplers.guidance.guidance_entry import method
from fewstep.samplers.guidance.measurement import Measurement
from fewstep.samplers.noise.brownian import unit_normal
from fewstep.samplers.noise.draws import Draw, check_seeds, onto
from fewstep.samplers.run.denoiser import Denoiser
from fewstep.samplers.run.per_sample import wide
from fewstep.samplers.sampling.watching import Progress
from fewstep.samplers.schedule.base import NoiseSchedule
from fewstep.samplers.scheduler.scheduler import Scheduler

Hook = Callable[[Progress], Any]
REPLACED = 2**34  # counters of replacement, beyond those of a seed's noise, jumps and resampling


@method("replacement", kind="restoring", operator="pinv")
def replacement(
    measurement: Tensor,
    operator: Any,
    schedule: NoiseSchedule | Denoiser,
    noise_seeds: Sequence[int],
    *,
    fresh: bool = False,
) -> Callable[[Progress], Tensor]:
    """What is measured, noised to the level of the new state, in place of what was drawn: inpainting, colourisation.

        x <- x + A^+ (alpha y + sigma A z - A x)

        hook = guidance.replacement(y, guidance.mask(known), denoiser, noise_seeds=seeds)
        x0 = sample(denoiser, x_T, "euler_ancestral", nfe=50, noise_seeds=seeds, hook=hook)

    Args:
        measurement: (B, *m) or (1, *m), exact. operator: with a pseudo-inverse, such as mask, colour, downsample.
        schedule: of the denoiser, or the denoiser, whose noise may be a field. noise_seeds: one int a sample; z is a
            function of it, other than the solver's noise. fresh: new z at every step, as published, for stochastic
            solvers; False: one z for the whole run, for deterministic ones.
    Cost: none of the network. At sigma = 0, A x = y. With one z what is known moves on a smooth path, and solvers keep their
    order. What is unknown follows only in part: beside a known pixel of correlation 0.9 its mean goes 0.5 of the way to the
    posterior's on ODE solvers, 0.7 on ancestral ones, as with `impute`, the form for predicted x0; the methods of
    `posterior` go farther. Raises ValueError: see Measurement; another number of seeds than samples.

    Reference: Score-Based Generative Modeling through Stochastic Differential Equations; Song, Sohl-Dickstein, Kingma, Kumar,
    Ermon, Poole; 2021; arXiv:2011.13456, Appendix I.
    """
    known = Measurement(measurement, operator)
    pinv, seeds = inverse(known), tuple(int(seed) for seed in noise_seeds)
    levels = schedule.schedule if isinstance(schedule, Denoiser) else schedule
    if not isinstance(levels, NoiseSchedule):
        raise ValueError(
            f"`schedule` must be a NoiseSchedule, or a Denoiser that has one; got {type(schedule).__name__}"
        )

    def white(draw: Draw, like: Tensor) -> Tensor:
        check_seeds(seeds, like)
        return onto(like, [unit_normal(seed, (REPLACED, 0, draw.row), like.shape[1:]) for seed in seeds])

    field = schedule.field if isinstance(schedule, Denoiser) else None
    noise = white if field is None else field.coloured(white)

    def hook(progress: Progress) -> Tensor:
        x = wide(progress.x)
        alpha, sigma = float(levels.alpha(progress.t)), float(levels.sigma(progress.t))
        z = noise(Draw(progress.index if fresh else 0, 0, 0.0, 0.0), x)
        missed = alpha * known.y.to(x) + sigma * known.operator(z) - known.operator(x)
        return (x + pinv(missed)).to(progress.x)

    return hook


def callback(hook: Hook) -> Callable[[Any, int, Any, dict[str, Any]], dict[str, Any]]:
    """A hook of `sample` as the `callback_on_step_end` of a diffusers pipeline.

        pipe.scheduler = Scheduler.from_config(pipe.scheduler.config, solver="euler_ancestral")
        hook = guidance.replacement(y, guidance.mask(known), NoiseSchedule.from_config(pipe.scheduler.config), seeds)
        pipe(prompt, callback_on_step_end=guidance.callback(hook))

    The hook sees .index, .t, .x and .nfe as in `sample`; with our Scheduler the run is that of `sample` with this hook, its
    anchor moved as there. Stock schedulers are served where their state is x_t = alpha x0 + sigma eps or that over alpha
    (the Euler family); finding the level reads one value a step. Latents as the pipeline steps them.

    Raises: ValueError where a hook asks for .x0, which pipelines do not show: guide the denoiser,
    Denoiser.from_pipeline(pipe, ...), instead; where it returns a function; where the scheduler tells no noise level.
    """
    if not callable(hook):
        raise ValueError(f"`hook` must be a function of what `sample` shows after a step; got {type(hook).__name__}")

    def on_step_end(pipe: Any, index: int, timestep: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        if "latents" not in kwargs:
            raise ValueError('the hook needs the latents: callback_on_step_end_tensor_inputs=["latents"]')
        x = kwargs["latents"]
        t, scale = _place(pipe.scheduler, index)
        wanted = hook(Progress(index, t, x if scale == 1 else x * scale, index + 1, _unknown))
        if wanted is None:
            return {}
        if not isinstance(wanted, torch.Tensor) or wanted.shape != x.shape:
            got = tuple(wanted.shape) if isinstance(wanted, torch.Tensor) else "a function"
            raise ValueError(f"in a pipeline a hook must return latents of shape {tuple(x.shape)}; got {got}")
        return {"latents": (wanted if scale == 1 else wanted / scale).to(x)}

    return on_step_end


def _unknown() -> Tensor:
    raise ValueError(
        "a pipeline's callback does not see predicted x0: guide the denoiser, Denoiser.from_pipeline(pipe, ...), instead"
    )


def _place(scheduler: Any, index: int) -> tuple[float, float]:
    """(time of the state after step `index`, factor from the pipeline's latents to alpha x0 + sigma eps)."""
    if isinstance(scheduler, Scheduler):
        table, at = scheduler._table, scheduler.step_index
        if table is None or at is None:
            raise ValueError("the pipeline's scheduler has taken no step yet: use this as callback_on_step_end")
        return float(table.tableau.times[at]), 1.0
    schedule = NoiseSchedule.from_config(scheduler)
    at = getattr(scheduler, "step_index", None)
    sigmas = getattr(scheduler, "sigmas", None)
    if at is not None and sigmas is not None:
        return _of_sigma(scheduler, schedule, float(sigmas[at]))
    times = getattr(scheduler, "timesteps", None)
    if times is None or schedule.kind != "vp":
        raise ValueError(f"{type(scheduler).__name__} tells no noise level: use fewstep's Scheduler in its place")
    if index + 1 < len(times):
        return float(schedule.time_of_model(float(times[index + 1]))), 1.0
    return (0.0 if scheduler.config.get("set_alpha_to_one", True) else float(schedule.time_of_model(0.0))), 1.0


def _of_sigma(scheduler: Any, schedule: NoiseSchedule, level: float) -> tuple[float, float]:
    """Time and factor where a scheduler's `sigmas` say `level`: sigma of flow and VE models, sigma / alpha of others."""
    if schedule.kind != "vp":
        return level, 1.0
    t = 0.0 if level == 0 else float(schedule.t_of_lam(-torch.tensor(level, dtype=torch.float64).log().item()))
    over = float(scheduler.init_noise_sigma) > 1.0  # such states are x0 + (sigma / alpha) eps
    return t, float(schedule.alpha(t)) if over else 1.0
