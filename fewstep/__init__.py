"""fewstep: a good sample from a pretrained diffusion model in as few network evaluations as possible."""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

# Public name -> module that holds it. Resolved on first use, so that `import fewstep` stays cheap.
_LAZY = {
    "NoiseSchedule": "fewstep.samplers.schedule",
    "Denoiser": "fewstep.samplers.denoiser",
    "Scheduler": "fewstep.samplers.scheduler",
    "sample": "fewstep.samplers.sampling",
    "build": "fewstep.samplers.building",
    "load": "fewstep.samplers.storage",
    "load_demo_pipeline": "fewstep.demo",
}
_FOLDERS = ("samplers", "adjoint", "eval")
__all__ = ["__version__", *_FOLDERS, *_LAZY]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        value = getattr(import_module(_LAZY[name]), name)
    elif name in _FOLDERS:
        value = import_module(f"fewstep.{name}")
    else:
        raise AttributeError(f"module 'fewstep' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
