"""Learned grids, coefficients and network times: a method takes a table and gives a better one."""

from fewstep.lazy import lazily

_LAZY = {
    "learn": ".learning",
    "METHODS": ".tasks.learner_entry",
    "learner": ".tasks.learner_entry",
    "Problem": ".problem.problem",
    "Teacher": ".problem.teacher",
}
__all__ = list(_LAZY)
__getattr__ = lazily("fewstep.samplers.learned", _LAZY)
