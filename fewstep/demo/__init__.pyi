# The public names and their types. `__init__.py` reads this file: a name is imported when it is first asked for.
from fewstep.demo.digit_classifier import load_demo_classifier as load_demo_classifier
from fewstep.demo.loading import load_demo_pipeline as load_demo_pipeline
from fewstep.samplers.artefact.loading import load_demo_artefact as load_demo_artefact

__all__ = [
    "load_demo_pipeline",
    "load_demo_classifier",
    "load_demo_artefact",
]
