"""Exact log-likelihoods of a diffusion model: the change of variables along its probability flow.

In y = x / (alpha + sigma) over r = sigma / (alpha + sigma) the flow is finite at both ends of every schedule:

    dy/dr = v = eps - x0,     d log p(y)/dr = -tr(dv/dy),     y = (1 - r) x0 + r eps.

From r_c, the small noise of t_end, where y = (1 - r_c) x0, up to r_T, where y = x_T / s_T with s = alpha + sigma,

    log p(x0) = log p_T(x_T) + d log((1 - r_c) s_T) + int_{r_c}^{r_T} s tr(dv/dx) dr.

That is the density of x0 + (sigma_c / alpha_c) eps, at x0: no model knows data finer than the noise it was shown.

Reference: Score-Based Generative Modeling through Stochastic Differential Equations; Song, Sohl-Dickstein, Kingma, Kumar,
Ermon, Poole; 2020; arXiv:2011.13456. Trace: FFJORD; Grathwohl, Chen, Bettencourt, Sutskever, Duvenaud; 2018;
arXiv:1810.01367.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fewstep.adjoint.likelihood.flow_solvers import SOLVERS, DormandPrince
from fewstep.adjoint.likelihood.likelihood_arguments import check_likelihood, checked_seeds
from fewstep.adjoint.likelihood.probability_flow import ProbabilityFlow
from fewstep.adjoint.likelihood.trace_integral import integrate
from fewstep.checks import whole
from fewstep.samplers.noise.brownian import unit_normal
from fewstep.samplers.noise.draws import drawn_seeds, onto
from fewstep.samplers.run.denoiser import Denoiser

EXACT = 16  # dimensions up to which trace="auto" is exact
PROBES = 2**33  # counters of noise, beyond those of samplers


@dataclass(frozen=True)
class LikelihoodInfo:
    """What a likelihood cost and how sure it is.

    nfe: network evaluations, each with one VJP a probe (exact trace: d). x_T: the latents, (B, *shape). stderr: standard
    error over probes, (B,), in the result's unit; None for an exact trace or a single probe. seconds: wall clock.
    t_start, t_end: between which the flow was integrated. noise: sigma / alpha at t_end: the density is that of
    x0 + noise eps, which for data finer than that is another than the data's; 0 where it was extrapolated to the clean end.
    """

    nfe: int
    x_T: Tensor
    stderr: Tensor | None
    seconds: float
    t_start: float
    t_end: float
    noise: float

    def __str__(self) -> str:
        of = (
            f"the density of x0 + {self.noise:.3g} eps (t_end = {self.t_end:.4g})"
            if self.noise
            else "the density of x0"
        )
        spread = "" if self.stderr is None else f", standard error {float(self.stderr.mean()):.3g} over probes"
        return f"{of}, by {self.nfe} evaluations from there to t = {self.t_start:.4g} in {self.seconds:.3g} s{spread}"


def log_likelihood(
    denoiser: Denoiser,
    x0: Tensor,
    nfe: int | None = None,
    solver: str = "adams6",
    *,
    t_start: float | None = None,
    t_end: float | None = None,
    grid: Any = None,
    trace: str = "auto",
    probes: int = 1,
    distribution: str = "rademacher",
    seeds: Sequence[int] | None = None,
    prior: Callable[[Tensor], Tensor] | None = None,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    chunk: int | None = None,
    progress: bool = False,
    return_info: bool = False,
) -> Any:
    """log p(x0) of a model's probability flow, in nats, (B,); with return_info (values, LikelihoodInfo).

    log p(x0) = log p_T(x_T) + d log((1 - r_c) s_T) + int s tr(d(eps - x0)/dx) dr,  r = sigma / s,  s = alpha + sigma.

    Args:
        denoiser: Denoiser whose output is differentiable in x. x0: (B, *shape), floating; float64 keeps float64 algebra.
        nfe: network evaluations, default 60; of rk45 the most it may take, default 1000. Runge-Kutta takes nfe // stages
            steps and leaves the rest unspent: a step of lower order would cost more accuracy than it brings.
            Nothing in a result tells that nfe was too small (images below 40): half and double it and compare, or take rk45.
        solver: "adams6" or "adams4" (predictor-corrector of that order, one evaluation a step; of the two adams4 is the
            safer below 50), "euler", "midpoint", "heun", "rk4", or "rk45" (Dormand-Prince, steps by rtol and atol on state
            and log density of the worst sample: the batch may change its result within the tolerance, others' by rounding).
        t_start: the noise end, default t_max. t_end: the clean end, default the schedule's t_min, the least noise that
            the network knows; the info says which it was, and its noise. 0: from t_min on by
            d log p / d(rho^2 / 2) = |score|^2 + div score, rho = sigma / alpha, of the first evaluation, with an error
            O(rho^4); only for data that are smooth at that noise, never for images.
        grid: GRIDS name, decreasing times or a function, as in `sample`; default equidistant in
            log((r + 1/16) / (4 - r)). For images, with structure down to their noise, "logsnr" is better.
        trace: "exact" (one VJP a dimension), "hutchinson" (z' J z of `probes` random z, the same for the whole solve,
            "rademacher" or "gaussian"), or "auto": exact up to 16 dimensions.
        seeds: one int a sample, which makes its value the same in every batch; drawn from torch's generator if absent.
        prior: log density of x at t_start, x_T -> (B,); default N(0, I), for VE and EDM N(0, t_start^2 I), the law
            that `sample` starts from. It is not that of the diffused data where alpha > 0.
        chunk: samples at a time.

    Memory is that of one network VJP under torch.no_grad(), or where neither x0 nor weights require grad. Otherwise the
    result is differentiable, and the graphs of all nfe VJPs (about 3 forwards of activations each) are kept for it.

    Raises:
        ValueError: any wrong argument, before the first network call; a network that detaches its output from x; rk45 out
            of evaluations; a result that is not finite.
    """
    began = time.perf_counter()
    check_likelihood(
        denoiser, x0, solver=solver, trace=trace, distribution=distribution, probes=probes, chunk=chunk, seeds=seeds,
        prior=prior, rtol=rtol, atol=atol,
    )  # fmt: skip
    if denoiser.field is not None and (prior is None or t_end == 0):
        raise ValueError(
            "the latents of a model of field noise are not N(0, I): pass their log density as `prior`, and a t_end above 0"
        )
    method, adaptive, n = SOLVERS[solver], solver == "rk45", chunk or len(x0)
    if adaptive and grid is not None:
        raise ValueError("rk45 chooses its own steps: leave `grid` away; rtol, atol and nfe (a limit) guide it")
    nfe = whole("nfe", (1000 if adaptive else 60) if nfe is None else nfe, method.least)
    method = DormandPrince(rtol, atol, nfe) if adaptive else method
    flow = ProbabilityFlow(denoiser, t_start, t_end, grid, prior)
    r = flow.nodes(method.intervals(nfe))
    flow.log_prior(x0.detach())  # a prior of the wrong shape is found out before the network runs
    exact = trace == "exact" or (trace == "auto" and x0[0].numel() <= EXACT)
    seeds = [0] * len(x0) if exact else drawn_seeds(None, len(x0)) if seeds is None else checked_seeds(seeds, x0)
    parts = []
    with _bar(progress, None if adaptive else -(-len(x0) // n) * nfe) as bar:
        for i in range(0, len(x0), n):
            part = x0[i : i + n]
            z = _basis(part) if exact else _probes(part, seeds[i : i + n], probes, distribution)
            parts.append(integrate(flow, part, z, exact, method, r, bar.update))
    each = torch.cat([p.value for p in parts], 1)  # one row a probe
    value = each.mean(0)
    if not bool(torch.isfinite(value).all()):
        raise ValueError(
            f"log p is not finite for {int((~torch.isfinite(value)).sum())} of {len(x0)} samples. Is x0 in the range of "
            "the training data, and the network in float32? Else raise t_end, lower t_start, or pass more nfe"
        )
    if not return_info:
        return value
    stderr = each.detach().std(0) / math.sqrt(len(each)) if len(each) > 1 else None
    x_T, spent = torch.cat([p.x_T for p in parts]), max(p.nfe for p in parts)
    return value, LikelihoodInfo(spent, x_T, stderr, time.perf_counter() - began, *flow.ends)


def _probes(x: Tensor, seeds: Sequence[int], n: int, distribution: str) -> Tensor:
    """n probes of every sample, (n, B, *shape)."""
    rows = [onto(x, [unit_normal(seed, (PROBES, 0, k), x.shape[1:]) for seed in seeds]) for k in range(n)]
    z = torch.stack(rows)
    return z if distribution == "gaussian" else torch.where(z < 0, -torch.ones_like(z), torch.ones_like(z))


def _basis(x: Tensor) -> Tensor:
    """Every unit vector as a probe of every sample, (d, B, *shape)."""
    d = x[0].numel()
    return torch.eye(d, dtype=x.dtype, device=x.device).view(d, 1, *x.shape[1:]).expand(d, *x.shape)


def _bar(show: bool, total: int | None) -> Any:
    from tqdm.auto import tqdm

    return tqdm(total=total, desc="likelihood", unit="eval", disable=not show)
