"""What one call of the network takes, of time and of memory, and what that makes of a budget in minutes and of a memory.

    evaluations = seconds / (3/4 call + 1/4 call with its way back),       samples at once = (memory - fixed) / each

where a call of one sample with its way back keeps fixed + each bytes, of two fixed + 2 each.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Any

import torch
from torch import Tensor

from fewstep.checks import seconds_in
from fewstep.samplers.learned.playing.differentiable import has_gradients
from fewstep.samplers.learned.problem.limits import bytes_of, number_of
from fewstep.samplers.learned.problem.problem import Part, Problem
from fewstep.samplers.learned.tasks.each_guidance import first_of
from fewstep.samplers.run.denoiser import clock

BACK = 0.25  # of the evaluations, those that are gone back through
ROOM = 0.8  # of the memory that is given
BATCH = 16  # of joint in auto
TIMED = 4  # samples of the call that is timed


@dataclass(frozen=True)
class Call:
    """Seconds a sample of one call, and of one with its way back; bytes that the latter keeps, fixed and for each sample.

    None where the network has no gradients.
    """

    seconds: float
    back: float | None
    fixed: int
    each: int | None


@dataclass(frozen=True)
class Room:
    """budget: network evaluations. most: samples at once. remember: whether activations of a whole run may be kept."""

    budget: int | None = None
    most: int | None = None
    remember: bool = True


def room(model: Any, budget: Any, memory: Any, *, guidance: Any, nfe: Any, **how: Any) -> Room:
    """What `budget` and `memory` of `learn` come to; the model is only called where one of them has to be measured.

    Raises:
        ValueError: what is neither a number nor a time or size in words; a memory that one sample does not fit into.
    """
    spend, seconds = evaluations_or_seconds(budget)
    size = None if memory is None else bytes_of(memory)
    if seconds is None and size is None:
        return Room(spend)
    own, scale = first_of(model, guidance)
    problem = Problem(own, guidance=scale, **how)
    call = measured(problem)
    if seconds is not None:
        spend = int(seconds / ((1 - BACK) * call.seconds + BACK * (call.back or call.seconds)))
    if size is None or not call.each:
        return Room(spend)
    free = ROOM * size - call.fixed
    if free < call.each:
        raise ValueError(
            f"`memory` is {size / 2**30:.3g} GiB, and one sample with its way back takes "
            f"{(call.fixed + call.each) / ROOM / 2**30:.3g} GiB: give that much, or load the network in half precision"
        )
    longest = nfe if isinstance(nfe, int) else max(nfe)
    most = int(free // call.each)
    return Room(spend, most if most < problem.batch_size else None, free >= longest * BATCH * call.each)


def evaluations_or_seconds(budget: int | str | None) -> tuple[int | None, float | None]:
    """3000 or "3000" -> (3000, None); "30min" -> (None, 1800.0). ValueError for others."""
    if budget is None:
        return None, None
    if (seconds := seconds_in(budget)) is not None:
        return None, seconds
    number = number_of(str(budget).strip().replace(",", "").replace("_", ""))
    if number is None or not 1 <= number < inf or isinstance(budget, bool):
        raise ValueError(f"`budget` is a number of network evaluations, or a time such as '30min'; got {budget!r}")
    return int(number), None


def measured(problem: Problem) -> Call:
    """Of two calls of a few samples, and of one with its way back of one sample and of two."""
    t = 0.5 * (problem.t_start + problem.t_end)
    part = problem.part(range(min(TIMED, problem.batch_size)))
    tau = torch.tensor(float(problem.schedule.model_time(t)), dtype=clock(part.x_T.dtype), device=part.x_T.device)
    seconds = min(_timed(part, lambda: problem.ask(part, part.x_T, tau)) for _ in range(2))
    if not has_gradients([problem.part([0])], t):
        return Call(seconds, None, 0, None)
    (_, one), (back, two) = (_there_and_back(problem.part(range(n)), t) for n in (1, 2))
    each = max(two - one, 1)
    return Call(seconds, max(back, seconds), max(one - each, 0), each)


def _there_and_back(part: Part, t: float) -> tuple[float, int]:
    """Seconds a sample, and bytes: the device's own count where it has one, else of what is kept for the way back."""
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    def work() -> None:
        x = part.x_T.detach().clone().requires_grad_()
        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            torch.autograd.grad(part.denoiser(x, t).square().sum(), x)

    if part.x_T.is_cuda:
        torch.cuda.reset_peak_memory_stats(part.x_T.device)
    seconds = _timed(part, work)
    if part.x_T.is_cuda:
        return seconds, torch.cuda.max_memory_allocated(part.x_T.device)
    return seconds, sum(kept.values())


def _timed(part: Part, work: Callable[[], Any]) -> float:
    """Seconds a sample, once the device has done it."""
    wait = torch.cuda.synchronize if part.x_T.is_cuda else lambda: None
    wait()
    began = time.perf_counter()
    work()
    wait()
    return (time.perf_counter() - began) / len(part.seeds)
