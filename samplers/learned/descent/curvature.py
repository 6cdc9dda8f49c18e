"""How each knob moves the result, to first order, from differences: J_s of every sample, one run of the sampler a knob,
from the row that it turns on.

    r_s = x0_s(knobs) - x0_s(teacher),     A = sum_s w_s J_s' J_s,     g = sum_s w_s J_s' r_s,     w_s = |r_s|^-power

`newton` solves with A. Descents take it as their measure of length: knobs move results by amounts that differ by orders of
magnitude and pull against each other, and a step that is even in the knobs is lost in that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from fewstep.samplers.learned.parameters.knobs import Knobs
from fewstep.samplers.learned.playing.many_tables import drawn_together
from fewstep.samplers.learned.problem.problem import Part
from fewstep.samplers.learned.tasks.learner_task import Task
from fewstep.samplers.schedule.base import Array
from fewstep.samplers.table.tableau import Tableau

STEP = {torch.float64: 1e-4}  # of differences, in units of the knobs, else:
COARSE = 3e-3
CHUNK = 2**24  # numbers of J in memory
FAINT = 3e-3  # of the largest effect: directions below it are not stretched further


@dataclass(eq=False)
class Fit:
    """Training samples, and the knobs turned for them as one row of numbers (n,)."""

    task: Task
    knobs: Knobs
    parts: Sequence[Part]
    power: float
    first: Array = field(default_factory=lambda: np.zeros(0))  # |r_s|^2 at the start
    least: float = 0.0  # squares below count as this

    @staticmethod
    def on(task: Task, knobs: Knobs, seeds: Sequence[int], power: float) -> Fit:
        """On these seeds, in parts whose J fits into memory, with `least` from the knobs as they are."""
        task.teacher.prepare(task.problem.parts(seeds))
        size = max(1, CHUNK // (knobs.size * int(np.prod(task.problem.shape))))
        fit = Fit(task, knobs, task.problem.parts(seeds, size), power)
        fit.first = fit.squares(knobs.start)
        fit.least = 1e-4 * float(fit.first.mean()) + 1e-300
        return fit

    def table(self, values: Array) -> Tableau:
        """The table with the knobs at `values`."""
        pieces = torch.from_numpy(values).split([len(v) for v in self.knobs.parameters.values()])
        self.knobs.set(dict(zip(self.knobs.parameters, pieces, strict=True)))
        return self.knobs.table()

    def missing(self, tables: Sequence[Tableau], part: Part) -> list[Tensor]:
        """r of each table, (B, numbers of a sample) float64."""
        truth = self.task.teacher.end(part).double()
        drawn = drawn_together(self.task.problem, tables, part.seeds)
        return [(x0.double() - truth.to(x0.device)).flatten(1) for x0 in drawn]

    def squares(self, table: Tableau) -> Array:
        """|r_s|^2 of all samples."""
        return torch.cat([self.missing([table], part)[0].square().sum(1).cpu() for part in self.parts]).numpy()

    def equations(self, values: Array, here: Tableau) -> tuple[Array, Array]:
        """A (n, n) and g (n,), in one pass over the samples; knobs that turn nothing have zeros."""
        n, step = len(values), STEP.get(self.parts[0].x_T.dtype, COARSE)
        tables = [self.table(values + step * unit) for unit in np.eye(n)]
        turned = [i for i, table in enumerate(tables) if differ(table, here)]
        A, g = np.zeros((n, n)), np.zeros(n)
        for part in self.parts if turned else ():
            r, *others = self.missing([here, *(tables[i] for i in turned)], part)
            J = torch.stack(others).sub_(r).div_(step)
            w = (r.square().sum(1) + self.least) ** (-self.power / 2)
            A[np.ix_(turned, turned)] += torch.einsum("isd,jsd,s->ij", J, J, w).cpu().numpy()
            g[turned] += torch.einsum("isd,sd,s->i", J, r, w).cpu().numpy()
        return A, g


def differ(a: Tableau, b: Tableau) -> bool:
    """Whether two tables ask or answer otherwise; some knobs turn nothing, such as the first network time."""
    return not (np.array_equal(a.W, b.W) and np.array_equal(a.model_times, b.model_times))


def even(task: Task, knobs: Knobs, samples: int) -> None:
    """Mix the knobs so that a unit of each moves the result by as much as its error is, and none along with another.

        knobs = B z,    B = V (w + FAINT max w)^(-1/2),    sum_s J_s' J_s / |r_s| = sum_s |r_s| V diag(w) V'

    Costs network evaluations, a sample and knob, for the rows after the one that it turns: with all weights free, some two
    fifths of (knobs + 1) x nfe. Left out where that is not finite, or nothing has an effect, and with noise: a Brownian
    path has no derivative by the times at which it is looked at.
    """
    if knobs.start.stochastic:
        return
    fit = Fit.on(task, knobs, task.train[:samples], 1.0)
    A, _ = fit.equations(np.zeros(knobs.size), knobs.start)
    fit.table(np.zeros(knobs.size))
    if not np.isfinite(A).all() or not A.any():
        return
    w, V = np.linalg.eigh(A / np.sqrt(fit.first + fit.least).sum())
    knobs.mix(V / np.sqrt(np.maximum(w, 0.0) + FAINT * w[-1]))
