"""fewstep: a good sample from a pretrained diffusion model in as few network evaluations as possible."""

from fewstep.lazy import face
from fewstep.version import __version__ as __version__

__getattr__, __dir__, __all__ = face(__name__, __file__)
