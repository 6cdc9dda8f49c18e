"""Solvers as tables: noise schedules, grids, tableaux, the loop that runs them and the diffusers scheduler that plays them."""

from importlib import import_module
from typing import Any

_LAZY = {
    "NoiseSchedule": ".schedule",
    "GRIDS": ".grids",
    "SOLVERS": ".registry",
    "build": ".building",
    "Tableau": ".tableau",
    "Statistics": ".statistics",
    "Denoiser": ".denoiser",
    "NoiseSource": ".noise",
    "Scheduler": ".scheduler",
    "sample": ".sampling",
}
__all__ = list(_LAZY)


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'fewstep.samplers' has no attribute {name!r}")
    value = getattr(import_module(_LAZY[name], "fewstep.samplers"), name)
    globals()[name] = value
    return value
