"""`Scheduler`, under the name that saved pipelines give: `fewstep.samplers.scheduler`."""

# diffusers loads a component by the mixin that it finds beside the class, in the module that a saved pipeline names.

from fewstep.lazy import face

__getattr__, __dir__, __all__ = face(__name__, __file__)
