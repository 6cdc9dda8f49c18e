# The public names and their types. `__init__.py` reads this file: a name is imported when it is first asked for.
from diffusers.schedulers.scheduling_utils import SchedulerMixin as SchedulerMixin

from fewstep.samplers.scheduler.scheduler import Scheduler as Scheduler

__all__ = [
    "Scheduler",
]
