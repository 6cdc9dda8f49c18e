"""Guidance as a thing that turns denoisers into a denoiser, so that it works with every solver, grid and pipeline."""

from fewstep.lazy import lazily

_LAZY = {
    "Guided": ".guided",
    "cfg": ".classifier_free",
    "fkc": ".particles",
    "dps": ".posterior",
    "pigdm": ".posterior",
    "exact_covariance": ".posterior",
    "lgd": ".posterior",
    "energy": ".posterior",
    "mpgd": ".consistency",
    "dds": ".consistency",
    "impute": ".consistency",
    "doodl": ".noise_steps",
    "d_flow": ".noise_steps",
    "noise_prior_penalty": ".noise_space",
    "Operator": ".operators",
    "adjoint_residual": ".operators",
    "mask": ".operators",
    "downsample": ".operators",
    "blur": ".operators",
    "colour": ".operators",
    "matrix": ".operators",
    "phase": ".operators",
    "fourier": ".operators",
    "projection": ".operators",
}
__all__ = list(_LAZY)
__getattr__ = lazily("fewstep.samplers.guidance", _LAZY)
