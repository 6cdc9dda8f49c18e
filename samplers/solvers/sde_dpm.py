"""SDE-DPM-Solver(++): exponential multistep solvers of the variance-controlled reverse SDE.

tau = 0 is the probability flow, tau = 1 the classical reverse SDE; k-diffusion's eta is tau^2. Rows are those of
`weights.py` with tau. Noise in the outputs of the past limits every tau > 0 multistep to weak order 2: a third node
lowers the constant only.
"""

from __future__ import annotations

from dataclasses import replace

from fewstep.samplers.building import options as opt
from fewstep.samplers.building import references as ref
from fewstep.samplers.building.path import Path, Solution
from fewstep.samplers.building.solver_entry import solver
from fewstep.samplers.solvers.multistep import multistep
from fewstep.samplers.solvers.published_weights import half_curvature

TAU_MOST = 10.0


@solver(
    "dpmpp_2m_sde",
    order=2,
    prediction="x0",
    stochastic=True,
    reference=ref.DPMPP,
    aliases=("DPM++ 2M SDE", "mrs_sde_2"),
)
def dpmpp_2m_sde(
    path: Path, *, tau: float = 1.0, variant: str = "midpoint", lower_order_final: bool | str = True
) -> Solution:
    """SDE-DPM-Solver++(2M): `dpmpp_2m` for the reverse SDE. Weak order 2, 1 evaluation a step.

    x_t = (sigma_t/sigma_s) e^(-tau^2 h) x_s + alpha_t (1 - e^-k) [m0 + (m0 - m1)/2r] + sigma_t sqrt(1 - e^(-2 tau^2 h)) z
    with k = (1 + tau^2) h, r = h_prev / h (variant "midpoint"); "heun": alpha_t k phi_2(-k) (m0 - m1)/r, the exact weight.
    """
    public = (
        half_curvature("x0", midpoint=True)
        if opt.one_of("dpmpp_2m_sde", "variant", variant, ("midpoint", "heun")) == "midpoint"
        else None
    )
    tau = opt.number("dpmpp_2m_sde", "tau", tau, TAU_MOST)
    return multistep(path, form="x0", order=2, var="lam", taper=lower_order_final, public=public, tau=tau)


@solver("dpmpp_3m_sde", order=2, prediction="x0", stochastic=True, reference=ref.DPMPP, aliases=("DPM++ 3M SDE",))
def dpmpp_3m_sde(
    path: Path, *, tau: float = 1.0, variant: str = "exact", lower_order_final: bool | str | None = None
) -> Solution:
    """SDE-DPM-Solver++(3M), x0 extrapolated quadratically in lam. Weak order 2 (3 at tau = 0), 1 evaluation a step.

    variant "k_diffusion": half of D2, exact weights beside two outputs, no lower order before the end; "public": half of D2
    beside the midpoint rule. Both are of order 2 at tau = 0. (The weight in diffusers has a wrong sign: order 1.)
    lower_order_final: default True, False of "k_diffusion".
    """
    known = {
        "exact": None,
        **{name: half_curvature("x0", midpoint=name == "public") for name in ("public", "k_diffusion")},
    }
    public = known[opt.one_of("dpmpp_3m_sde", "variant", variant, known)]
    taper = variant != "k_diffusion" if lower_order_final is None else lower_order_final
    tau = opt.number("dpmpp_3m_sde", "tau", tau, TAU_MOST)
    found = multistep(path, form="x0", order=3, var="lam", taper=taper, public=public, tau=tau)
    return replace(found, order=min(found.order, 2)) if public else found


@solver("sde_dpm", order=2, prediction="eps", stochastic=True, reference=ref.DPMPP, aliases=("sde-dpmsolver",))
def sde_dpm(path: Path, *, order: int = 2, tau: float = 1.0, lower_order_final: bool | str = True) -> Solution:
    """SDE-DPM-Solver on eps: exact weights in lam. Weak order 2 (default; 1 to 3 given), 1 evaluation a step.

    x_t = (alpha_t/alpha_s) x_s - (1 + tau^2) sigma_t h sum_k phi_k(h) D_k + tau sigma_t sqrt(e^(2h) - 1) z. Steep near the
    end of the grid, as all stochastic eps forms: `dpmpp_2m_sde` needs fewer evaluations.
    """
    order = opt.whole("sde_dpm", "order", order, 3)
    tau = opt.number("sde_dpm", "tau", tau, TAU_MOST)
    return multistep(path, form="eps", order=order, var="lam", taper=lower_order_final, tau=tau)
