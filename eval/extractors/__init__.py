"""Networks that turn images into features: `extractor("inception", protocol="tf")`, and what is registered."""

from fewstep.lazy import face

__getattr__, __dir__, __all__ = face(__name__, __file__)
