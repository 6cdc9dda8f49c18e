"""FID and its kin: exact, streaming, with intervals, from folders, files, tensors or straight from a pipeline."""

from importlib import import_module
from typing import Any

# Public name -> module; no module has the name of something public, which it would hide once imported.
_LAZY = {
    "fid": ".evaluation",
    "evaluate": ".evaluation",
    "stats": ".evaluation",
    "Report": ".report",
    "Result": ".result",
    "frechet_distance": ".frechet",
    "FeatureStatistics": ".statistics",
    "Features": ".features",
    "InceptionV3": ".extractors.inception",
    "Extractor": ".extractors",
    "Function": ".extractors",
    "extractor": ".extractors",
    "image_set": ".images",
    "Generated": ".images.generated",
    "paired": ".pairs",
    "curve": ".sweep",
    "Curves": ".curves",
}
__all__ = list(_LAZY)


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'fewstep.eval' has no attribute {name!r}")
    value = getattr(import_module(_LAZY[name], "fewstep.eval"), name)
    globals()[name] = value
    return value
