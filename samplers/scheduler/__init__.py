"""`Scheduler`, under the name that saved pipelines give: `fewstep.samplers.scheduler`."""

from fewstep.lazy import lazily

# diffusers loads a component by the mixin that it finds beside the class, in the module that a saved pipeline names.
_LAZY = {"Scheduler": ".scheduler", "SchedulerMixin": "diffusers.schedulers.scheduling_utils"}
__all__ = ["Scheduler"]
__getattr__ = lazily("fewstep.samplers.scheduler", _LAZY)
