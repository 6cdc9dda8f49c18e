"""FID and its kin: exact, streaming, with intervals, from folders, files, tensors or straight from a pipeline."""

from fewstep.lazy import face

__getattr__, __dir__, __all__ = face(__name__, __file__)
