"""One loop for every sampler that chooses its steps by an error estimate, sample by sample.

A sample has its own place and step size (float64, on the host). An attempted step gives an error; at most 1 is accepted,
and its size and the rule give the next step. Samples that arrive leave the batch. One number a sample is read from the
device an attempt.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fewstep.samplers.drivers.driven_run import Outcome
from fewstep.samplers.drivers.unit_variance import Array, Problem
from fewstep.samplers.run.per_sample import Rows, column, put, take

Mask = NDArray[np.bool_]


class Trial(NamedTuple):
    """An attempted step: where it led, its error in units of the tolerance (n,), and what to remember if accepted."""

    u: Tensor
    error: Tensor
    memory: Tensor


@dataclass(frozen=True)
class Rule:
    """Next step = step * clip(safety * error^-exponent, low, high), and no growth right after a rejection.

    Published rules without limits waste attempts on leaps from where nothing happens to where all does, and a leap may
    pass where the two solutions agree by accident.
    """

    exponent: float
    safety: float = 0.9
    low: float = 0.1
    high: float = 2.0

    def factor(self, error: Array, accepted: Mask, after_rejection: Mask) -> Array:
        """What each step size is multiplied by; an error that is not finite shrinks it most."""
        with np.errstate(divide="ignore", invalid="ignore"):
            factor = np.clip(self.safety * error**-self.exponent, self.low, self.high)
        factor = np.where(np.isfinite(error), factor, self.low)
        held = np.logical_not(accepted) | after_rejection
        return np.asarray(np.where(held, np.minimum(factor, 1.0), factor))


@dataclass(frozen=True)
class Method:
    """A way to attempt steps: attempt(rows, u, s, h, memory) -> Trial, `cost` evaluations.

    begin(rows, u, s) -> memory, `opening` evaluations. first(rows, u, s, memory) -> finite h, one evaluation, where no
    first step is given. rows: the samples' numbers; s, h: place and step of each.
    """

    cost: int
    rule: Rule
    attempt: Callable[[Rows, Tensor, Array, Array, Tensor], Trial]
    begin: Callable[[Rows, Tensor, Array], Tensor] = lambda rows, u, s: u
    opening: int = 0
    first: Callable[[Rows, Tensor, Array, Tensor], Array] | None = None


@dataclass(eq=False)
class _Steps:
    """Where every sample is, and what it has done."""

    problem: Problem
    s: Array
    h: Array
    min_step: float

    def __post_init__(self) -> None:
        n = len(self.s)
        self.stalled, self.after_rejection, self.lost = np.zeros(n, bool), np.zeros(n, bool), np.zeros(n, bool)
        self.accepted, self.rejected = np.zeros(n, np.int64), np.zeros(n, np.int64)

    def active(self) -> Rows:
        """The samples still under way."""
        return np.flatnonzero((self.s < self.problem.end) & np.logical_not(self.stalled))

    def clip(self) -> None:
        """No step beyond the end, and no crumb of one left before it."""
        left = self.problem.end - self.s
        self.h = np.where(left - self.h < self.min_step, left, np.maximum(self.h, np.minimum(self.min_step, left)))

    def judge(self, rows: Rows, error: Array, rule: Rule) -> Mask:
        """Accept or reject, and choose the next steps: which of `rows` were accepted."""
        ok: Mask = error <= 1
        self.lost[rows] = np.logical_not(np.isfinite(error))
        s, h = self.s[rows], self.h[rows]
        self.s[rows] = np.where(ok, np.where(h >= self.problem.end - s, self.problem.end, s + h), s)
        self.accepted[rows] += ok
        self.rejected[rows] += np.logical_not(ok)
        new = h * rule.factor(error, ok, self.after_rejection[rows])
        self.after_rejection[rows] = np.logical_not(ok)
        self.stalled[rows] = np.logical_not(ok) & (new < self.min_step)
        self.h[rows] = new
        return ok


def integrate(problem: Problem, method: Method, h: float | None, min_step: float) -> Outcome:
    """Integrate every sample to its end, or to a limit, and say how it went."""
    n = len(problem.each)
    u = problem.enter()
    start = np.inf if h is None else h
    steps = _Steps(problem, np.full(n, problem.start), np.full(n, start), min_step)
    memory, status, unsized = None, "done", h is None
    with _bar(problem) as bar:
        while len(rows := steps.active()):
            opening = (method.opening if memory is None else 0) + unsized
            if problem.each[rows].max() + opening + method.cost > problem.limit:
                status = "max_nfe"
                break
            here, s = take(u, rows), steps.s[rows]
            if memory is None:
                memory = put(u, rows, method.begin(rows, here, s))
            if unsized and method.first:
                steps.h[rows], unsized = method.first(rows, here, s, take(memory, rows)), False
            steps.clip()
            trial = method.attempt(rows, here, s, steps.h[rows], take(memory, rows))
            ok = steps.judge(rows, problem.read(trial.error), method.rule)
            if ok.any():
                u, memory = (
                    put(whole, rows[ok], take(new, np.flatnonzero(ok)))
                    for whole, new in ((u, trial.u), (memory, trial.memory))
                )
                moved = problem.tell(u, steps.s)
                memory = None if moved is not u and method.opening else memory  # a slope belongs to its state
                u = moved
            bar.update((steps.s - problem.start).mean() / (problem.end - problem.start) - bar.n)
    return _outcome(problem, steps, u, status)


def _outcome(problem: Problem, steps: _Steps, u: Tensor, status: str) -> Outcome:
    """The samples, after the last step on x0 where there is one. NaN that stopped one is told as such."""
    stuck, why = np.flatnonzero(steps.lost & (steps.s < problem.end)), ""
    if len(stuck):
        why = (
            f"The network's output led to values that are not finite (NaN) in {len(stuck)} of {len(steps.s)} samples right "
            f"after t = {float(problem.time(steps.s)[stuck].max()):.6g}, however short the step; these stay where they were"
        )
    x = u * column(problem.scale(problem.time(steps.s)), u)
    arrived = np.flatnonzero(steps.s >= problem.end)
    if steps.stalled.any():
        status = "min_step"
    if (problem.to_data or problem.denoise) and len(arrived):
        if problem.each[arrived].max() < problem.limit:
            x = problem.leave(x, arrived)
        else:
            status = "max_nfe"
    slowest = int(problem.each.argmax())
    did = int(steps.accepted[slowest]), int(steps.rejected[slowest])
    return Outcome(x, int(problem.each.max()), problem.calls, *did, status, tuple(int(e) for e in problem.each), why)


def _bar(problem: Problem) -> Any:
    from tqdm.auto import tqdm

    form = "{l_bar}{bar}| {elapsed}<{remaining}"
    return tqdm(total=1.0, desc=problem.name, bar_format=form, disable=not problem.task.progress)


def scaled(gap: Tensor, delta: Tensor) -> Tensor:
    """Root mean square of gap / delta over each sample, (n,)."""
    return (gap / delta).flatten(1).square().mean(1).sqrt() if gap.ndim > 1 else (gap / delta).abs()


def larger(atol: float, rtol: float, low: Tensor, before: Tensor) -> Tensor:
    """delta = max(atol, rtol max(|low|, |before|)), the tolerance of each element."""
    return torch.maximum(low.abs(), before.abs()).mul(rtol).clamp(min=atol)
