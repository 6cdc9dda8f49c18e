"""A task as adaptive drivers see it: one process for all schedules, and ends that are not singular.

Scaled to unit variance, u = x / sqrt(alpha^2 + sigma^2), all schedules are one, a function of lam alone:

    alpha^2 = 1 / (1 + e^(-2 lam)),     sigma^2 = 1 / (1 + e^(2 lam)),     du/dlam = sigma (sigma u - eps),

smooth and of size one from pure noise to data, so that one tolerance means the same everywhere.

Singular ends are left and reached by a first-order step on x0, one evaluation each: alpha = 0 at once, to where what
that step neglects, of the order alpha^2, is a tenth of the tolerance; sigma = 0 from the schedule's smallest time t_min.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fewstep.samplers.building import options as opt
from fewstep.samplers.drivers.driven_run import Task
from fewstep.samplers.run.per_sample import Rows, column, columns, put, take
from fewstep.samplers.schedule.base import Nodes
from fewstep.samplers.schedule.outputs import convert

Array = NDArray[np.float64]
MAX_NFE = 1000


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
        return self.task.predict(form, x, t, rows)

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


def problem_of(
    task: Task, name: str, per_sample: bool | None, tolerance: float, clock: str = "lam", denoise: bool = False
) -> Problem:
    """The task as an adaptive driver sees it; ValueError where its samples cannot go each at its own pace."""
    alone = bool(task.denoiser.vector_time) or task.x.shape[0] == 1
    if opt.one_of(name, "per_sample", per_sample, (None, True, False)) and not alone:
        raise ValueError(
            f"{name}: `per_sample` needs a network that takes a time a sample and any batch; say Denoiser(..., "
            "vector_time=True) if fn does, or leave `per_sample` away: all samples then share their steps"
        )
    return Problem(task, name, alone if per_sample is None else bool(per_sample), tolerance, clock, denoise)
