"""Names that others give to solvers: those that bind options here, and those that are no solver, with the reason.

Names are spelled as `registry.plain` has them: without case, spaces, dashes and underscores. Plain aliases stand at the
solvers themselves; `*_gpu` is the name without it, as only the place where noise is drawn differs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fewstep.registry import plain

Bound = tuple[str, Mapping[str, Any]]  # (solver, options)

# of user interfaces
_INTERFACES: dict[str, Bound] = {
    "uni_pc": ("unipc", {"weights": "bh1", "lower_order_final": "always"}),
    "uni_pc_bh2": ("unipc", {"weights": "bh2", "lower_order_final": "always"}),
    "unipc_bh1": ("unipc", {"weights": "bh1"}),
    "exp_heun_2_x0": ("etd_rk2", {"c2": 1.0, "form": "x0"}),
    "exp_heun_2_x0_sde": ("dpmpp_sde", {"variant": "heun", "r": 1.0}),
    "seeds_2": ("seeds", {"order": 2, "form": "x0"}),
    "seeds_3": ("seeds", {"order": 3, "form": "x0"}),
    "dpmpp_2m_sde_heun": ("dpmpp_2m_sde", {"variant": "heun"}),
    "sa_solver_pece": ("sa_solver", {"pece": True, "tau_at": "target"}),
    "dpm_2_ancestral_rf": ("dpm_2_ancestral", {"variant": "rf"}),
    "dpmpp_2s_ancestral_rf": ("dpmpp_2s_ancestral", {"variant": "rf"}),
}
# of scheduler classes
_CLASSES: dict[str, Bound] = {
    "EDMDPMSolverMultistepScheduler": ("dpmpp_2m", {}),
    "CosineDPMSolverMultistepScheduler": ("dpmpp_2m_sde", {"variant": "midpoint"}),
    "CogVideoXDPMScheduler": ("dpmpp_2m_sde", {"variant": "midpoint", "lower_order_final": False}),
    "EDMEulerScheduler": ("euler", {}),
    "MiniMaxH3Scheduler": ("euler", {}),
    "DDIMParallelScheduler": ("ddim", {}),
    "CogVideoXDDIMScheduler": ("ddim", {}),
    "DDPMParallelScheduler": ("ddpm", {}),
    "UnCLIPScheduler": ("ddpm", {}),
    "DDPMWuerstchenScheduler": ("ddpm", {}),
    "KDPM2DiscreteScheduler": ("dpm_2", {}),
    "LTXEulerAncestralRFScheduler": ("rf_ancestral", {}),
    "KarrasVeScheduler": ("edm_stochastic", {"s_churn": 80.0, "s_noise": 1.007}),
    "ScoreSdeVeScheduler": ("reverse_diffusion", {}),
    "ScoreSdeVpScheduler": ("euler_maruyama", {}),
    "FlowMatchLCMScheduler": ("renoise", {}),
    "SCMScheduler": ("renoise", {}),
}
# implicit methods as the RES4LYF nodes name them: name_Ns
_FAMILIES = {
    "gauss-legendre": ("gauss", (2, 3, 4, 5)), "radau_ia": ("radau_ia", (2, 3)),
    "radau_iia": ("radau_iia", (2, 3, 5, 7, 9)), "lobatto_iiia": ("lobatto_iiia", (2, 3, 4)),
    "lobatto_iiib": ("lobatto_iiib", (3, 4)), "lobatto_iiic": ("lobatto_iiic", (2, 3, 4)),
    "lobatto_iiic_star": ("lobatto_iiic_star", (2, 3)), "lobatto_iiid": ("lobatto_iiid", (3,)),
}  # fmt: skip
_IMPLICIT: dict[str, Bound] = {
    **{
        f"{name}_{s}s": ("implicit_rk", {"method": m, "stages": s})
        for name, (m, many) in _FAMILIES.items()
        for s in many
    },
    "radau_iia_3s_alt": ("implicit_rk", {"method": "radau_iia", "stages": 3}),
    "pareschi_russo_2s": ("implicit_rk", {"method": "pareschi_russo"}),
    "pareschi_russo_alt_2s": ("implicit_rk", {"method": "alexander"}),
    "crouzeix_2s": ("implicit_rk", {"method": "crouzeix"}),
    "qin_zhang_2s": ("implicit_rk", {"method": "qin_zhang"}),
}
_BEYOND = "one of its nodes lies beyond the step, where there may be no noise level: take crouzeix_2s"
_ROWS = (
    "its first stage is no state of the process, as its row does not sum to its node: take the method of three stages"
)
_SLIPS = "its published table has slips that leave it order 1 or 2: take gauss-legendre_4s or _5s, which are Gauss' own"
_UNSOUND = {
    **dict.fromkeys(("crouzeix_3s", "crouzeix_3s_alt", "kraaijevanger_spijker_2s"), _BEYOND),
    **dict.fromkeys(("lobatto_iiib_2s", "lobatto_iiid_2s"), _ROWS),
    **dict.fromkeys(
        ("gauss-legendre_4s_alternating_a", "gauss-legendre_4s_ascending_a", "gauss-legendre_4s_alt",
         "gauss-legendre_5s_ascending"), _SLIPS,
    ),
    "radau_iia_11s": "with eleven stages it is of order 21, which rounding hides: take radau_iia_9s",
    "irk_exp_diag_2s": "it is a diagonal exponential method of order 1 to 2: take crouzeix_2s, or gauss-legendre_2s",
}  # fmt: skip
_DISCRETE = "it samples tokens, not a continuous state, and no table of weights can play it: keep its own scheduler"
_CFG_PP = (
    "it needs the guided and the unconditional output apart: give guidance.cfg_pp(conditional, unconditional, scale{}) as "
    "the denoiser, with solver={!r}"
)
# name -> why it is no solver, and what to do instead
_REFUSED: dict[str, str] = {
    **_UNSOUND,
    "euler_cfg_pp": _CFG_PP.format("", "euler"),
    "euler_ancestral_cfg_pp": _CFG_PP.format("", "euler_ancestral"),
    "dpmpp_2m_cfg_pp": _CFG_PP.format(', step="dpmpp_2m"', "euler"),
    "res_multistep_cfg_pp": _CFG_PP.format(', step="res_multistep"', "euler"),
    "res_multistep_ancestral_cfg_pp": _CFG_PP.format(', step="res_multistep"', "euler_ancestral"),
    "gradient_estimation_cfg_pp": _CFG_PP.format(', step="gradient_estimation"', "euler"),
    "dpmpp_2s_ancestral_cfg_pp": _CFG_PP.format(', step="dpmpp_2s"', "dpmpp_2s_ancestral"),
    "ar_video": "it runs a network with a cache of keys and values frame by frame: keep its own sampler",
    "er_sde_cns": "it colours the noise of er_sde by the data's spectrum, which no table holds; take er_sde",
    "RePaintScheduler": "it needs a mask and the known pixels: use guidance.replacement, or restart for its way back up",
    **dict.fromkeys(
        ("HeliosScheduler", "HeliosDMDScheduler"),
        "it changes the resolution between its stages, which no table does: keep its own scheduler; within a stage it is "
        "euler, unipc or renoise",
    ),
    "PiflowScheduler": "its network returns a policy that the scheduler rolls out by itself: keep its own scheduler",
    "RFD4ProteinaScheduler": "it rescales the score of proteins by rules of its own: keep its own scheduler",
    "DDIMInverseScheduler": "it goes from data to noise: use fewstep.adjoint.invert(denoiser, x0)",
    "DPMSolverMultistepInverseScheduler": "it goes from data to noise: use fewstep.adjoint.invert(denoiser, x0)",
    "ConsistencyDecoderScheduler": "it is the fixed two-step schedule of one decoder: keep its own scheduler",
    **dict.fromkeys(
        ("AmusedScheduler", "BlockRefinementScheduler", "DiscreteDDIMScheduler", "EntropyBoundScheduler",
         "VQDiffusionScheduler"), _DISCRETE,
    ),
}  # fmt: skip


def _spelled(names: Mapping[str, Any]) -> dict[str, Any]:
    return {spelling(name): value for name, value in names.items()}


def spelling(name: str) -> str:
    """`plain`, but for "uni_pc", which is another variant than "unipc"."""
    word = plain(name)
    return word.replace("unipc", "uni_pc", 1) if name.lower().startswith("uni_pc") else word


NAMES = tuple(_INTERFACES)
BOUND: dict[str, Bound] = _spelled({**_INTERFACES, **_CLASSES, **_IMPLICIT})
REFUSED: dict[str, str] = _spelled(_REFUSED)
# words that folk names end with -> grid; longer ones first
GRID_WORDS = {
    word.replace("_", ""): word
    for word in sorted(
        ("karras", "exponential", "polyexponential", "beta", "beta57", "lu", "ays", "simple", "normal", "sgm_uniform",
         "ddim_uniform", "kl_optimal", "linear_quadratic", "laplace", "sd_turbo", "bong_tangent", "gits", "optimal_steps"),
        key=len, reverse=True,
    )
}  # fmt: skip
