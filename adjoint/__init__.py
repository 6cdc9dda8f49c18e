"""Exact gradients through sampling, inversion and likelihood."""

from fewstep.lazy import face

__getattr__, __dir__, __all__ = face(__name__, __file__)
