# The public names and their types. `__init__.py` reads this file: a name is imported when it is first asked for.
from fewstep.samplers import guidance as guidance
from fewstep.samplers.artefact.artefact import Artefact as Artefact
from fewstep.samplers.artefact.learned_table import Learned as Learned
from fewstep.samplers.blocks.block_cache import BlockCache as BlockCache
from fewstep.samplers.blocks.pipeline_cache import feature_cache as feature_cache
from fewstep.samplers.building.compiling import build as build
from fewstep.samplers.building.path import Path as Path
from fewstep.samplers.building.path import Solution as Solution
from fewstep.samplers.building.solver_entry import SOLVERS as SOLVERS
from fewstep.samplers.building.solver_entry import driver as driver
from fewstep.samplers.building.solver_entry import solver as solver
from fewstep.samplers.drivers.driven_run import Outcome as Outcome
from fewstep.samplers.drivers.driven_run import Task as Task
from fewstep.samplers.grids.grid_entry import GRIDS as GRIDS
from fewstep.samplers.grids.grid_entry import grid as grid
from fewstep.samplers.interpolants.fields import TwoFields as TwoFields
from fewstep.samplers.learned.tasks.learner_entry import learner as learner
from fewstep.samplers.noise.sources import NoiseSource as NoiseSource
from fewstep.samplers.run.denoiser import Denoiser as Denoiser
from fewstep.samplers.sampling.loop import sample as sample
from fewstep.samplers.schedule.base import SCHEDULES as SCHEDULES
from fewstep.samplers.schedule.base import Node as Node
from fewstep.samplers.schedule.base import NoiseSchedule as NoiseSchedule
from fewstep.samplers.schedule.base import schedule_class as schedule_class
from fewstep.samplers.scheduler.scheduler import Scheduler as Scheduler
from fewstep.samplers.table.row import CARRY as CARRY
from fewstep.samplers.table.row import INPUT as INPUT
from fewstep.samplers.table.row import KEEP as KEEP
from fewstep.samplers.table.row import Row as Row
from fewstep.samplers.table.statistics import Statistics as Statistics
from fewstep.samplers.table.tableau import Tableau as Tableau

__all__ = [
    "NoiseSchedule",
    "GRIDS",
    "SOLVERS",
    "build",
    "Tableau",
    "Artefact",
    "Learned",
    "Statistics",
    "Denoiser",
    "TwoFields",
    "NoiseSource",
    "Scheduler",
    "sample",
    "feature_cache",
    "BlockCache",
    "guidance",
    "learner",
    "SCHEDULES",
    "schedule_class",
    "Node",
    "grid",
    "solver",
    "driver",
    "Path",
    "Solution",
    "Row",
    "CARRY",
    "INPUT",
    "KEEP",
    "Task",
    "Outcome",
]
