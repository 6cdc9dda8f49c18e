"""Empirical model statistics: the l, s and b of DPM-Solver-v3, measured along the teacher's runs.

With y = x / alpha and G(y, lam) = e^-lam eps the probability flow is dy/dlam = -G, N / alpha = f = G - l y, and along it

    f' = G' + l G - l' y,       G' = dG/dlam - (dG/dy) G.

Of all linear parts l leaves least of the Jacobian of N in mean square, and s and b make f' = s f + b in mean square:

    l = E diag(dG/dy),     s = Cov(f, f') / (Var(f) + ridge E G^2),     b = E f' - s E f,

where the ridge is what bfloat16 leaves uncertain of the network's output: an f that drowns in it has no s. There is one of
each for every element, channel or sample, at every node of a lattice in lam. The diagonal is estimated with one vector of
random signs v a sample, v * (dG/dy v), the same at all nodes, so that l is as smooth as the network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewstep.checks import whole
from fewstep.lazy import optional
from fewstep.samplers.grids.coordinate import FAINTEST
from fewstep.samplers.learned.fitting.least_squares import RIDGE
from fewstep.samplers.learned.fitting.network_field import Derivative, Field, _derivative
from fewstep.samplers.learned.problem.problem import Part, Problem
from fewstep.samplers.learned.problem.teacher import Teacher
from fewstep.samplers.schedule.base import Array
from fewstep.samplers.table.statistics import Statistics

with optional("learning"):
    from scipy.interpolate import CubicSpline

GROUPS = ("element", "channel", "all")


@dataclass
class _Sums:
    """Over samples, of one node: diag(dG/dy) and the moments of (G, y, G'), float64, reduced to the groups."""

    diagonal: Array
    first: Array  # (3, *cells)
    second: Array  # (3, 3, *cells)
    count: int

    def __add__(self, other: _Sums) -> _Sums:
        values = ("diagonal", "first", "second", "count")
        return _Sums(*(getattr(self, name) + getattr(other, name) for name in values))


def _sums(field: Field, derivative: Derivative, y: Tensor, lam: float, signs: Tensor, per: str) -> _Sums:
    """Of one part at one node."""
    G = field.value(y, lam)
    diagonal = signs * derivative(field, y, lam, signs, 0.0)
    total = derivative(field, y, lam, -G, 1.0)
    parts = torch.stack([v.double() for v in (G, y, total)])

    def reduced(v: Tensor) -> Array:
        """(B, *shape) -> (*cells): sums over samples, means over the elements of a group."""
        v = v.double().sum(0)
        if per == "all":
            return np.asarray(v.mean().cpu())
        axes = tuple(range(1, v.ndim)) if per == "channel" else ()
        return np.asarray((v.mean(axes, keepdim=True) if axes else v).cpu())

    second = np.stack([np.stack([reduced(a * b) for b in parts]) for a in parts])
    return _Sums(reduced(diagonal), np.stack([reduced(v) for v in parts]), second, len(y))


def _signs(part: Part) -> Tensor:
    """(B, *shape) of random signs, a function of each sample's seed."""
    shape = part.x_T.shape[1:]
    drawn = [np.random.default_rng([seed, 1]).integers(0, 2, shape) * 2.0 - 1.0 for seed in part.seeds]
    return torch.from_numpy(np.stack(drawn)).to(part.x_T)


def _ends(problem: Problem) -> tuple[float, float]:
    """lam where the statistics begin and end: those of the schedule, as far as they are finite."""
    schedule = problem.schedule
    first, last = problem.t_start, problem.t_end
    low = float(schedule.lam(first)) if schedule.alpha(first) > 0 else log(FAINTEST)
    return low, float(schedule.lam(last if schedule.sigma(last) > 0 else schedule.t_min))


def estimate(
    teacher: Teacher, parts: Sequence[Part], nodes: int = 64, per: str = "channel", derivative: str = "auto"
) -> Statistics:
    """The statistics of a model, from states of the teacher's runs.

    Args:
        teacher: Teacher, which follows the flow. parts: of its problem, the samples. nodes: of the lattice, uniform in lam.
        per: "element", "channel" (an average over its elements) or "all": what has l, s and b of its own.
        derivative: "jvp" (forward mode), "difference", or "auto", which tries the first against the second.

    Returns:
        Statistics for `dpm_solver_v3`, of shape (*shape), (C, 1, ...) or (). Four to five network evaluations a node and
        sample, counted in the problem's `spent`.

    Raises:
        ValueError: an option outside its range, or derivatives that the network does not have.

    Reference: DPM-Solver-v3: Improved Diffusion ODE Solver with Empirical Model Statistics; Zheng, Lu, Chen, Zhu; 2023;
    arXiv:2310.13268.
    """
    whole("nodes", nodes, 4, hint="Splines need four")
    if per not in GROUPS or derivative not in ("auto", "jvp", "difference"):
        raise ValueError(
            f"ems: `per` is one of {', '.join(GROUPS)}, `derivative` one of auto, jvp, difference; got {per!r}, "
            f"{derivative!r}"
        )
    problem = teacher.problem
    low, high = _ends(problem)
    lattice = np.linspace(low, high, nodes)
    sums: list[_Sums | None] = [None] * nodes
    for part in parts:
        field, path, signs = Field(part, low, high), teacher.path(part), _signs(part)
        how: Derivative = Field.difference
        for j, lam in enumerate(map(float, lattice)):
            t = float(problem.schedule.t_of_lam(lam))
            with torch.no_grad():
                y = path.at(t) / float(problem.schedule.alpha(t))
                how = _derivative(derivative, field, y, lam) if j == 0 else how
                found = _sums(field, how, y, lam, signs, per)
            before = sums[j]
            sums[j] = found if before is None else before + found
        problem.spent += field.spent
    about = {"nodes": nodes, "per": per, "samples": sum(len(part.seeds) for part in parts), "teacher": teacher.key}
    return _fitted(lattice, [s for s in sums if s is not None], about)


def _fitted(lam: Array, sums: Sequence[_Sums], about: dict[str, Any]) -> Statistics:
    """l, then s and b from the moments of f and f' as sums of G, y and G'."""
    l = np.stack([s.diagonal / s.count for s in sums])  # noqa: E741
    slope = np.asarray(CubicSpline(lam, l)(lam, 1))
    mean, square = (np.stack([getattr(s, name) / s.count for s in sums]) for name in ("first", "second"))
    one, zero = np.ones_like(l), np.zeros_like(l)
    f, change = np.stack([one, -l, zero], 1), np.stack([l, -slope, one], 1)

    def product(a: Array, b: Array) -> Array:
        return np.asarray(np.einsum("ki...,kij...,kj...->k...", a, square, b))

    of_f, of_change = ((v * mean).sum(1) for v in (f, change))
    variance = np.maximum(product(f, f) - of_f**2, 0.0)
    covariance = product(f, change) - of_f * of_change
    s = covariance / (variance + RIDGE * square[:, 0, 0])
    return Statistics(lam, l, s, of_change - s * of_f, about)
