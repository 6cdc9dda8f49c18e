"""Schedulers and an exact network for the tests of the diffusers contract."""

import torch
from parts import flow_euler
from pipelike import Network
from problems import Gaussian

import fewstep
from fewstep.samplers import SOLVERS

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
FLOW = "FlowMatchEulerDiscreteScheduler"
TABLES = [name for name, entry in SOLVERS.items() if entry.kind == "tableau"]
SEVERAL = [name for name in TABLES if SOLVERS[name].calls != 1 or SOLVERS[name].plan]
PROBLEM = Gaussian(1.0, 0.4)


def vp(solver="dpmpp_2m", **options):
    return fewstep.Scheduler.from_config(
        {"_class_name": "DDIMScheduler", **SD, "clip_sample": False}, solver, **options
    )


def flow(solver="dpmpp_2m", shift=3.0, **options):
    return fewstep.Scheduler.from_config(flow_euler(shift=shift), solver, **options)


def network(scheduler, prediction="epsilon"):
    return Network(PROBLEM, prediction, getattr(scheduler, "alphas_cumprod", None))


def noise(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*(shape or (2, 4, 8, 8)), generator=torch.Generator().manual_seed(seed), dtype=dtype)


def seeded(*seeds):
    """One generator a seed."""
    return [torch.Generator().manual_seed(seed) for seed in seeds]
