"""What one of two processes does that share a Picard run: here, where a process that is started can import it."""

from __future__ import annotations

import time

import torch
import torch.distributed as dist
from problems import Mixture, starts

from fewstep.samplers import Denoiser, NoiseSchedule, sample


def one_of_two(rank: int, port: int, path: str) -> None:
    """One of two processes: the run that both share, and what came of it."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    schedule = NoiseSchedule.vp_linear()
    denoiser = Mixture().denoiser(schedule, "epsilon", vector_time=True)
    x = starts(schedule, schedule.t_max, 5).to(torch.float64)
    shown: list[int] = []
    watched = Denoiser(lambda x, tau: shown.append(len(x)) or denoiser.fn(x, tau), schedule, "epsilon", True)
    run = {"base": "euler_ancestral", "window": 9, "tolerance": 1e-9, "generator": torch.Generator().manual_seed(rank)}
    y, info = sample(watched, x + rank, "picard", 20, return_info=True, **run)
    torch.save((y, info.calls, info.nfe, sum(shown)), f"{path}/{rank}")
    time.sleep(0.1)  # threads of the group let go of their last tensors a moment after a collective, see eval/passes
    dist.destroy_process_group()
