"""Guidance as a thing that turns denoisers into a denoiser, so that it works with every solver, grid and pipeline."""

from fewstep.lazy import lazily

_LAZY = {"cfg": ".classifier_free"}
__all__ = list(_LAZY)
__getattr__ = lazily("fewstep.samplers.guidance", _LAZY)
