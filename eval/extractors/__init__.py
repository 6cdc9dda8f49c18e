"""Networks that turn images into features: `extractor("inception", protocol="tf")`, and what is registered."""

from fewstep.lazy import lazily

# Public name -> module: on first use, so that none of them is imported for the sake of another.
_LAZY = {
    "EXTRACTORS": ".extractor_entry",
    "Extractor": ".base",
    "Function": ".base",
    "extractor": ".extractor_entry",
    "register_extractor": ".extractor_entry",
}
__all__ = list(_LAZY)
__getattr__ = lazily("fewstep.eval.extractors", _LAZY)
