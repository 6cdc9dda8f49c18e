"""One loop for every sampler that chooses its steps by an error estimate, sample by sample.

Scaled to unit variance, u = x / sqrt(alpha^2 + sigma^2), all schedules are one, a function of lam alone:

    alpha^2 = 1 / (1 + e^(-2 lam)),     sigma^2 = 1 / (1 + e^(2 lam)),     du/dlam = sigma (sigma u - eps),

smooth and of size one from pure noise to data, so that one tolerance means the same everywhere. A sample has its own
place and step size (float64, on the host). An attempted step gives an error; at most 1 is accepted, and its size and
the rule give the next step. Samples that arrive leave the batch. One number a sample is read from the device an attempt.

Singular ends are left and reached by a first-order step on x0, one evaluation each: alpha = 0 at once, to where what
that step neglects, of the order alpha^2, is a tenth of the tolerance; sigma = 0 from the schedule's smallest time t_min.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ..predictions import convert
from ..schedule import Nodes
from ..solvers import options as opt
from .task import Outcome, Task

Tensor = torch.Tensor
Array = NDArray[np.float64]
Rows = NDArray[np.intp]
Mask = NDArray[np.bool_]
MAX_NFE = 1000


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
class Problem:
    """A task in u and in a clock s that rises as noise falls (lam, or -t): its ends, its network, what has been spent.

    tolerance: what the first-order step out of alpha = 0 is measured by. denoise: end in E[x0 | x] at t_end.
    """

    task: Task
    name: str
    per_sample: bool
    tolerance: float
    clock: str = "lam"
    denoise: bool = False
    calls: int = 0
    each: NDArray[np.int64] = field(init=False)
    limit: int = field(init=False)
    _last: tuple[Rows, Tensor, Array, Tensor] | None = None

    def __post_init__(self) -> None:
        task, schedule = self.task, self.task.schedule
        if task.grid is not None:
            raise ValueError(
                f"{self.name} chooses its own steps: leave `grid` away; rtol, atol and nfe (a limit) guide it"
            )
        self.limit = MAX_NFE if task.nfe is None else task.nfe
        self.each = np.zeros(task.x.shape[0], np.int64)
        self.from_pure_noise = float(schedule.alpha(task.t_start)) == 0
        self.to_data = float(schedule.sigma(task.t_end)) == 0
        self.t_first, self.t_last = task.t_start, task.t_end
        if self.to_data:
            self.t_last = min(schedule.t_min, task.t_start)
        if self.from_pure_noise:
            convert(task.denoiser.prediction, ["x0"], Nodes(*map(np.atleast_1d, schedule.nodes(task.t_start))))
            out = float(schedule.t_of_lam(0.5 * np.log(0.1 * min(self.tolerance, 1.0))))
            self.t_first = max(out, self.t_last)
        self.start, self.end = (float(v) for v in self._clock_of(np.array([self.t_first, self.t_last])))

    def _clock_of(self, t: Array) -> Array:
        return np.asarray(self.task.schedule.lam(t)) if self.clock == "lam" else -t

    def time(self, s: Array) -> Array:
        """The schedule's time at clock s."""
        t = self.task.schedule.t_of_lam(s) if self.clock == "lam" else -s
        return np.clip(t, self.t_last, self.t_first)

    def levels(self, s: Array) -> tuple[Array, Array]:
        """(alpha, sigma) of u at clock s."""
        lam = s if self.clock == "lam" else np.asarray(self.task.schedule.lam(-s))
        return np.exp(-0.5 * np.logaddexp(0, -2 * lam)), np.exp(-0.5 * np.logaddexp(0, 2 * lam))

    def speed(self, s: Array) -> Array:
        """dlam/ds: 1, or by second-order differences that stay below t_start."""
        if self.clock == "lam":
            return np.ones_like(s)
        lam, t, d = self.task.schedule.lam, -s, 2e-5 * -s
        at = np.minimum(t, self.task.t_start - d)
        low, mid, high = lam(at - d), lam(at), lam(at + d)
        return np.asarray(-((high - low) / (2 * d) + (high - 2 * mid + low) / d**2 * (t - at)))

    def scale(self, t: Any) -> Array:
        """x / u at time t."""
        return np.hypot(self.task.schedule.alpha(t), self.task.schedule.sigma(t))

    def eps(self, rows: Rows, u: Tensor, s: Array) -> Tensor:
        """One evaluation: predicted noise of the samples `rows`."""
        t = self.time(s)
        eps = self._predict("eps", rows, u * column(self.scale(t), u), t)
        self._last = rows, u, s, eps
        return eps

    def _predict(self, form: str, rows: Rows, x: Tensor, t: Any) -> Tensor:
        self.each[rows] += 1
        self.calls += 1
        return self.task.predict(form, x, t)

    def read(self, norms: Tensor) -> Array:
        """(n,) numbers on the host, the largest for all where samples share their steps. To autograd they are constants."""
        numbers = norms.detach().cpu().numpy().astype(np.float64)
        return numbers if self.per_sample else np.full_like(numbers, numbers.max())

    def enter(self) -> Tensor:
        """u at the start: from alpha = 0 after the step on x0 that leaves it."""
        task = self.task
        if not self.from_pure_noise:
            return task.x / float(self.scale(task.t_start))
        every = np.arange(len(self.each))
        x0 = self._predict("x0", every, task.x, task.t_start)
        alpha, sigma = (float(v) for v in self.levels(np.array(self.start)))
        u = alpha * x0 + (sigma / float(task.schedule.sigma(task.t_start))) * task.x
        scale = float(self.scale(self.t_first))
        x = u * scale
        moved = task.tell(0, self.t_first, x, 1, lambda: x0)
        return u if moved is x else moved / scale

    def leave(self, x: Tensor, arrived: Rows) -> Tensor:
        """The last step on x0 of the samples that arrived."""
        x0 = self._predict("x0", arrived, take(x, arrived), self.t_last)
        x = put(x, arrived, x0)
        t = 0.0 if self.to_data else self.t_last
        return self.task.tell(self.calls - 1, t, x, int(self.each.max()), lambda: x)

    def tell(self, u: Tensor, s: Array) -> Tensor:
        """Show x after accepted steps; u, or a new one where a hook moved it. Samples differ in time: t is the largest."""
        t = self.time(s)
        scale = column(self.scale(t), u)
        x = u * scale

        def x0() -> Tensor:
            assert self._last is not None
            rows, v, at, eps = self._last
            alpha, sigma = columns(self.levels(at), v)
            return put(x, rows, (v - sigma * eps) / alpha)

        moved = self.task.tell(self.calls - 1, float(t.max()), x, int(self.each.max()), x0)
        return u if moved is x else moved / scale


