"""fewstep: a good sample from a pretrained diffusion model in as few network evaluations as possible."""

from fewstep.lazy import lazily

__version__ = "0.1.0"

# Public name -> module that holds it, or that it is. Resolved on first use, so that `import fewstep` stays cheap.
_LAZY = {
    "samplers": "fewstep.samplers",
    "adjoint": "fewstep.adjoint",
    "eval": "fewstep.eval",
    "NoiseSchedule": "fewstep.samplers.schedule.base",
    "Denoiser": "fewstep.samplers.run.denoiser",
    "Scheduler": "fewstep.samplers.scheduler.scheduler",
    "sample": "fewstep.samplers.sampling.loop",
    "build": "fewstep.samplers.building.compiling",
    "load": "fewstep.samplers.artefact.loading",
    "Artefact": "fewstep.samplers.artefact.artefact",
    "learn": "fewstep.samplers.learned.learning",
    "load_demo_pipeline": "fewstep.demo.loading",
    "load_demo_artefact": "fewstep.samplers.artefact.loading",
}
__all__ = ["__version__", *_LAZY]
__getattr__ = lazily("fewstep", _LAZY)


def __dir__() -> list[str]:
    return sorted(__all__)
