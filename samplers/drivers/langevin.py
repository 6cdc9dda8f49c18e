"""Predictor-corrector sampling: any table, with Langevin steps at every node before it moves on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from fewstep.samplers.building import options as opt
from fewstep.samplers.building import references as ref
from fewstep.samplers.building.solver_entry import driver
from fewstep.samplers.drivers.base_tables import bar, explicit, table
from fewstep.samplers.drivers.driven_run import Outcome, Task
from fewstep.samplers.noise.draws import Draw
from fewstep.samplers.run.lowering import lower
from fewstep.samplers.run.per_sample import beside
from fewstep.samplers.run.step import first_state, moved
from fewstep.samplers.table.tableau import Tableau

NFE = 10  # by default
CORRECTOR_PATHS = 2**20  # Brownian paths of the correctors' noises: none that a table draws from


@driver("predictor_corrector", order=1, prediction="eps", stochastic=True, reference=ref.SCORE_SDE, aliases=("pc",))
def predictor_corrector(
    task: Task,
    *,
    predictor: str = "reverse_diffusion",
    n_corr: int = 1,
    snr: float = 0.16,
    per_sample: bool = True,
    denoise: bool = True,
    predictor_options: Mapping[str, Any] | None = None,
) -> Outcome:
    """Langevin corrections at the noise level of every step, then the step of a table. Exactly `nfe` evaluations.

        x <- x + e score + sqrt(2 e) z,     score = -eps / sigma,     e = 2 a (snr |z| / |score|)^2,

    n_corr times a step. a is that of the step s -> t to come: 1 - beta = (alpha_s / alpha_t)^2 for VP, as published, and
    1 for VE and EDM. For flows too: with a = 1 the move is the same in x and in y = x / alpha, which is a VE process.

    nfe: 10 by default, or what an explicit grid needs. Every step has n_corr corrections, but where nfe does not divide
    the first steps, near pure noise, have fewer or none: the predictor gets as few evaluations as fill nfe.

    predictor, predictor_options: any table; earlier outputs of a multistep one stay, its anchor moves with x. snr: size of
    the moves: 0.16 is for CIFAR-10 (VE). per_sample: norms of the sample's own, and e at most
    2 a snr^2 (alpha^2 + sigma^2), as if |score| were the least root mean square that data of unit variance can have
    (Cramer-Rao), since a single norm may be small by chance; False: the published norms, means over the batch, so that
    samples depend on each other. Norms are functions of the state, which biases small ones: of d elements, variances come
    out too large by about 2/d. denoise: leave out the noise of the last row.

    Raises: ValueError for a predictor that is no table, n_corr < 0, snr outside (0, 1], nfe < 1.
    """
    name = "predictor_corrector"
    n_corr = opt.whole(name, "n_corr", n_corr, most=1000, least=0)
    snr = opt.fraction(name, "snr", snr)
    per_sample = opt.one_of(name, "per_sample", per_sample, (True, False))
    denoise = opt.one_of(name, "denoise", denoise, (True, False))
    tableau, nfe = _plan(task, predictor, n_corr, predictor_options)
    steps = lower(tableau, task.denoiser.prediction, task.x.device, task.x.dtype, task.post)
    state = first_state(tableau, task.x)
    corrections = _corrections(tableau, nfe - tableau.nfe, n_corr)
    move = partial(_langevin, task, tableau, snr, per_sample)
    spent = 0
    with bar(task, name, nfe) as shown:
        for step, times in zip(steps, corrections, strict=True):
            for i in range(times):
                state = moved(state, move(state.input, step.index, i))
            output = task.denoiser.call(state.input.to(task.dtype), step.model_time, step)
            last = step.next is None and denoise
            noises = [torch.zeros_like(task.x) if last else task.noise(draw, task.x) for draw in step.draws]
            after = step(state, output, noises)
            spent += times + 1
            x0 = partial(step.x0, state.input, output)
            state = moved(after, task.tell(step.index, float(tableau.times[step.index + 1]), after.input, spent, x0))
            shown.update(times + 1)
    return Outcome(state.input, spent, spent, len(tableau.groups))


def _plan(task: Task, predictor: str, n_corr: int, options: Mapping[str, Any] | None) -> tuple[Tableau, int]:
    """The predictor's table with the fewest evaluations that leave no more than n_corr corrections a step; all of nfe."""
    if task.nfe is None and explicit(task.grid):
        tableau = table(task, predictor, None, options)
        return tableau, tableau.nfe + n_corr * len(tableau.groups)
    nfe = NFE if task.nfe is None else task.nfe
    for calls in range(-(-nfe // (1 + n_corr)), nfe + 1):
        tableau = table(task, predictor, calls, options)
        if calls + n_corr * len(tableau.groups) >= nfe:
            break
    return tableau, nfe


def _corrections(tableau: Tableau, left: int, n_corr: int) -> Iterator[int]:
    """Corrections before each row: n_corr where a step begins, as far as they last, the last steps first."""
    begins = set(accumulate((0, *tableau.groups)))
    counts = []
    for k in reversed(range(tableau.nfe)):
        counts.append(min(n_corr, left) if k in begins else 0)
        left -= counts[-1]
    return reversed(counts)


def _langevin(task: Task, tableau: Tableau, snr: float, per_sample: bool, x: Tensor, k: int, i: int) -> Tensor:
    """Correction number i at node k."""
    t, alpha, sigma, lam = (float(column[k]) for column in tableau.nodes)
    score = task.predict("eps", x, t) / -sigma
    z = task.noise(Draw(k + 1, tableau.slots + i, lam, lam, CORRECTOR_PATHS + i), x)
    a = (alpha / float(tableau.nodes.alpha[k + 1])) ** 2 if task.schedule.kind == "vp" else 1.0
    size, force = (v.reshape(len(x), -1).norm(dim=1) for v in (z, score))
    if per_sample:
        force = torch.maximum(force, size / (alpha**2 + sigma**2) ** 0.5)
    else:
        size, force = size.mean(), force.mean()
    e = beside(2 * a * (snr * size / force) ** 2, x)
    return x + e * score + (2 * e).sqrt() * z
