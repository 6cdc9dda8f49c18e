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

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import exp, log
from typing import Any

import numpy as np
import torch
from scipy.interpolate import CubicSpline

from fewstep.samplers.artefact.corrections import boundaries
from fewstep.samplers.building.compiling import build
from fewstep.samplers.building.references import DPM_V3
from fewstep.samplers.learned.methods.closed_form import RIDGE
from fewstep.samplers.learned.problem.clock import FAINTEST
from fewstep.samplers.learned.problem.problem import Part, Problem
from fewstep.samplers.learned.problem.teacher import Teacher
from fewstep.samplers.learned.tasks.learner_entry import method
from fewstep.samplers.learned.tasks.task import Task, enough
from fewstep.samplers.run.denoiser import clock as time_dtype
from fewstep.samplers.schedule.base import Array, Nodes
from fewstep.samplers.schedule.outputs import convert
from fewstep.samplers.table.statistics import Statistics
from fewstep.samplers.table.tableau import Tableau

Tensor = torch.Tensor
STEP = {torch.float64: 1e-4}  # of differences, else:
COARSE = 5e-3
GROUPS = ("element", "channel", "all")


class Field:
    """G(y, lam) of a part and its derivatives; `spent` counts network evaluations, a derivative as two.

    low, high: ends of lam; differences stay within.
    """

    def __init__(self, part: Part, low: float, high: float):
        self.part, self.low, self.high, self.spent = part, low, high, 0
        self.h = STEP.get(part.x_T.dtype, COARSE)

    def _place(self, lam: float) -> Array:
        """(alpha, tau, P, Q) with G = P y + Q output."""
        schedule = self.part.denoiser.schedule
        t = float(schedule.t_of_lam(lam))
        nodes = schedule.nodes(np.array([t]))
        p, q = convert(self.part.denoiser.prediction, ["eps"], Nodes(*nodes))
        alpha = float(nodes.alpha[0])
        return np.array([alpha, float(schedule.model_time(t)), exp(-lam) * p[0] * alpha, exp(-lam) * q[0]])

    def _slopes(self, lam: float) -> Array:
        """Derivatives of `_place`."""
        h = STEP[torch.float64]
        ahead, behind = min(lam + h, self.high), max(lam - h, self.low)
        return np.asarray((self._place(ahead) - self._place(behind)) / (ahead - behind))

    def _call(self, x: Tensor, tau: Any) -> Tensor:
        self.spent += len(x)
        if not isinstance(tau, Tensor):
            tau = torch.tensor(tau, dtype=time_dtype(x.dtype), device=x.device)
        return self.part.denoiser.call(x, tau)

    def value(self, y: Tensor, lam: float) -> Tensor:
        """G, in y's shape and dtype."""
        alpha, tau, P, Q = map(float, self._place(lam))
        return P * y + Q * self._call(alpha * y, tau).to(y.dtype)

    def forward(self, y: Tensor, lam: float, dy: Tensor, dlam: float) -> Tensor:
        """The derivative of G along (dy, dlam), by forward-mode differentiation of the network."""
        (alpha, tau, P, Q), (dalpha, dtau, dP, dQ) = self._place(lam), self._slopes(lam) * dlam
        clock = torch.tensor(tau, dtype=time_dtype(y.dtype), device=y.device)
        along = (alpha * dy + dalpha * y, torch.full_like(clock, dtau))
        output, turned, *_ = torch.func.jvp(self._call, (alpha * y, clock), along)
        self.spent += len(y)
        return (dP * y + P * dy + dQ * output + Q * turned).to(y.dtype)

    def difference(self, y: Tensor, lam: float, dy: Tensor, dlam: float) -> Tensor:
        """The same by a difference, central but at the ends of lam; the step is a share of the noisy sample's size."""
        alpha = float(self._place(lam)[0])
        size = (alpha**2 + (alpha * exp(-lam)) ** 2) ** 0.5 / alpha
        h = self.h * min(size / max(float(dy.square().mean().sqrt()), 1e-30), 1 / max(abs(dlam), 1e-30))
        ahead, behind = (float(np.clip(end, self.low, self.high)) for end in (lam + h * dlam, lam - h * dlam))
        a, b = ((ahead - lam) / dlam, (lam - behind) / dlam) if dlam else (h, h)
        return (self.value(y + a * dy, ahead) - self.value(y - b * dy, behind)) / (a + b)


Derivative = Callable[[Field, Tensor, float, Tensor, float], Tensor]


def _derivative(wanted: str, field: Field, y: Tensor, lam: float) -> Derivative:
    """Forward mode where the network has it and it tells the truth, else differences."""
    if wanted == "difference":
        return Field.difference
    along = field.value(y, lam).neg()
    try:
        exact, rough = (of(field, y, lam, along, 1.0) for of in (Field.forward, Field.difference))
        agree = float((exact - rough).norm()) <= 0.1 * float(rough.norm())
    except (RuntimeError, NotImplementedError, TypeError) as error:
        if wanted == "jvp":
            raise ValueError(
                f'ems: the network has no forward-mode derivative ({error}); use derivative="auto"'
            ) from error
        agree = False
    if not agree and wanted == "jvp":
        raise ValueError('ems: the network\'s forward-mode derivative is not that of its values; use derivative="auto"')
    return Field.forward if agree else Field.difference


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
    if isinstance(nodes, bool) or not isinstance(nodes, int) or nodes < 4:
        raise ValueError(f"ems: `nodes` must be a whole number of at least 4, for cubic splines; got {nodes!r}")
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


@method("ems", learns=("coef",), reference=DPM_V3)
def ems(
    task: Task,
    start: Tableau,
    *,
    nodes: int = 64,
    per: str = "channel",
    samples: int = 64,
    order: int = 2,
    corrector: bool | int = True,
    derivative: str = "auto",
) -> Tableau:
    """DPM-Solver-v3 on the start's grid, with statistics measured on this model: one estimate serves every grid and nfe.

    Args:
        task: Task. start: its step boundaries are kept, its solver is not. nodes, per, derivative: of `estimate`. samples:
            how many training seeds are used. order, corrector: of dpm_solver_v3.

    Raises:
        ValueError: an option outside its range, fewer than 3 samples, a teacher with noise.

    Reference: DPM-Solver-v3: Improved Diffusion ODE Solver with Empirical Model Statistics; Zheng, Lu, Chen, Zhu; 2023;
    arXiv:2310.13268. Statistics as `estimate` measures them.
    """
    seeds = task.train[:samples]
    enough(3, seeds, "ems")
    times = boundaries(start)
    options: dict[str, Any] = {"order": order, "corrector": corrector}
    build("dpm_solver_v3", start.schedule, start.nfe, times, **options)  # refuses what is wrong before the first call
    key = ("ems", nodes, per, seeds, derivative)
    if key not in task.memo:
        task.memo[key] = estimate(task.teacher, task.problem.parts(seeds), nodes, per, derivative)
    table = build("dpm_solver_v3", start.schedule, start.nfe, times, statistics=task.memo[key], **options)
    task.offer(table)
    return table
