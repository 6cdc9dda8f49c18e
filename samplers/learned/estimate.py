"""What learning will cost, before it is done: evaluations as in a rehearsal, times as of three calls of the model."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from math import prod
from typing import Any

import torch
from torch import Tensor

from fewstep.output.page import Table
from fewstep.samplers.learned.planning import planned
from fewstep.samplers.learned.playing.differentiable import has_gradients
from fewstep.samplers.learned.problem.problem import Part, Problem
from fewstep.samplers.learned.rehearsal import Cost, extrapolated, stand_in
from fewstep.samplers.learned.tasks.evidence import FEWEST
from fewstep.samplers.learned.yardsticks.yardstick import LATENT
from fewstep.samplers.run.denoiser import clock

BYTES = 4  # of a number in a kept state


@dataclass(frozen=True)
class Estimate:
    """stages: what is spent where. seconds: in all, None where the model was not timed. call: of one sample and call.

    disk: bytes of the reference runs. memory: bytes of one call with its gradients, weights of the network included, and of
    the states that are held; None where it could not be measured.
    """

    stages: tuple[Cost, ...]
    seconds: float
    call: float
    disk: int
    memory: int | None

    @property
    def evaluations(self) -> int:
        """Of the network, in all."""
        return sum(cost.evaluations for cost in self.stages)

    def text(self) -> str:
        """For a terminal."""
        rows = [[c.stage, f"{c.evaluations:,}", f"{c.backward:,}" if c.backward else "."] for c in self.stages]
        rows.append(["all", f"{self.evaluations:,}", f"{sum(c.backward for c in self.stages):,}"])
        table = Table(["stage", "network evaluations", "gone back through"], rows).text()
        minutes = f"{self.seconds / 60:.1f} minutes" if self.seconds >= 60 else f"{self.seconds:.0f} s"
        memory = "not known" if self.memory is None else f"{self.memory / 2**20:,.0f} MiB"
        return (
            f"{table}\nabout {minutes} at {1000 * self.call:.3g} ms a sample and call; memory {memory}; "
            f"reference runs {self.disk / 2**20:,.0f} MiB"
        )

    def to_json(self) -> str:
        """Everything, exactly."""
        return json.dumps({**asdict(self), "evaluations": self.evaluations}, indent=1)


def estimate(
    model: Any,
    solver: str = "auto",
    nfe: Any = 5,
    method: Any = "auto",
    *,
    seeds: Any = range(192),
    guard_seeds: Any = range(1000, 2024),
    guidance: Any = None,
    solver_options: Mapping[str, Any] | None = None,
    teacher: Mapping[str, Any] | None = None,
    seconds: float | None = None,
    rivals: bool = True,
    loss: Any = None,
    judge: str = "loss",
    **how: Any,
) -> Estimate:
    """What `learn` with these arguments will spend: nothing is learned, and the model is called four times.

    Args:
        model, solver, nfe, method, ...: as in `learn`. how: shape, classes, prompt, call, batch_size, device, dtype.

    Raises:
        ValueError: whatever `learn` would refuse.
    """
    plan = planned(
        model, solver=solver, nfe=nfe, method=method, seeds=seeds, guard_seeds=guard_seeds, guidance=guidance,
        solver_options=solver_options, teacher=teacher, seconds=seconds,
        rivals=rivals, loss=loss, judge=judge,
    )  # fmt: skip
    plan = replace(plan, loss=LATENT)  # which costs as many evaluations
    own = model[plan.guidances[0]] if isinstance(model, Mapping) else model
    problem = Problem(own, guidance=plan.guidances[0], **how)
    call, back, saved = measured(problem, problem.parts(plan.train)[0])
    once = extrapolated(plan, lambda: stand_in(problem, gradients=back is not None))
    stages = tuple(Cost(c.stage, *(len(plan.guidances) * n for n in (c.evaluations, c.backward))) for c in once)
    each = [(c.evaluations - c.backward) * call + c.backward * (call if back is None else back) for c in stages]
    limit = float("inf") if plan.seconds is None else plan.seconds * len(plan.nfes) * len(plan.guidances)
    spent = sum(min(s, limit) if c.backward else s for s, c in zip(each, stages, strict=True))
    count, size = len(plan.train) + len(plan.valid) + min(FEWEST, len(plan.guard)), BYTES * prod(problem.shape)
    disk = count * len(plan.guidances) * (2 * plan.teacher["nfe"] + 1) * size
    held = len(plan.train) * (max(plan.nfes) + 4) * size
    return Estimate(stages, spent, call, disk, None if saved is None else saved + held)


def measured(problem: Problem, part: Part) -> tuple[float, float | None, int | None]:
    """Seconds a sample of one call, and of one with its way back; bytes that the way back needs. None without gradients."""
    t = 0.5 * (problem.t_start + problem.t_end)
    tau = torch.tensor(float(problem.schedule.model_time(t)), dtype=clock(part.x_T.dtype), device=part.x_T.device)
    calls = [_timed(part, lambda: problem.ask(part, part.x_T, tau)) for _ in range(3)]
    if not has_gradients([part], t):
        return min(calls), None, None
    storages: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    def there_and_back() -> None:
        x = part.x_T.detach().clone().requires_grad_()
        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            torch.autograd.grad(part.denoiser(x, t).square().sum(), x)

    return min(calls), _timed(part, there_and_back), sum(storages.values())


def _timed(part: Part, work: Callable[[], Any]) -> float:
    """Seconds a sample, once the device has done it."""
    wait = torch.cuda.synchronize if part.x_T.is_cuda else lambda: None
    wait()
    began = time.perf_counter()
    work()
    wait()
    return (time.perf_counter() - began) / len(part.seeds)
