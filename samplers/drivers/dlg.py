"""Denoising Langevin-Gibbs: a Markov chain over (sample, noise level) close to the data, then a short way down from it.

In y = x / alpha every schedule is a VE process of level rho = sigma / alpha, with score_y = -eps / rho. A chain repeats

    y <- y + (e / 2) score_y(y, rho) + sqrt(e) z,     rho <- a noise-level classifier's answer to y,

and from the lowest level that it met in its last moves an ODE table leads to the data: few evaluations, since the level is
low. Every chain has a level, and so a table, of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fewstep.samplers.building import options as opt
from fewstep.samplers.building import references as ref
from fewstep.samplers.building.compiling import build
from fewstep.samplers.building.solver_entry import driver
from fewstep.samplers.drivers.base_tables import bar, explicit
from fewstep.samplers.drivers.driven_run import Outcome, Task
from fewstep.samplers.noise.draws import Draw
from fewstep.samplers.run.per_sample import column
from fewstep.samplers.schedule.outputs import form_pair
from fewstep.samplers.table.tableau import Tableau

Array = NDArray[np.float64]
Classifier = Callable[[Tensor], Tensor]
CHAIN_PATHS = 2**21  # Brownian paths of the chain's noises: none that a table draws from
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
    the classifier's probabilities, the exact Gibbs step, for data of few dimensions. base: an ODE table. denoise: end in
    E[x0 | x] at t_end where sigma is not 0 there, one evaluation more.

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
    chain = _Chain(
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
    way = _Way(task, base, dict(base_options or {}))
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


def _levels(task: Task, classifier: Classifier | None, ends: Sequence[float] | None) -> tuple[Classifier, Array]:
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


@dataclass
class _Chain:
    """A chain a sample: y, and the number of its level."""

    task: Task
    classifier: Classifier
    rho: Array
    step: float
    gibbs: str

    def run(self, y: Tensor, burn_in: int, n_skip: int, spent: int) -> tuple[Tensor, Array]:
        """After all moves, of the last n_skip states that of the lowest level: (y, its time (B,))."""
        level = self._classify(y, 0)
        kept, lowest = y, level
        for i in range(burn_in + n_skip):
            y = self._move(y, level, i, spent + i)
            level = self._classify(y, i + 1)
            better = (level < lowest) if i > burn_in else np.ones_like(level, bool)
            kept = torch.where(column(better.astype(float), y) > 0, y, kept)
            lowest = np.where(better, level, lowest)
        return kept, self._time(lowest)

    def _time(self, level: NDArray[np.intp]) -> Array:
        t = self.task.schedule.t_of_lam(-np.log(self.rho[level]))
        return np.clip(t, self.task.t_end, self.task.t_start)

    def _move(self, y: Tensor, level: NDArray[np.intp], i: int, spent: int) -> Tensor:
        """One Langevin move at the present levels."""
        task, t, rho = self.task, self._time(level), self.rho[level]
        alpha = column(np.asarray(task.schedule.alpha(t)), y)
        eps = task.predict("eps", y * alpha, t)
        z = task.noise(Draw(i + 1, 0, 0.0, 0.0, CHAIN_PATHS + i + 1), y)
        moved = y - column(self.step / (2 * rho), y) * eps + self.step**0.5 * z
        x = moved * alpha
        seen = task.tell(spent, float(t.max()), x, spent + 1, lambda: y - column(rho, y) * eps)
        return moved if seen is x else seen / alpha

    @torch.no_grad()
    def _classify(self, y: Tensor, i: int) -> NDArray[np.intp]:
        """The level of every y, on the host."""
        logits = self.classifier(y.to(self.task.dtype)).double()
        if self.gibbs == "argmax":
            return logits.argmax(1).cpu().numpy()
        z = self.task.noise(Draw(i, 1, 0.0, 0.0, 2 * CHAIN_PATHS + i), y.new_zeros(len(y), 1)).double()
        passed = logits.softmax(1).cumsum(1) < torch.special.ndtr(z)
        return passed.sum(1).clamp(max=len(self.rho) - 1).cpu().numpy()


@dataclass
class _Way:
    """An ODE table from any level to t_end, one a sample."""

    task: Task
    base: str
    options: Mapping[str, Any]

    def tables(self, times: Array, nfe: int) -> list[Tableau]:
        """The table of every sample."""
        task = self.task
        if explicit(task.grid):
            raise ValueError(
                "dlg: every chain starts its way down at a level of its own: give `grid` a name or a function"
            )
        grid = "karras" if task.grid is None else task.grid
        known = {
            t: build(self.base, task.schedule, nfe, grid, t_start=t, t_end=task.t_end, **self.options)
            for t in set(times.tolist())
        }
        one = next(iter(known.values()))
        if one.slots or one.elementwise:
            raise ValueError(
                f"dlg: `base` must be an ODE solver with plain weights, such as 'dpmpp_2m'; got {self.base!r}"
            )
        return [known[t] for t in times.tolist()]

    def down(self, x: Tensor, times: Array, nfe: int, spent: int) -> Tensor:
        """x at the given times (B,) -> x at t_end, with `nfe` evaluations."""
        task, tables = self.task, self.tables(times, nfe)
        one = tables[0]
        W = np.stack([table.W for table in tables], -1)  # (nfe, 2, R, B)
        weights = torch.from_numpy(W).to(x.device, x.dtype).view(*W.shape, *(1,) * (x.ndim - 1))
        nodes = [np.stack([getattr(table.nodes, f) for table in tables], 1) for f in ("t", "alpha", "sigma")]
        state, history = torch.stack([x, x]), [torch.zeros_like(x)] * one.history
        constant = [torch.ones_like(x)] * one.constant
        for k in range(nfe):
            (t, alpha, sigma), (A, B), at = (v[k] for v in nodes), form_pair(one.forms[k]), state[1]
            m = task.predict(one.forms[k], at, t)  # type: ignore[arg-type]
            history = [m, *history][: one.history]
            state = (weights[k] * torch.stack([*state, *history, *constant])).sum(1)

            def x0(
                m: Tensor = m, at: Tensor = at, det: Array = sigma * A - alpha * B, s: Array = sigma, B: Any = B
            ) -> Tensor:
                return column(s / det, at) * m - column(B / det, at) * at

            after = state[1]
            seen = task.tell(spent + k, float(nodes[0][k + 1].max()), after, spent + k + 1, x0)
            state = state if seen is after else state + (seen - after)
        return state[1]
