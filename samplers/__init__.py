"""Solvers as tables: noise schedules, grids, tableaux, the loop that runs them and the diffusers scheduler that plays them."""

from fewstep.lazy import lazily

_LAZY = {
    "NoiseSchedule": ".schedule.base",
    "GRIDS": ".grids.grid_entry",
    "SOLVERS": ".building.solver_entry",
    "build": ".building.compiling",
    "Tableau": ".table.tableau",
    "Artefact": ".artefact.artefact",
    "Learned": ".artefact.learned_table",
    "Statistics": ".table.statistics",
    "Denoiser": ".run.denoiser",
    "NoiseSource": ".noise.sources",
    "Scheduler": ".scheduler.scheduler",
    "sample": ".sampling.loop",
    "guidance": ".guidance",
    "learner": ".learned.tasks.learner_entry",
}
__all__ = list(_LAZY)
__getattr__ = lazily("fewstep.samplers", _LAZY)
