# The public names and their types. `__init__.py` reads this file: a name is imported when it is first asked for.
from fewstep.samplers.learned.learning import learn as learn
from fewstep.samplers.learned.problem.problem import Problem as Problem
from fewstep.samplers.learned.problem.teacher import Teacher as Teacher
from fewstep.samplers.learned.tasks.learner_entry import METHODS as METHODS
from fewstep.samplers.learned.tasks.learner_entry import learner as learner

__all__ = [
    "learn",
    "METHODS",
    "learner",
    "Problem",
    "Teacher",
]
