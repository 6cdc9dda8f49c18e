"""Denoising Langevin-Gibbs: a Markov chain over (sample, noise level) close to the data, then a short way down from it.

In y = x / alpha every schedule is a VE process of level rho = sigma / alpha, with score_y = -eps / rho. A chain repeats

    y <- y + (e / 2) score_y(y, rho) + sqrt(e) z,     rho <- a noise-level classifier's answer to y,

and from the lowest level that it met in its last moves an ODE table leads to the data: few evaluations, since the level is
low. Every chain has a level, and so a table, of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewstep.samplers.building import options as opt
from fewstep.samplers.building import references as ref
from fewstep.samplers.building.solver_entry import driver
from fewstep.samplers.drivers.base_tables import bar
from fewstep.samplers.drivers.driven_run import Outcome, Task
from fewstep.samplers.drivers.langevin_gibbs import CHAIN_PATHS, Chain, Classifier
from fewstep.samplers.drivers.own_tables import OwnTables
from fewstep.samplers.noise.draws import Draw
from fewstep.samplers.run.per_sample import Numbers, column

FINAL = 10  # evaluations of the way down, by default


@driver("dlg", order=2, prediction="eps", stochastic=True, reference=ref.DLG)
def dlg(
    task: Task,
    *,
    classifier: Classifier | None = None,
    levels: Sequence[float] | None = None,
    step: float = 0.5,
    burn_in: int = 10,
    n_skip: int = 10,
    init: int = 10,
    init_noise: float = 0.5,
    gibbs: str = "argmax",
    base: str = "dpmpp_2m",
    base_options: Mapping[str, Any] | None = None,
    denoise: bool = True,
) -> Outcome:
    """One sample of every chain: a run of `init` evaluations starts it, burn_in + n_skip moves, and what is left of `nfe`.

    nfe: all evaluations, 10 for the way down by default. grid: of both runs, a name or function ("karras" by default).

    classifier: (B, *shape) -> (B, L) logits of L levels of y, spaced evenly in log rho; required. levels: (least, largest)
    of them; by default the schedule's own. step: e, in units of y squared; 0.5 suits images in [-1, 1] whose
    classifier is sure, e should not exceed the square of the data's finest scale where it is not. burn_in: moves that are
    forgotten. n_skip: moves of whose states that of the lowest level is kept. init: evaluations of the run that starts
    the chain, with noise of init_noise on top; 0 starts it from x_T itself. gibbs: "argmax", as published, or "sample" from
    the classifier's probabilities, the exact Gibbs step of the joint law, which visits high levels as often as that does: on
    some data it ended nearer to them, on others twice as far (0.072 against 0.038), so keep to "argmax" unless measured.
    base: an ODE table. denoise: end in E[x0 | x] at t_end where sigma is not 0 there, one evaluation more.

    A network that knows one time for a whole batch can only run one chain.

    Raises: ValueError for a classifier missing or of wrong output, levels out of order, negative counts, a base that draws
    noise, nfe too small for the moves, several chains without `vector_time`.
    """
    name = "dlg"
    (step,) = opt.positive(name, step=step)
    init_noise = opt.number(name, "init_noise", init_noise)
    burn_in, n_skip, init = (
        opt.whole(name, o, v, most=10**6, least=0)
        for o, v in (("burn_in", burn_in), ("n_skip", n_skip), ("init", init))
    )
    chain = Chain(
        task, *_levels(task, classifier, levels), step, opt.one_of(name, "gibbs", gibbs, ("argmax", "sample"))
    )
    opt.one_of(name, "denoise", denoise, (True, False))
    tweedie = int(denoise and float(task.schedule.sigma(task.t_end)) > 0)
    if not init and float(task.schedule.alpha(task.t_start)) == 0:
        raise ValueError(
            "dlg: at t_start alpha = 0 and y = x / alpha is infinite: give t_start below it, or init above 0"
        )
    fixed = init + burn_in + n_skip + tweedie
    nfe = fixed + FINAL if task.nfe is None else task.nfe
    if nfe <= fixed:
        raise ValueError(
            f"dlg: {fixed} evaluations are spent beside the way down; give nfe of at least {fixed + 1} (got {nfe}), or "
            "lower init, burn_in or n_skip"
        )
    way = OwnTables(task, base, dict(base_options or {}))
    first = np.full(len(task.x), task.t_start)
    way.tables(first, 1)  # before any evaluation: what is wrong with the base
    with bar(task, name, nfe) as shown:
        if init:
            x = way.down(task.x, first, init, 0)
            z = task.noise(Draw(0, 0, 0.0, 0.0, CHAIN_PATHS), x)
            y = x / float(task.schedule.alpha(task.t_end)) + init_noise * z
            shown.update(init)
        else:
            y = task.x / float(task.schedule.alpha(task.t_start))
        y, t = chain.run(y, burn_in, n_skip, init)
        shown.update(burn_in + n_skip)
        x = y * column(np.asarray(task.schedule.alpha(t)), y)
        x = way.down(x, t, nfe - fixed, fixed - tweedie)
        if tweedie:
            x = task.predict("x0", x, task.t_end)
            x = task.tell(nfe - 1, task.t_end, x, nfe, lambda: x)
        shown.update(nfe - shown.n)
    return Outcome(x, nfe, nfe, nfe)


def _levels(task: Task, classifier: Classifier | None, ends: Sequence[float] | None) -> tuple[Classifier, Numbers]:
    """The classifier and the levels of its logits, checked."""
    schedule, batch = task.schedule, len(task.x)
    if not callable(classifier):
        raise ValueError(
            "dlg: `classifier` is missing: give a function of y = x / alpha (B, *shape) that returns logits (B, L) over L "
            f"noise levels sigma / alpha, spaced evenly in their logarithm; got {classifier!r}"
        )
    if batch > 1 and not task.denoiser.vector_time:
        raise ValueError(
            f"dlg: {batch} chains have {batch} noise levels, and this denoiser takes one time for the whole batch. If its "
            "fn takes tau of shape (B,), say Denoiser(..., vector_time=True); else sample one chain at a time"
        )
    lowest = max(schedule.t_min, task.t_end)
    low, high = (float(np.exp(-schedule.lam(t))) for t in (lowest, task.t_start))
    given = (low, high) if ends is None else tuple(ends)
    if len(given) != 2 or not all(np.isfinite(v) for v in given) or not 0 < given[0] < given[1]:
        raise ValueError(
            f"dlg: `levels` must be two numbers, 0 < least < largest, between which the classifier's levels lie; got {given}"
        )
    with torch.no_grad():
        logits = classifier(task.x.to(task.dtype))
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != batch or logits.shape[1] < 2:
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(
            f"dlg: the classifier must return logits of shape ({batch}, levels), 2 levels or more; got {got}"
        )
    return classifier, np.clip(np.geomspace(*given, logits.shape[1]), 1.001 * low, high)
