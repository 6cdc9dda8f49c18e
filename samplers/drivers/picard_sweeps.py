"""The trajectory of a one-step table, all its steps at once: sweeps over windows, one a sample."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fewstep.samplers.drivers import across_processes
from fewstep.samplers.drivers.driven_run import Task
from fewstep.samplers.schedule.base import Nodes
from fewstep.samplers.schedule.outputs import convert
from fewstep.samplers.table.tableau import Tableau


@dataclass(frozen=True)
class StepMaps:
    """The maps x -> a x + b x0 + shift of a table: (N, 1, ...) or, of noise, (N, B, *shape); times and std of the steps."""

    times: NDArray[np.float64]
    a: Tensor
    b: Tensor
    shift: Tensor
    std: Tensor

    @classmethod
    def of(cls, tableau: Tableau, task: Task, shared: bool) -> StepMaps:
        x, n, W = task.x, tableau.nfe, tableau.W[:, 1]
        p, q = convert("sample", tableau.forms, Nodes(*(c[:-1] for c in tableau.nodes)))
        cells = W.shape[2:] or (1,) * (x.ndim - 1)
        a, b = (w.reshape(n, 1, *cells) for w in (W[:, 0] + W[:, 1] + p * W[:, 2], q * W[:, 2]))
        shift = torch.zeros((), dtype=x.dtype, device=x.device).expand(n, *x.shape)
        if tableau.stochastic or tableau.constant:
            weights = _beside(W[:, 3:].reshape(n, -1, 1, *cells), x)
            shift = torch.zeros(n, *x.shape, dtype=x.dtype, device=x.device)
            for k in range(n):
                for draw in tableau.draws(k):
                    shift[k] += weights[k, draw.slot] * task.noise(draw, x)
                if tableau.constant:
                    shift[k] += weights[k, -1]
            shift = across_processes.same(shift) if shared else shift
        return cls(tableau.times, _beside(a, x), _beside(b, x), shift, _beside(_deviations(tableau.nodes), x))


def _beside(values: NDArray[np.float64], x: Tensor) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, np.float64)).to(x.device, x.dtype)


def _deviations(nodes: Nodes) -> NDArray[np.float64]:
    """Posterior deviation of every step; where it is 0, that of the step before."""
    h = np.maximum(np.diff(nodes.lam), 0)
    std = nodes.sigma[1:] * np.sqrt(-np.expm1(-2 * h))
    known = np.maximum.accumulate(np.where(std > 0, np.arange(len(std)), -1))
    return np.asarray(np.where(known >= 0, std[np.maximum(known, 0)], 1.0))


class Sweeps:
    """The trajectory X (N + 2, B, *shape), whose last row catches what lies beyond the end, and what was spent.

    front: (B,) steps done. reach: (B,) last entry of X that was computed; further ones count as equal to it.
    """

    def __init__(self, task: Task, chain: StepMaps, window: int, tolerance: float, shared: bool):
        self.task, self.chain, self.window, self.shared = task, chain, window, shared
        self.slack, self.steps, batch = tolerance * chain.std, len(chain.std), task.x.shape[0]
        self.X = task.x.new_zeros(self.steps + 2, *task.x.shape)
        self.X[0] = across_processes.same(task.x) if shared else task.x
        self.every = np.arange(batch)
        self.front, self.reach = np.zeros(batch, np.intp), np.zeros(batch, np.intp)
        self.sweeps = self.calls = self.spent = 0

    def done(self) -> int:
        """Steps that every sample has done."""
        return int(self.front.min())

    def latest(self) -> Tensor:
        """The newest state of every sample."""
        return self.X[self.reach, self.every]

    def sweep(self) -> None:
        """One Picard iteration of every sample's window; the fronts move on by at least one step."""
        chain, n, width = self.chain, self.steps, min(self.window, self.steps - self.done())
        slots = self.front + np.arange(width)[:, None]  # (w, B)
        rows, inside = np.minimum(slots, n - 1), slots < n
        x, old = (self.X[np.minimum(at, self.reach), self.every] for at in (slots, slots + 1))
        evaluate = self._together if self.task.denoiser.vector_time else self._in_turn
        times = chain.times[rows]
        x0 = across_processes.in_parts(evaluate, x, times) if self.shared else evaluate(x, times)
        new = chain.a[rows, 0] * x + chain.b[rows, 0] * x0 + chain.shift[rows, self.every]
        new[1:] += (new - old).cumsum(0)[:-1]
        moved = (new - old).flatten(2).square().mean(2).sqrt() if new.ndim > 2 else (new - old).abs()
        calm = (moved <= self.slack[rows]) & torch.from_numpy(inside).to(x.device)
        steps = 1 + calm.long().cumprod(0).sum(0)
        done = (across_processes.same(steps) if self.shared else steps).cpu().numpy()
        self.X[np.where(inside, slots + 1, n + 1), self.every] = new
        self.reach = np.minimum(np.maximum(self.reach, self.front + width), n)
        self.front = np.minimum(self.front + np.minimum(done, width), n)
        self.sweeps += 1
        self.spent += width
        self._tell()

    def _together(self, x: Tensor, times: NDArray[np.float64]) -> Tensor:
        """x0 at x (w, B, ...), every entry at its own time, in one call."""
        self.calls += 1
        return self.task.predict("x0", x.flatten(0, 1), times.ravel()).view_as(x)

    def _in_turn(self, x: Tensor, times: NDArray[np.float64]) -> Tensor:
        """The same in one call a time, of the whole batch: what a network takes that knows one time and its own batch."""
        x0 = torch.empty_like(x)
        for t in np.unique(times):
            at = times == t
            self.calls += 1
            found = self.task.predict("x0", x[at.argmax(0), self.every], float(t))
            slot, b = np.nonzero(at)
            x0[slot, b] = found[b]
        return x0

    def _tell(self) -> None:
        """Show the last step that all have done; go back to it where a hook moved it."""
        k, chain = self.done(), self.chain
        x = self.X[k].clone()

        def x0() -> Tensor:
            return (x - chain.a[k - 1] * self.X[k - 1] - chain.shift[k - 1]) / chain.b[k - 1]

        seen = self.task.tell(k - 1, float(chain.times[k]), x, self.spent, x0)
        if seen is not x:
            self.X[k], self.front = seen, np.full_like(self.front, k)
