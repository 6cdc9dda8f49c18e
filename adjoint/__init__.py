"""Exact gradients through sampling, inversion and likelihood."""

from fewstep.lazy import lazily

_LAZY = {
    "sample": ".sampling",
    "noise_path": ".sampling",
    "METHODS": ".sampling",
    "Free": ".free_numbers",
    "free": ".free_numbers",
    "invert": ".inversion",
    "encode": ".inversion",
    "log_likelihood": ".likelihood.likelihood",
    "bits_per_dim": ".likelihood.likelihood",
}
__all__ = list(_LAZY)
__getattr__ = lazily("fewstep.adjoint", _LAZY)
