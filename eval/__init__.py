"""FID and its kin: exact, streaming, with intervals, from folders, files, tensors or straight from a pipeline."""

from fewstep.lazy import lazily

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
__getattr__ = lazily("fewstep.eval", _LAZY)
