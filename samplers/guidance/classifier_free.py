"""Classifier-free guidance and its kin: two denoisers, called one after the other, and their difference.

D' = D_u + w (D_c - D_u)

cfg       w where sigma / alpha is in an interval, else 1; the result brought back to the deviation of D_c
apg       the difference with momentum, clipped, and without its part along D_c
cfg_pp    w = scale alpha' / B in a row that goes to alpha' and weighs x0 by B: the noise put back is that of D_u
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf, isfinite
from numbers import Real
from typing import Any

from torch import Tensor

from fewstep.checks import positive, unknown, within
from fewstep.samplers.guidance.cfg_pp_steps import STEPS, PublishedSteps
from fewstep.samplers.guidance.composed_denoiser import At, Composed
from fewstep.samplers.guidance.guidance_entry import method
from fewstep.samplers.guidance.row_memory import Memory
from fewstep.samplers.run.denoiser import Denoiser
from fewstep.samplers.run.per_sample import dot
from fewstep.samplers.run.per_sample import norm as length

Scale = float | Tensor | Callable[[Any], Any]


@method("cfg", kind="scale")
def cfg(
    conditional: Denoiser,
    unconditional: Denoiser,
    scale: Scale,
    *,
    rescale: float = 0.0,
    interval: tuple[float, float] | None = None,
) -> Denoiser:
    """Both outputs extrapolated, u + scale (c - u), from two calls one after the other instead of one of twice the batch.

        guided = guidance.cfg(Denoiser.from_pipeline(pipe, prompt=..., guidance_scale=1.0),
                              Denoiser.from_pipeline(pipe, prompt="", guidance_scale=1.0), 7.5)

    Autoguidance is the same with a worse model of the same condition in the place of `unconditional`: smaller, or trained
    for less long.

    Args:
        conditional, unconditional: of one schedule and prediction type. scale: a number, a tensor (0-dim, or one a sample
            (B, 1, ...)) that may require a gradient, or a function of sigma / alpha (a number, infinite at pure noise, or
            (B, 1, ...)). Where it is the number 1 only the conditional network is called, where 0 only the other.
        rescale: phi, from 0 to 1: the output is multiplied by phi std(c) / std(output) + 1 - phi, deviations of each sample
            in the space that the model predicts; 0.7 for models of zero terminal SNR.
        interval: (lo, hi) of sigma / alpha: outside of (lo, hi] the scale is 1, which saves a call. At its ends the score
            jumps, and the history of a multistep solver spans it.

    Cost: two network calls, which `nfe` counts as one. Where gradients are on, each call is made again on the way back, so
    that at most one of the two holds its activations: half the memory, half as many calls more.

    Raises: ValueError for denoisers of different schedules or predictions.

    References: Classifier-Free Diffusion Guidance; Ho, Salimans; 2022; arXiv:2207.12598. Common Diffusion Noise Schedules and
    Sample Steps are Flawed; Lin, Liu, Li, Yang; 2023; arXiv:2305.08891 (rescale). Applying Guidance in a Limited Interval
    Improves Sample and Distribution Quality in Diffusion Models; Kynkaanniemi, Aittala, Karras, Laine, Aila, Lehtinen; 2024;
    arXiv:2404.07724. Guiding a Diffusion Model with a Bad Version of Itself; Karras, Aittala, Kynkaanniemi, Lehtinen, Aila,
    Laine; 2024; arXiv:2406.02507.
    """
    _check_pair(conditional, unconditional)
    strength = _strength(scale, interval)
    phi = within("rescale", rescale, 0, 1, hint="It is a share")

    def rule(at: At) -> Tensor:
        w = strength(at)
        if not isinstance(w, Tensor) and (w == 1 or (w == 0 and not phi)):
            return at.ask(conditional if w == 1 else unconditional)
        u, c = at.ask(unconditional), at.ask(conditional)
        output = u + w * (c - u)
        return output * (phi * _std(c) / _std(output).clamp(min=1e-12) + (1 - phi)) if phi else output

    return Composed([conditional, unconditional], rule)


@method("apg", kind="scale")
def apg(
    conditional: Denoiser,
    unconditional: Denoiser,
    scale: Scale,
    *,
    momentum: float = -0.5,
    norm: float | None = 15.0,
    eta: float = 0.0,
) -> Denoiser:
    """Adaptive projected guidance: of the difference D_c - D_u, the part across D_c, and eta of that along D_c.

        D' = D_c + (scale - 1) (orth + eta par)

    The part along D_c saturates colours. eta 1, no norm and momentum 0 are `cfg`.

    Args:
        momentum: beta of M <- D_c - D_u + beta M, once a step, which takes the place of the difference. norm: the most that
            the difference of a sample may measure, in units of its latents; None: no bound. eta: share of the parallel part.
        Others as in `cfg`.

    What a row remembers belongs to its run: any number of runs, threads and batch sizes use one object, a row that is made
    again finds what it found before, stages of a step share one M, and M of all rows is kept while the run lasts (a latent a
    row). Calls that come from no row of a run (drivers, `method="reversible"`) have no momentum. Gradients take M for a
    constant.

    Cost and errors as `cfg`. Reference: Eliminating Oversaturation and Artifacts of High Guidance Scales in Diffusion Models;
    Sadat, Hilliges, Weber; 2024; arXiv:2410.02416.
    """
    _check_pair(conditional, unconditional)
    strength, bound = _strength(scale), inf if norm is None else positive("norm", norm)
    beta, share = _number("momentum", momentum), _number("eta", eta)
    if not -1 < beta < 1:
        raise ValueError(f"`momentum` must be between -1 and 1, for its sum to stay finite; got {momentum!r}")
    memory = Memory()

    def rule(at: At) -> Tensor:
        w = strength(at)
        if not isinstance(w, Tensor) and w == 1:
            return at.ask(conditional)
        u, c = at.ask(unconditional), at.ask(conditional)
        x0, delta = at.p * at.x.to(c) + at.q * c, at.q * (c - u)
        if beta:
            delta = memory.gathered(at.step, delta, beta)
        if isfinite(bound):
            delta = delta * (bound / length(delta).clamp(min=bound))
        along = dot(delta, x0) / dot(x0, x0).clamp(min=1e-24) * x0
        return c + ((w - 1) / at.q) * (delta - (1 - share) * along)

    return Composed([conditional, unconditional], rule, asks_rows=bool(beta))


@method("cfg_pp", kind="scale")
def cfg_pp(
    conditional: Denoiser,
    unconditional: Denoiser,
    scale: float = 0.6,
    *,
    step: str | None = None,
    gamma: float = 2.0,
) -> Denoiser:
    """CFG++: x0 of the guided output, noise of the unconditional one, x' = alpha' D_w + sigma' eps_u with w = scale.

    Which is cfg with the weight scale alpha' / B in a row that goes to alpha' and adds B of x0: DDIM's step as published, and
    an extension of it for all other tables. scale: from 0 to 1; 0.6 is about as strong as cfg's 7.5 in 50 steps. In long
    steps alpha' / B is little above 1: ten or fewer want a scale near 1.

    step: the published steps of user interfaces that remember outputs, "dpmpp_2m", "res_multistep", "gradient_estimation" (of
    `gamma`), to be played with solver="euler" or "euler_ancestral", and "dpmpp_2s" with "dpmpp_2s_ancestral"; see
    `cfg_pp_steps`. What a row remembers belongs to its run, as in `apg`.

    Cost and errors as `cfg`; ValueError where no row of a table asks, or one that does not read its own output.

    Reference: CFG++: Manifold-constrained Classifier Free Guidance for Diffusion Models; Chung, Kim, Park, Nam, Ye; 2024;
    arXiv:2406.08070.
    """
    _check_pair(conditional, unconditional)
    share = positive("scale", scale, zero=True)
    if step is not None and step not in STEPS:
        raise unknown("step of cfg_pp", step, STEPS)
    memory = None if step is None else PublishedSteps(step, positive("gamma", gamma))

    def rule(at: At) -> Tensor:
        if memory is not None:
            u, c = at.ask(unconditional), at.ask(conditional)
            x0 = at.p * at.x.to(u) + at.q * u
            guided = x0 + (share * at.q) * (c - u)
            return (memory.shifted(at, x0, guided) - at.p * at.x.to(u)) / at.q
        try:
            w = share * at.gain
        except ValueError as error:
            what = "cfg_pp takes its weight from the row of a table that asks, and there is none that has one; take cfg"
            raise ValueError(what) from error
        u = at.ask(unconditional)
        return u + w * (at.ask(conditional) - u)

    return Composed([conditional, unconditional], rule, asks_rows=True)


def _check_pair(conditional: Any, unconditional: Any) -> None:
    for name, one in (("conditional", conditional), ("unconditional", unconditional)):
        if not isinstance(one, Denoiser):
            raise ValueError(f"`{name}` must be a Denoiser; got {type(one).__name__}")
    if conditional.schedule != unconditional.schedule or conditional.prediction != unconditional.prediction:
        raise ValueError(
            "both denoisers must have one schedule and prediction type; got "
            f"{conditional.schedule!r}, {conditional.prediction!r} and {unconditional.schedule!r}, {unconditional.prediction!r}"
        )


def _strength(scale: Any, interval: Any = None) -> Callable[[At], Any]:
    """The guidance weight of a call, a number where that is known on the host."""
    if not (callable(scale) or isinstance(scale, Tensor)):
        scale = _number("scale", scale)
    ends = None if interval is None else tuple(map(float, interval))
    if ends is not None and not (len(ends) == 2 and 0 <= ends[0] < ends[1]):
        raise ValueError(f"`interval` is (lo, hi] of sigma / alpha, 0 <= lo < hi; got {interval!r}")

    def strength(at: At) -> Any:
        if ends is None:
            return scale(at.rho) if callable(scale) else scale
        inside = (at.levels > ends[0]) & (at.levels <= ends[1])
        if not inside.any():
            return 1.0
        w = scale(at.rho) if callable(scale) else scale
        return w if inside.all() else 1.0 + (w - 1.0) * at.among(inside)

    return strength


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, Real) or not isfinite(value):
        raise ValueError(f"`{name}` must be a finite number; got {value!r}")
    return float(value)


def _std(x: Tensor) -> Tensor:
    """Deviation of every sample, (B, 1, ...)."""
    return x.std(tuple(range(1, x.ndim)), keepdim=True)
