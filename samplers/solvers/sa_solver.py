"""SA-Solver: exponential Adams predictor and corrector for the reverse SDE, with the same noise in both.

For a step s -> t with tau constant on it (where noise begins or ends within the step, tau^2 is its mean over lam, and z
belongs to the noisy part), and outputs interpolated in lam through the nodes of a line,

    predict  x_t   = a x_s + sum_j b_j m_j + c z      nodes s and earlier ones
    correct  x_t^c = a x_s + sum_j b_j m_j + c z      nodes t, s and earlier ones, the same z.

A row holds (x_s + (c/a) z) in `carry`, so that the row at t can correct without drawing z again, and the next prediction
in `input`: one evaluation a step. The last state is a prediction.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import sqrt
from typing import Any, NamedTuple

import numpy as np

from fewstep.samplers.building import options as opt
from fewstep.samplers.building import references as ref
from fewstep.samplers.building.path import Path, Solution
from fewstep.samplers.building.solver_entry import solver
from fewstep.samplers.coefficients.weights import euler_weight, lagrange_row, linear, noise_weight
from fewstep.samplers.schedule.base import Node, NoiseSchedule
from fewstep.samplers.schedule.continuous import VPLinear
from fewstep.samplers.solvers.limiter import limited
from fewstep.samplers.solvers.multistep import orders, safe_form
from fewstep.samplers.solvers.sde_dpm import TAU_MOST
from fewstep.samplers.table.row import CARRY, INPUT, Row, Terms, noise

Level = Callable[[Node, Node], tuple[float, Node, Node]]  # tau of a step, and from where to where it has noise


def _level(schedule: NoiseSchedule, tau: Any, interval: Any, tau_at: str) -> Level:
    """tau as a function of the node, checked."""
    whole = opt.one_of("sa_solver", "tau_at", tau_at, ("step", "target")) == "target"
    if callable(tau):

        def given(s: Node, t: Node) -> tuple[float, Node, Node]:
            at = t.t if whole else s.t
            return opt.number("sa_solver", f"tau({at:.6g})", tau(at), TAU_MOST), s, t

        return given
    tau = opt.number("sa_solver", "tau", tau, TAU_MOST)
    if interval is None:
        return lambda s, t: (tau, s, t)
    ends = interval if isinstance(interval, Sequence) and not isinstance(interval, str) else ()
    low, high = (opt.number("sa_solver", "tau_interval", end, 1.0) for end in ends) if len(ends) == 2 else (1.0, 0.0)
    if low >= high:
        raise ValueError(
            f"sa_solver: `tau_interval` must be two times, 0 <= low < high <= 1, or None for all; got {interval!r}"
        )
    # the schedule's own time where that runs from 0 to 1, else the time of the linear VP process of equal lam
    clock = VPLinear() if schedule.kind == "ve" or schedule.t_max > 1 else schedule
    begin, end = float(clock.lam(high)), float(clock.lam(low))

    def level(s: Node, t: Node) -> tuple[float, Node, Node]:
        if whole:
            return tau if begin <= t.lam <= end else 0.0, s, t
        first, last = max(s.lam, begin), min(t.lam, end)
        if first >= last:
            return 0.0, s, t
        share = (last - first) / (t.lam - s.lam) if np.isfinite(t.lam - s.lam) else 1.0
        return tau * sqrt(share), s._replace(lam=first), t._replace(lam=last)

    return level


class _Adams(NamedTuple):
    """One step s -> t: the lines of its predictor and corrector."""

    path: Path
    form: str
    s: Node
    t: Node
    tau: float
    few_step: bool

    @property
    def a(self) -> float:
        return linear(self.form, self.s, self.t, self.tau)

    @property
    def c(self) -> float:
        return noise_weight(self.form, self.s, self.t, self.tau)

    @property
    def corrigible(self) -> bool:
        """Whether a corrector can follow: not at singular ends, nor where (nearly) all noise is drawn anew, a = 0."""
        return self.s.alpha > 0 and self.t.sigma > 0 and self.a > 1e-8 * linear(self.form, self.s, self.t)

    def line(self, start: Terms, outputs: Mapping[int, Node]) -> dict[Any, float]:
        """Terms of a start + sum_j b_j m_j, for outputs {register: node}."""
        out: dict[Any, float] = {register: self.a * v for register, v in start.items()}
        nodes = list(outputs.values())
        predicts = nodes[0] is self.s
        kind = (self.form, "lam", self.tau)
        weights = limited(self.path, self._weights, kind, self.t, nodes) if predicts else self._weights(self.t, nodes)
        for register, b in zip(outputs, weights, strict=False):  # a limited row reads two of them
            out[register] = out.get(register, 0.0) + b
        return out

    def _weights(self, t: Node, nodes: Sequence[Node]) -> list[float]:
        """Exact weights; with `few_step` the published slope weight alpha_t (1 + tau^2) h^2 / 2 of two outputs of x0."""
        s, tau = self.s, self.tau
        if not self.few_step or len(nodes) != 2 or self.form != "x0":
            return lagrange_row(self.path.schedule, self.form, "lam", s, t, nodes, tau)
        (other,) = (n for n in nodes if n is not s)
        slope = 0.5 * t.alpha * (1 + tau**2) * (t.lam - s.lam) ** 2 / (other.lam - s.lam)
        return [slope if n is other else euler_weight(self.form, s, t, tau) - slope for n in nodes]


def _calls(options: Mapping[str, Any]) -> int:
    return 1 + (options["pece"] is True)


@solver(
    "sa_solver", order=2, prediction="x0", stochastic=True, reference=ref.SA_SOLVER, calls=_calls,
    singular_ends="start end", aliases=("SASolverScheduler", "sasolver"),
)  # fmt: skip
def sa_solver(
    path: Path,
    *,
    predictor_order: int = 3,
    corrector_order: int = 4,
    tau: float | Callable[[float], float] = 1.0,
    tau_interval: Sequence[float] | None = (0.2, 0.8),
    tau_at: str = "step",
    form: str = "x0",
    few_step: bool = False,
    pece: bool = False,
    lower_order_final: bool | str = True,
) -> Solution:
    """SA-Solver, stochastic Adams. Weak order 2; without noise min(corrector_order, predictor_order + 1). 1 evaluation a step.

    predictor_order 1..4, corrector_order 1..4 (0: none): outputs of a line. tau: noise within `tau_interval`, 0 outside;
    or a function of the schedule's time, and then of all of it. tau_interval: times in 0..1 (schedules in sigma: the times
    of the linear VP process with the same log-SNR), None for the whole run. tau_at: "step", where noise begins or ends within
    a step its mean; "target", tau of a step's end for all of it, as public code has it. form: "x0" or "eps". few_step: the
    published weights of two outputs. pece: evaluate the corrected state too, 2 evaluations a step.
    """
    p = opt.whole("sa_solver", "predictor_order", predictor_order, 4)
    q = opt.whole("sa_solver", "corrector_order", corrector_order, 4, least=0)
    for option, value in {"few_step": few_step, "pece": pece}.items():
        opt.one_of("sa_solver", option, value, (True, False))
    if pece and not q:
        raise ValueError("sa_solver: `pece` evaluates the corrected state; got corrector_order=0, expected 1..4")
    form, level = opt.form("sa_solver", form), _level(path.schedule, tau, tau_interval, tau_at)
    rows, noisy = _rows(path, (p, q), form, level, few_step, lower_order_final)
    order = min(q, p + 1) if q else p
    if not noisy:
        return Solution(rows, order)
    return Solution(rows, min(order, 2), conserves="x0 eps" if form == "x0" else "x0")


def _rows(
    path: Path, most: tuple[int, int], form: str, level: Level, few_step: bool, taper: bool | str
) -> tuple[list[Row], bool]:
    """Rows, and whether there is noise; `most`: outputs of a predictor and of a corrector."""
    rows: list[Row] = []
    past: list[tuple[int, Node]] = []  # (row, node) of the outputs, newest first
    anchor: Terms = {INPUT: 1.0}
    noisy = False
    plan, usable = (orders(path, p, taper, form, "lam") for p in (most[0], 4))
    for k, (calls, s, t) in enumerate(path.steps()):
        if s.lam == t.lam:  # the second evaluation of a step in whose middle a run was resumed
            rows.append(Row(s, form, anchor))
            continue
        tau, begin, end = level(s, t) if t.sigma > 0 else (0.0, s, t)
        step = _Adams(path, safe_form(form, s), s, t, tau, few_step)
        past = [(len(rows), s), *past]
        now, c, z = len(rows), step.c, noise(begin, end)
        predicted = step.line(anchor, {now - at: node for at, node in past[: plan[k]]})
        corrects = most[1] > 0 and step.corrigible and (calls == 2 or k + 1 < len(path.groups))
        kept = {**anchor, z: c / step.a} if c and corrects else anchor
        rows.append(Row(s, step.form, {**predicted, z: c} if c else predicted, kept if corrects else None))
        noisy, anchor = noisy or c > 0, {INPUT: 1.0}
        if corrects:
            now, count = len(rows), min(most[1] - 1, usable[k])
            anchor = step.line({CARRY: 1.0}, {0: t, **{now - at: node for at, node in past[:count]}})
        if calls == 2:
            rows.append(Row(t, form, anchor))
            anchor = {INPUT: 1.0}
    return rows, noisy