@dataclass(eq=False)
class _Steps:
    """Where every sample is, and what it has done."""

    problem: Problem
    s: Array
    h: Array
    min_step: float

    def __post_init__(self) -> None:
        n = len(self.s)
        self.stalled, self.after_rejection = np.zeros(n, bool), np.zeros(n, bool)
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
        s, h = self.s[rows], self.h[rows]
        self.s[rows] = np.where(ok, np.where(h >= self.problem.end - s, self.problem.end, s + h), s)
        self.accepted[rows] += ok
        self.rejected[rows] += np.logical_not(ok)
        new = h * rule.factor(error, ok, self.after_rejection[rows])
        self.after_rejection[rows] = np.logical_not(ok)
        self.stalled[rows] = np.logical_not(ok) & (new < self.min_step)
        self.h[rows] = new
        return ok


def run(problem: Problem, method: Method, h: float | None, min_step: float) -> Outcome:
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
    """The samples, after the last step on x0 where there is one."""
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
    return Outcome(x, int(problem.each.max()), problem.calls, *did, status, tuple(int(e) for e in problem.each))


def _bar(problem: Problem) -> Any:
    from tqdm.auto import tqdm

    form = "{l_bar}{bar}| {elapsed}<{remaining}"
    return tqdm(total=1.0, desc=problem.name, bar_format=form, disable=not problem.task.progress)


def problem(
    task: Task, name: str, per_sample: bool | None, tolerance: float, clock: str = "lam", denoise: bool = False
) -> Problem:
    """The task as an adaptive driver sees it; ValueError where its samples cannot go each at its own pace."""
    alone = task.denoiser.vector_time or task.x.shape[0] == 1
    if opt.one_of(name, "per_sample", per_sample, (None, True, False)) and not alone:
        raise ValueError(
            f"{name}: `per_sample` needs a network that takes a time a sample and any batch; say Denoiser(..., "
            "vector_time=True) if fn does, or leave `per_sample` away: all samples then share their steps"
        )
    return Problem(task, name, alone if per_sample is None else bool(per_sample), tolerance, clock, denoise)


def scaled(gap: Tensor, delta: Tensor) -> Tensor:
    """Root mean square of gap / delta over each sample, (n,)."""
    return (gap / delta).flatten(1).square().mean(1).sqrt() if gap.ndim > 1 else (gap / delta).abs()


def larger(atol: float, rtol: float, low: Tensor, before: Tensor) -> Tensor:
    """delta = max(atol, rtol max(|low|, |before|)), the tolerance of each element."""
    return torch.maximum(low.abs(), before.abs()).mul(rtol).clamp(min=atol)


def columns(values: Sequence[Array], like: Tensor) -> tuple[Tensor, ...]:
    """One number a sample, for each of `values`: tensors (n, 1, ...) beside `like`, in one transfer."""
    stacked = torch.from_numpy(np.stack([np.asarray(v, np.float64) for v in values]))
    return stacked.to(like.dtype).to(like.device).view(len(values), -1, *(1,) * (like.ndim - 1)).unbind()


def column(values: Array, like: Tensor) -> Tensor:
    """One number a sample."""
    return columns([values], like)[0]


def take(whole: Tensor, rows: Rows) -> Tensor:
    """Some samples."""
    return whole if len(rows) == len(whole) else whole[torch.from_numpy(rows).to(whole.device)]


def put(whole: Tensor, rows: Rows, part: Tensor) -> Tensor:
    """The batch with some samples replaced."""
    if len(rows) == len(whole):
        return part
    return whole.index_copy(0, torch.from_numpy(rows).to(whole.device), part)
