"""Guidance as a thing that turns denoisers into a denoiser, so that it works with every solver, grid and pipeline."""

from typing import Any

from fewstep.lazy import face

_own, __dir__, __all__ = face(__name__, __file__)


def __getattr__(name: str) -> Any:
    if name in __all__ or name.startswith("_"):
        return _own(name)
    registry = _own("GUIDANCE")
    return registry[name].fn if name in registry else _own(name)  # what others registered
