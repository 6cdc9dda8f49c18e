"""Solvers as tables: noise schedules, grids, tableaux, the loop that runs them and the diffusers scheduler that plays them."""

from fewstep.lazy import face

__getattr__, __dir__, __all__ = face(__name__, __file__)
