"""Multistep solvers: one network call a step, history of earlier outputs.

Every entry is the Lagrange row of `weights.py`,

    x_t = (S_t / S_s) x_s + sum_j b_j m_{k-j},     b_j = S_t int l_j(g) dG,

for one choice of form (x0, eps or flow velocity) and polynomial variable g (lam, t or G). The order builds up 1, 2, 3 ...
at the start and may taper at the end; a step into sigma = 0 with g = lam, or out of alpha = 0, is first order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from fewstep.samplers.building import options as opt
from fewstep.samplers.building import references as ref
from fewstep.samplers.building.path import Path, Solution
from fewstep.samplers.building.solver_entry import solver
from fewstep.samplers.coefficients.weights import lagrange_row, linear, noise_weight
from fewstep.samplers.schedule.base import Node
from fewstep.samplers.solvers.limiter import limited
from fewstep.samplers.solvers.published_weights import Correction, VPClock, half_curvature, misplaced_adams
from fewstep.samplers.solvers.starting import Start, asks_again, total
from fewstep.samplers.table.row import Row, noise


def orders(path: Path, order: int, taper: bool | str, form: str, var: str) -> list[int]:
    """Order of each step: built up from usable history, lowered near the end.

    taper: True lowers the last steps to ..., 2, 1 in runs of fewer than 15 steps, "zero" also in all runs that end in
    sigma = 0, "always" in all, False never.
    Steps into sigma = 0 are first order when the polynomial is in lam, which is infinite there, but second order with a
    limiter, which follows it a finite way. A first output at alpha = 0 is used once and then forgotten, except by
    velocities: it has no eps, and no finite lam.
    """
    opt.taper(taper)
    n, out, usable = len(path.groups), [], 0
    lowered = taper == "always" or (taper and n < 15) or (taper == "zero" and path.nodes[-1].sigma == 0)
    for k in range(n):
        usable = 1 if k and path.nodes[k - 1].alpha == 0 and form != "flow" else usable + 1
        p = min(order, usable)
        if lowered:
            p = min(p, n - k)
        if path.nodes[k + 1].sigma == 0 and var == "lam":
            p = min(order, usable, 2) if path.limiter and taper != "always" else 1
        out.append(p)
    return out


SMOOTH = {"flow": "start end", "eps": "end", "x0": ""}  # in t and in the form's own variable


def safe_form(form: str, s: Node) -> str:
    """The form itself, or x0 where eps is undefined (alpha = 0)."""
    return "x0" if form == "eps" and s.alpha == 0 else form


def multistep(
    path: Path,
    *,
    form: str,
    order: int,
    var: str,
    taper: bool | str,
    public: Correction | None = None,
    corrected: bool = True,
    tau: float = 0.0,
) -> Solution:
    """Rows of the Lagrange formula, with noise where tau > 0; `public` may replace weights by a published variant's.

    corrected: whether the first step of orders above two is mended by the second call, see solvers/starting.py.
    """
    kinds = [safe_form(form, s) for s in path.nodes]
    start, rows = Start(path, kinds, order if corrected and not tau else 0, recalls=(form, var) == ("eps", "t")), []
    for k, (p, s, t) in enumerate(
        zip(orders(path, order, taper, form, var), path.nodes[:-1], path.nodes[1:], strict=True)
    ):
        kind = "x0" if tau and t.sigma == 0 else kinds[k]
        past, outputs = start.past(k, p if kind == form else 1)  # outputs of another form have no history

        def row(u: Node, past: Sequence[Node], kind: str = kind) -> list[float]:
            published = public(path, past, u, tau) if public else None
            return published or lagrange_row(path.schedule, kind, var, past[0], u, past, tau)

        weights = limited(path, row, (kind, var, tau), t, past)
        moved = zip(weights, outputs, strict=False)  # fewer weights where the step is limited
        terms = total([(linear(kind, s, t, tau), start.state(k)), *moved])
        if tau and t.sigma > 0:
            terms[noise(s, t)] = noise_weight(kind, s, t, tau)
        if k == 1:
            rows += start.first_answer()
        rows.append(Row(s, kind, terms, start.keeps(k)))
    if not tau:
        return Solution(rows, order, smooth=SMOOTH[form] if var != "lam" else "")
    return Solution(rows, min(order, 2), conserves="x0 eps" if form == "x0" else "x0")


@solver(
    "euler",
    order=1,
    prediction="x0",
    aliases=("EulerDiscreteScheduler", "FlowMatchEulerDiscreteScheduler"),
    reference=ref.EDM,
)
def euler(path: Path) -> Solution:
    """Euler on dy/drho = eps, y = x/alpha (for flows on dx/dt = v): the same row as `ddim`. Order 1."""
    return multistep(path, form="x0", order=1, var="lam", taper=False)


def _variant(name: str, variant: str) -> Correction | None:
    public = opt.one_of(name, "variant", variant, ("exact", "public")) == "public"
    return half_curvature("x0", midpoint=True) if public else None


@solver(
    "dpmpp_2m",
    order=2,
    prediction="x0",
    reference=ref.DPMPP,
    aliases=("DPM++ 2M", "DPMSolverMultistepScheduler", "mrs_2"),
)
def dpmpp_2m(path: Path, *, variant: str = "public", lower_order_final: bool | str = True) -> Solution:
    """DPM-Solver++(2M): x0 extrapolated linearly in lam. Order 2, 1 evaluation a step.

    x_t = (sigma_t/sigma_s) x_s - alpha_t (e^-h - 1) [(1 + 1/2r) m0 - m1/2r],  r = h_prev / h      (variant "public")
    x_t = (sigma_t/sigma_s) x_s + alpha_t h [phi_1(-h) m0 + phi_2(-h) (m0 - m1)/r]                 (variant "exact")
    """
    return multistep(path, form="x0", order=2, var="lam", taper=lower_order_final, public=_variant("dpmpp_2m", variant))


@solver("dpmpp_3m", order=3, prediction="x0", reference=ref.DPMPP, aliases=("DPM++ 3M",))
def dpmpp_3m(path: Path, *, variant: str = "exact", lower_order_final: bool | str = True) -> Solution:
    """DPM-Solver++(3M): x0 extrapolated quadratically in lam. Order 3, 1 evaluation a step.

    x_t = (sigma_t/sigma_s) x_s + alpha_t h [phi_1 m0 + phi_2 D1 + phi_3 D2](-h),  D2 = 2 (d0 - d1)/(r0 + r1).
    Public code uses half of D2, which is second order: variant="public" reproduces it.
    """
    public = _variant("dpmpp_3m", variant)
    found = multistep(
        path, form="x0", order=3, var="lam", taper=lower_order_final, public=public, corrected=public is None
    )
    return replace(found, order=2) if public else found


@solver("deis", order=3, prediction="eps", again=asks_again, reference=ref.DEIS, aliases=("deis_tab", "tab3"))
def deis(
    path: Path,
    *,
    order: int = 3,
    clock: str | None = None,
    form: str = "eps",
    lower_order_final: bool | str = False,
) -> Solution:
    """DEIS tAB: eps extrapolated by a polynomial in t of degree order - 1 (tAB0..tAB3). Orders 1-4, default 3.

    x_t = (alpha_t/alpha_s) x_s + alpha_t sum_j eps_j int l_j(t) drho. clock: t of the schedule ("own"), or of a linear VP
    process of that level ("vp", the default where t is sigma). form "flow": velocities in place of eps, as interfaces combine
    them on flow models.
    """
    form, public = opt.one_of("deis", "form", form, ("eps", "flow")), None
    clock = opt.one_of("deis", "clock", clock, ("own", "vp", None)) or (
        "vp" if path.schedule.default_grid == "karras" else "own"
    )
    if clock == "vp":
        public = VPClock(form).weights
    order = opt.whole("deis", "order", order, 4)
    return multistep(path, form=form, order=order, var="t", taper=lower_order_final, public=public)


@solver("deis_rho_ab", order=3, prediction="eps", again=asks_again, reference=ref.DEIS)
def deis_rho_ab(path: Path, *, order: int = 3, lower_order_final: bool | str = False) -> Solution:
    """DEIS rho-AB: variable-step Adams-Bashforth on dy/drho = eps, y = x/alpha. Orders 1-4, default 3."""
    return multistep(
        path, form="eps", order=opt.whole("deis_rho_ab", "order", order, 4), var="G", taper=lower_order_final
    )


@solver(
    "deis_log_rho",
    order=3,
    prediction="eps",
    again=asks_again,
    reference=ref.DEIS,
    aliases=("DEISMultistepScheduler", "dpm_multistep"),
)
def deis_log_rho(
    path: Path, *, order: int = 3, variant: str = "exact", lower_order_final: bool | str = True
) -> Solution:
    """DEIS in log rho: eps extrapolated in lam, the noise form of multistep DPM-Solver. Orders 1-4, default 3.

    variant "public": the published weights of DPM-Solver's 2M (midpoint) and 3M (half of D2) on eps, orders 1-3: order 2.
    """
    public = opt.one_of("deis_log_rho", "variant", variant, ("exact", "public")) == "public"
    order = opt.whole("deis_log_rho", "order", order, 3 if public else 4)
    weights = half_curvature("eps", midpoint=True) if public else None
    found = multistep(
        path, form="eps", order=order, var="lam", taper=lower_order_final, public=weights, corrected=not public
    )
    return replace(found, order=min(order, 2)) if public else found


@solver("lms", order=4, prediction="eps", aliases=("LMSDiscreteScheduler",), again=asks_again, reference=ref.EDM)
def lms(path: Path, *, order: int = 4, form: str = "eps", lower_order_final: bool | str = False) -> Solution:
    """Linear multistep in sigma = rho: the rows of `deis_rho_ab` with order 4. Orders 1-4.

    form "flow": velocities in t, as interfaces combine them on flow models: the rows of `cab`.
    """
    form = opt.one_of("lms", "form", form, ("eps", "flow"))
    return multistep(path, form=form, order=opt.whole("lms", "order", order, 4), var="G", taper=lower_order_final)


@solver("ipndm_v", order=4, prediction="eps", again=asks_again, reference=ref.DEIS)
def ipndm_v(
    path: Path,
    *,
    order: int = 4,
    variant: str | None = None,
    form: str = "eps",
    lower_order_final: bool | str = False,
) -> Solution:
    """Improved PNDM with variable-step Adams-Bashforth weights in rho, as `lms`. Orders 1-4, default 4.

    variant "exact": the rows of `lms`; "public": the weights of all public code, whose slips make it order 1 from the third
    output on (see `misplaced_adams`). Default: these, made to sum to one, in runs of fewer than 15 steps, where they err by
    half as much; else exact. form "flow": velocities in t, as interfaces combine them on flows.
    """
    form = opt.one_of("ipndm_v", "form", form, ("eps", "flow"))
    variant = opt.one_of("ipndm_v", "variant", variant, ("exact", "public", None))
    order, public = opt.whole("ipndm_v", "order", order, 4), variant == "public"
    slips = public or (variant is None and len(path.groups) < 15)
    weights = misplaced_adams(form, as_public=public) if slips else None
    found = multistep(
        path, form=form, order=order, var="G", taper=lower_order_final, public=weights, corrected=not public
    )
    if not public or order < 3:
        return found
    return replace(found, order=1, conserves="x0 eps" if order == 3 else "x0")


@solver("abnorsett", order=4, prediction="x0", again=asks_again, reference=ref.ADAMS)
def abnorsett(path: Path, *, order: int = 4, form: str = "x0", lower_order_final: bool | str = True) -> Solution:
    """Exponential Adams-Bashforth (Norsett) on the real, non-uniform nodes in lam. Orders 1-5, default 4."""
    return multistep(
        path,
        form=opt.form("abnorsett", form),
        order=opt.whole("abnorsett", "order", order, 5),
        var="lam",
        taper=lower_order_final,
    )


@solver("res_multistep", order=2, prediction="x0", again=asks_again, reference=ref.RES)
def res_multistep(path: Path, *, order: int = 2, lower_order_final: bool | str = True) -> Solution:
    """Refined exponential solver, multistep: exact phi weights on x0 in lam. Orders 1-4, default 2."""
    return multistep(
        path, form="x0", order=opt.whole("res_multistep", "order", order, 4), var="lam", taper=lower_order_final
    )


@solver("cab", order=2, prediction="flow", again=asks_again, reference=ref.CAB)
def cab(path: Path, *, order: int = 2, lower_order_final: bool | str = False) -> Solution:
    """Adams-Bashforth on the velocity in the rectified coordinate, which makes any schedule a straight flow. Orders 1-4.

    y = x/(alpha+sigma), r = sigma/(alpha+sigma), dy/dr = eps - x0: no singular end; for flow models plain AB in t.
    """
    return multistep(path, form="flow", order=opt.whole("cab", "order", order, 4), var="G", taper=lower_order_final)
