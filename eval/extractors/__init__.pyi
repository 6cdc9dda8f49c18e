# The public names and their types. `__init__.py` reads this file: a name is imported when it is first asked for.
from fewstep.eval.extractors.base import Extractor as Extractor
from fewstep.eval.extractors.base import Function as Function
from fewstep.eval.extractors.extractor_entry import EXTRACTORS as EXTRACTORS
from fewstep.eval.extractors.extractor_entry import extractor as extractor
from fewstep.eval.extractors.extractor_entry import register_extractor as register_extractor

__all__ = [
    "EXTRACTORS",
    "Extractor",
    "Function",
    "extractor",
    "register_extractor",
]
