"""Exact gradients through sampling, inversion and likelihood."""

from fewstep.lazy import lazily

_LAZY = {
    "sample": ".gradient.sampling",
    "noise_path": ".gradient.sampling",
    "METHODS": ".gradient.sampling",
    "cost": ".gradient.rehearsed_cost",
    "Cost": ".gradient.cost_report",
    "Free": ".gradient.free_table",
    "free": ".gradient.free_table",
    "invert": ".inversion.inverting",
    "encode": ".inversion.noise_encoding",
    "log_likelihood": ".likelihood.log_density",
    "bits_per_dim": ".likelihood.quantised_bits",
}
__all__ = list(_LAZY)
__getattr__ = lazily("fewstep.adjoint", _LAZY)
