# The public names and their types. `__init__.py` reads this file: a name is imported when it is first asked for.
from fewstep import adjoint as adjoint
from fewstep import eval as eval
from fewstep import samplers as samplers
from fewstep.adjoint.tuning.tuning import tune as tune
from fewstep.demo.loading import load_demo_pipeline as load_demo_pipeline
from fewstep.samplers.artefact.artefact import Artefact as Artefact
from fewstep.samplers.artefact.loading import load as load
from fewstep.samplers.artefact.loading import load_demo_artefact as load_demo_artefact
from fewstep.samplers.building.compiling import build as build
from fewstep.samplers.interpolants.fields import TwoFields as TwoFields
from fewstep.samplers.learned.learning import learn as learn
from fewstep.samplers.run.denoiser import Denoiser as Denoiser
from fewstep.samplers.sampling.loop import sample as sample
from fewstep.samplers.schedule.base import NoiseSchedule as NoiseSchedule
from fewstep.samplers.scheduler.scheduler import Scheduler as Scheduler
from fewstep.version import __version__ as __version__

__all__ = [
    "__version__",
    "samplers",
    "adjoint",
    "NoiseSchedule",
    "Denoiser",
    "TwoFields",
    "Scheduler",
    "sample",
    "build",
    "load",
    "Artefact",
    "learn",
    "tune",
    "load_demo_pipeline",
    "load_demo_artefact",
]
