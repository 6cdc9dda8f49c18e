"""What learning will cost, before it is done.

The whole of it is rehearsed on a stand-in that costs nothing: a mixture of two points a coordinate, in two dimensions, on the
model's schedule, with the same seeds, batches and stages. What the stand-in is asked there, the model will be asked. Descents
are rehearsed with a tenth and a fifth of their steps, and their cost is a line through the two. Three calls of the model then
tell the time of one.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from math import prod
from typing import Any

import numpy as np
import torch

from fewstep.output.page import Table
from fewstep.samplers.learned.learning import Run
from fewstep.samplers.learned.planning import Plan, planned
from fewstep.samplers.learned.playing.differentiable import has_gradients
from fewstep.samplers.learned.problem.problem import Part, Problem
from fewstep.samplers.learned.problem.teacher import Teacher
from fewstep.samplers.learned.tasks.learner_entry import METHODS
from fewstep.samplers.learned.tasks.task import Progress
from fewstep.samplers.run.denoiser import Denoiser, clock
from fewstep.samplers.schedule.base import NoiseSchedule
from fewstep.samplers.schedule.outputs import prediction_coefficients

Tensor = torch.Tensor
SHAPE = (2,)  # of the stand-in's samples
WIDTH = 0.3  # of its two modes, at -1 and 1
BYTES = 4  # of a number in a kept state


@dataclass(frozen=True)
class Cost:
    """Network evaluations of a stage, samples times calls; `backward`: those of them that are gone back through."""

    stage: str
    evaluations: int
    backward: int = 0


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
    solver: str = "dpmpp_2m",
    nfe: Any = 5,
    method: Any = "auto",
    *,
    seeds: Any = range(192),
    guard_seeds: Any = range(1000, 1128),
    guidance: Any = None,
    solver_options: Mapping[str, Any] | None = None,
    teacher: Mapping[str, Any] | None = None,
    seconds: float | None = None,
    **how: Any,
) -> Estimate:
    """What `learn` with these arguments will spend: nothing is learned, and the model is called four times.

    Args:
        model, solver, nfe, method, ...: as in `learn`. how: shape, classes, prompt, batch_size, device, dtype.

    Raises:
        ValueError: whatever `learn` would refuse.
    """
    plan = planned(solver, nfe, method, seeds, guard_seeds, guidance, solver_options, teacher, seconds, {}, model)
    own = model[plan.guidances[0]] if isinstance(model, Mapping) else model
    problem = Problem(own, guidance=plan.guidances[0], **how)
    call, back, saved = measured(problem, problem.parts(plan.train)[0])
    once = extrapolated(plan, lambda: stand_in(problem, gradients=back is not None))
    stages = tuple(Cost(c.stage, *(len(plan.guidances) * n for n in (c.evaluations, c.backward))) for c in once)
    each = [(c.evaluations - c.backward) * call + c.backward * (call if back is None else back) for c in stages]
    limit = float("inf") if plan.seconds is None else plan.seconds * len(plan.nfes) * len(plan.guidances)
    spent = sum(min(s, limit) if c.backward else s for s, c in zip(each, stages, strict=True))
    count, size = len(plan.train) + len(plan.valid) + len(plan.guard), BYTES * prod(problem.shape)
    disk = count * len(plan.guidances) * (2 * plan.teacher["nfe"] + 1) * size
    held = len(plan.train) * (max(plan.nfes) + 4) * size
    return Estimate(stages, spent, call, disk, None if saved is None else saved + held)


def extrapolated(plan: Plan, problem: Callable[[], Problem]) -> list[Cost]:
    """What a plan costs for one guidance, from rehearsals with a tenth and a fifth of the steps of every descent."""
    some, twice = (rehearse(plan, problem(), share) for share in (0.1, 0.2))
    more = {cost.stage: cost for cost in twice}
    return [
        Cost(c.stage, *(9 * getattr(more[c.stage], n) - 8 * getattr(c, n) for n in ("evaluations", "backward")))
        for c in some
    ]


def rehearse(plan: Plan, problem: Problem, share: float = 1.0) -> list[Cost]:
    """All stages of a plan for one guidance, descents with a share of their steps; nothing is kept on disk."""
    counted, costs, last = _Counted(problem), dict[str, Cost](), [0, 0]

    def book(stage: str) -> None:
        now, had = (problem.spent, counted.backward), costs.get(stage, Cost(stage, 0))
        costs[stage] = Cost(stage, had.evaluations + now[0] - last[0], had.backward + now[1] - last[1])
        last[:] = now

    def tell(p: Progress) -> None:
        book(p.stage)

    plan = replace(plan, stages=tuple((name, _shorter(name, options, share)) for name, options in plan.stages))
    teacher = Teacher(problem, cache=False, **plan.teacher)
    run = Run(plan, problem, teacher, tell, None)
    for part in (*problem.parts(plan.train), *problem.parts(plan.valid), *problem.parts(plan.guard)):
        teacher.end(part)
    book("reference")
    for nfe in plan.nfes:
        run.table(nfe)
        book("guard")
    return [cost for cost in costs.values() if cost.evaluations]


def _shorter(name: str, options: dict[str, Any], share: float) -> dict[str, Any]:
    """The options of a stage with a share of its steps."""
    steps = {**METHODS[name].options, **options}.get("steps")
    if share == 1 or not isinstance(steps, (int, tuple)):
        return options
    few = tuple(max(1, round(share * n)) for n in ((steps,) if isinstance(steps, int) else steps))
    return {**options, "steps": few[0] if isinstance(steps, int) else few}


class _Counted:
    """Counts the samples of those calls of a problem that keep what gradients need."""

    def __init__(self, problem: Problem) -> None:
        self.backward, fn = 0, problem.model.fn

        def counting(x: Tensor, tau: Tensor) -> Tensor:
            if torch.is_grad_enabled():
                self.backward += len(x)
            output: Tensor = fn(x, tau)
            return output

        problem.model.fn = counting


def stand_in(problem: Problem, gradients: bool = True) -> Problem:
    """The problem with the mixture in the place of the network: the same schedule, prediction, ends and batches."""
    network = _network(problem.schedule, problem.prediction)
    fn = network if gradients else lambda x, tau: network(x.detach(), tau.detach())
    denoiser = Denoiser(fn, problem.schedule, problem.prediction)
    denoiser.t_start = problem.t_start  # type: ignore[attr-defined]
    how: dict[str, Any] = {"batch_size": problem.batch_size, "dtype": torch.float64, "device": "cpu"}
    return Problem(denoiser, shape=SHAPE, guidance=problem.guidance, **how)


def _network(schedule: NoiseSchedule, prediction: Any) -> Callable[[Tensor, Tensor], Tensor]:
    """The exact network for data at -1 and 1 in every coordinate, of width WIDTH; its slope in time is not told."""
    known: dict[float, tuple[float, ...]] = {}

    def at(tau: float) -> tuple[float, ...]:
        if tau not in known:
            nodes = schedule.nodes(np.array([float(schedule.time_of_model(tau))]))
            known[tau] = tuple(
                float(v[0]) for v in (nodes.alpha, nodes.sigma, *prediction_coefficients(prediction, nodes))
            )
        return known[tau]

    def fn(x: Tensor, tau: Tensor) -> Tensor:
        alpha, sigma, P, Q = at(float(tau.detach()))
        spread = alpha**2 * WIDTH**2 + sigma**2
        x0 = (alpha * WIDTH**2 * x + sigma**2 * torch.tanh(alpha * x / spread)) / spread
        return P * x0 + Q * (x - alpha * x0) / max(sigma, 1e-12) + 0 * tau

    return fn


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
