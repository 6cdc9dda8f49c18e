"""Guidance as a thing that turns denoisers into a denoiser, so that it works with every solver, grid and pipeline."""

from typing import Any

from fewstep.lazy import lazily
from fewstep.samplers.guidance.guidance_entry import GUIDANCE, method

_LAZY = {
    "Guided": "fewstep.samplers.run.guided",
    "cfg": ".classifier_free",
    "apg": ".classifier_free",
    "cfg_pp": ".classifier_free",
    "classifier": ".classifier_gradient",
    "product": ".experts",
    "mixture": ".experts",
    "regions": ".experts",
    "intervals": ".experts",
    "fkc": ".feynman_kac",
    "dps": ".posterior",
    "pigdm": ".posterior",
    "exact_covariance": ".posterior",
    "lgd": ".loss_guidance",
    "energy": ".loss_guidance",
    "mpgd": ".data_consistency",
    "dds": ".data_consistency",
    "impute": ".data_consistency",
    "dreamguider": ".polyak_step",
    "replacement": ".hooks",
    "callback": ".hooks",
    "doodl": "fewstep.adjoint.optimise.momentum_steps",
    "d_flow": "fewstep.adjoint.optimise.quasi_newton_steps",
    "noise_prior_penalty": "fewstep.adjoint.optimise.noise_space",
    "adv_diff": "fewstep.adjoint.optimise.adversarial",
    "GaussianField": "fewstep.samplers.noise.field",
    "diffusion_pde": ".pde",
    "fun_dps": ".pde_published",
    "points": ".operators",
    "Operator": ".operator_base",
    "adjoint_residual": ".operator_base",
    "mask": ".operators",
    "downsample": ".operators",
    "blur": ".operators",
    "colour": ".operators",
    "matrix": ".operators",
    "phase": ".operators",
    "fourier": ".operators",
    "projection": ".operators",
}
__all__ = ["GUIDANCE", "method", *_LAZY]  # noqa: PLE0604
_own = lazily("fewstep.samplers.guidance", _LAZY)


def __getattr__(name: str) -> Any:
    """A name of the library's own, or of a method that somebody registered."""
    if name not in _LAZY and not name.startswith("_") and name in GUIDANCE:
        return GUIDANCE[name].fn
    return _own(name)
