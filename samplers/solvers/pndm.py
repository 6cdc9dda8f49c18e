"""Pseudo-numerical methods: classical weights in the step index, DDIM as the transfer.

    T(x, e, s, t) = (alpha_t/alpha_s) x + (sigma_t - alpha_t sigma_s/alpha_s) e

with e a fixed combination of eps outputs. Because the weights ignore the spacing of the grid, every member is second
order at most on a grid that is not uniform in rho, whatever its nominal order; small error constants make up for it at
5 to 10 evaluations.
"""

from __future__ import annotations

from collections.abc import Mapping

from fewstep.samplers.building import options as opt
from fewstep.samplers.building import references as ref
from fewstep.samplers.building.path import Path, Solution
from fewstep.samplers.building.solver_entry import solver
from fewstep.samplers.coefficients.weights import euler_weight, linear
from fewstep.samplers.schedule.base import Node
from fewstep.samplers.solvers.limiter import too_long
from fewstep.samplers.solvers.multistep import safe_form
from fewstep.samplers.table.row import CARRY, INPUT, KEEP, Row

FEW = 24  # evaluations below which three steps of four calls leave too few for the rest

# Adams-Bashforth weights on equal steps, newest first
ADAMS: Mapping[int, tuple[float, ...]] = {
    1: (1.0,),
    2: (3 / 2, -1 / 2),
    3: (23 / 12, -16 / 12, 5 / 12),
    4: (55 / 24, -59 / 24, 37 / 24, -9 / 24),
}


def transfer(
    s: Node,
    t: Node,
    average: Mapping[int, float],
    anchor: str,
    *,
    at: Node | None = None,
    keep: bool = False,
    form: str = "eps",
) -> Row:
    """Row of T(anchor, sum_j average_j m_{k-j}, s, t) after the call at node `at` (default s); `keep` holds the anchor."""
    form = safe_form(form, s)
    b = euler_weight(form, s, t)
    carry = None if not keep else (KEEP if anchor == CARRY else {INPUT: 1.0})
    return Row(at or s, form, {anchor: linear(form, s, t), **{j: b * w for j, w in average.items()}}, carry)


def adams_row(s: Node, t: Node, order: int, past: list[int], rows: list[Row], form: str = "eps") -> None:
    """Append the Adams-Bashforth row s -> t; `past` lists the rows whose outputs count, oldest first, and grows by one."""
    k = len(rows)
    past.append(k)
    weights = zip(past[::-1], ADAMS[min(order, len(past))], strict=False)
    rows.append(transfer(s, t, {k - i: w for i, w in weights}, INPUT, form=form))
    if s.alpha == 0 and form == "eps":  # its output was read as x0, which no eps history can hold
        past.clear()


def start_form(path: Path, s: Node, t: Node, past: list[int], rows: list[Row]) -> str:
    """The form of a step of several calls whose first row comes next: eps, and x0 where the step is too long for eps.

    From alpha_s near 0 the difference of two eps is carried on alpha_t / alpha_s times: 2,000 times on a cosine table.
    `past` lists the rows whose eps count later: that first row too, or none where this step is on x0.
    """
    form = safe_form("x0" if too_long(path, s, t) else "eps", s)
    past[:] = [*past, len(rows)] if form == "eps" else []
    return form


def prk_plan(nfe: int, calls: int, reserved: bool) -> tuple[int, ...]:
    """Three pseudo Runge-Kutta steps of four calls where as many calls are left for multistep ones; else these only."""
    starts = 3 if nfe >= FEW else 0
    return (4,) * starts + (1,) * (nfe - 4 * starts)


def plms_plan(nfe: int, calls: int, reserved: bool) -> tuple[int, ...]:
    """One improved-Euler step of two calls, then multistep ones."""
    return (2, *(1,) * (nfe - 2)) if nfe > 2 else (1,) * nfe


@solver(
    "pndm",
    order=2,
    prediction="eps",
    reference=ref.PNDM,
    calls=4,
    plan=prk_plan,
    singular_ends="start end",
    aliases=("F-PNDM",),
)
def pndm(path: Path) -> Solution:
    """PNDM: three pseudo Runge-Kutta steps (4 evaluations each), then PLMS of order 4. Order 2; `ipndm` below 24 evaluations.

    e = (e1 + 2 e2 + 2 e3 + e4)/6 with e2, e3 at the middle in t and e4 at the end; then
    e = (55 e_k - 59 e_{k-1} + 37 e_{k-2} - 9 e_{k-3})/24.
    """
    rows: list[Row] = []
    past: list[int] = []
    for calls, s, t in path.steps():
        if calls != 4:
            adams_row(s, t, 4, past, rows)
            continue
        mid, form = path.between(s, t, 0.5, "t"), start_form(path, s, t, past, rows)
        rows += [
            transfer(s, mid, {0: 1.0}, INPUT, keep=True, form=form),
            transfer(s, mid, {0: 1.0}, CARRY, at=mid, keep=True, form=form),
            transfer(s, t, {0: 1.0}, CARRY, at=mid, keep=True, form=form),
            transfer(s, t, {3: 1 / 6, 2: 1 / 3, 1: 1 / 3, 0: 1 / 6}, CARRY, at=t, form=form),
        ]
    return Solution(rows, 2)


@solver(
    "plms",
    order=2,
    prediction="eps",
    reference=ref.PNDM,
    calls=2,
    plan=plms_plan,
    singular_ends="start",
    aliases=("PNDMScheduler", "S-PNDM"),
)
def plms(path: Path, *, order: int = 4) -> Solution:
    """PLMS with an improved-Euler start (2 evaluations in the first step), as Stable Diffusion's PNDM runs it. Order 2."""
    opt.whole("plms", "order", order, 4)
    rows: list[Row] = []
    past: list[int] = []
    for calls, s, t in path.steps():
        if calls != 2:
            adams_row(s, t, order, past, rows)
            continue
        form = start_form(path, s, t, past, rows)
        rows += [
            transfer(s, t, {0: 1.0}, INPUT, keep=True, form=form),
            transfer(s, t, {0: 0.5, 1: 0.5}, CARRY, at=t, form=form),
        ]
    return Solution(rows, min(order, 2))


@solver("ipndm", order=2, prediction="eps", reference=ref.DEIS, aliases=("IPNDMScheduler",))
def ipndm(path: Path, *, order: int = 4, form: str = "eps") -> Solution:
    """Improved PNDM: Adams-Bashforth weights of equal steps from the first step on, no Runge-Kutta start. Order 2.

    Nominal orders 1-4: 1; 3/2, -1/2; 23/12, -16/12, 5/12; 55/24, -59/24, 37/24, -9/24. 1 evaluation a step.
    form "flow": on velocities in t, as interfaces combine them on flow models.
    """
    opt.whole("ipndm", "order", order, 4)
    form = opt.one_of("ipndm", "form", form, ("eps", "flow"))
    rows: list[Row] = []
    past: list[int] = []
    for _, s, t in path.steps():
        adams_row(s, t, order, past, rows, form)
    return Solution(rows, min(order, 2))
