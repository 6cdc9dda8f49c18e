"""FID and its kin: exact, streaming, with intervals, from folders, files, tensors or straight from a pipeline."""

from fewstep.lazy import lazily

# Public name -> module; no module has the name of something public, which it would hide once imported.
_LAZY = {
    "fid": ".passes.evaluation",
    "evaluate": ".passes.evaluation",
    "stats": ".passes.evaluation",
    "Report": ".report.evaluation_report",
    "Result": ".report.result",
    "frechet_distance": ".gaussian.frechet",
    "FeatureStatistics": ".gaussian.statistics",
    "Features": ".gaussian.features",
    "InceptionV3": ".extractors.inception",
    "Extractor": ".extractors.base",
    "Function": ".extractors.base",
    "extractor": ".extractors.extractor_entry",
    "register_extractor": ".extractors.extractor_entry",
    "EXTRACTORS": ".extractors.extractor_entry",
    "metric": ".metrics.registry",
    "METRICS": ".metrics.registry",
    "image_set": ".images.sources",
    "Generated": ".images.generated",
    "paired": ".compare.pairs",
    "curve": ".compare.metric_curves",
    "Curves": ".report.curves",
}
__all__ = list(_LAZY)
__getattr__ = lazily("fewstep.eval", _LAZY)
