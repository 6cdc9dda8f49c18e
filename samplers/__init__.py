"""Solvers as tables: noise schedules, grids, tableaux, the loop that runs them and the diffusers scheduler that plays them."""

from fewstep.lazy import lazily

_LAZY = {
    "NoiseSchedule": ".schedule",
    "GRIDS": ".grids",
    "SOLVERS": ".registry",
    "build": ".building",
    "Tableau": ".tableau",
    "Artefact": ".artefact",
    "Learned": ".learnedtable",
    "Statistics": ".statistics",
    "Denoiser": ".denoiser",
    "NoiseSource": ".noise",
    "Scheduler": ".scheduler",
    "sample": ".sampling",
    "guidance": ".guidance",
}
__all__ = list(_LAZY)
__getattr__ = lazily("fewstep.samplers", _LAZY)
