"""Images from wherever they are: `image_set(source) -> ImageSet`."""

from fewstep.lazy import face

__getattr__, __dir__, __all__ = face(__name__, __file__)
