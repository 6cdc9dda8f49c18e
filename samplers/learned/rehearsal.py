"""All of learning on a stand-in that costs nothing.

The stand-in is a mixture of two points a coordinate, in two dimensions, on the model's schedule, with the same seeds, batches
and stages. What it is asked, the model will be asked. Descents are rehearsed with a tenth and a fifth of their steps, and
their cost is a line through the two.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewstep.samplers.learned.learning_run import Run
from fewstep.samplers.learned.planning import Plan
from fewstep.samplers.learned.problem.problem import Problem
from fewstep.samplers.learned.problem.teacher import Teacher
from fewstep.samplers.learned.tasks.evidence import FEWEST
from fewstep.samplers.learned.tasks.learner_entry import METHODS
from fewstep.samplers.learned.tasks.learner_task import Progress
from fewstep.samplers.run.denoiser import Denoiser
from fewstep.samplers.schedule.base import NoiseSchedule
from fewstep.samplers.schedule.outputs import prediction_coefficients

SHAPE = (2,)  # of the stand-in's samples
SIDE = 8  # most of an image
WIDTH = 0.3  # of its two modes, at -1 and 1


@dataclass(frozen=True)
class Cost:
    """Network evaluations of a stage, samples times calls; `backward`: those of them that are gone back through."""

    stage: str
    evaluations: int
    backward: int = 0


def extrapolated(plan: Plan, problem: Callable[[], Problem]) -> list[Cost]:
    """What a plan costs for one guidance, from rehearsals with a tenth and a fifth of the steps of every descent."""
    if unknown := [name for name, _ in plan.stages if "cache" in METHODS[name].learns]:
        raise ValueError(
            f"{unknown[0]!r} leaves out blocks of the network, and nothing is known of what that costs before it is tried: it "
            "asks each of `samples` some 3 nfe times, and with rows='greedy' `search` of them nfe^3 / 4 times. Estimate "
            "without it"
        )
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
    for part in (*problem.parts(plan.train), *problem.parts(plan.valid), *problem.parts(plan.guard[:FEWEST])):
        teacher.end(part)
    checked = plan.valid if plan.means is None else plan.valid[: plan.means.checked]
    run.memo["doubt"] = 0.0 * teacher.self_error(checked)  # it costs the same, and says nothing of the model's own
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
    """The problem with the mixture in the place of the network: the same schedule, prediction, ends and batches.

    Of images it has small ones, with as many channels: what filters cost is counted by them.
    """
    network = _network(problem.schedule, problem.prediction)
    fn = network if gradients else lambda x, tau: network(x.detach(), tau.detach())
    denoiser = Denoiser(fn, problem.schedule, problem.prediction)
    denoiser.t_start = problem.t_start  # type: ignore[attr-defined]
    how: dict[str, Any] = {"batch_size": problem.batch_size, "dtype": torch.float64, "device": "cpu"}
    images = len(problem.shape) == 3
    shape = (problem.shape[0], *(min(side, SIDE) for side in problem.shape[1:])) if images else SHAPE
    found = Problem(denoiser, shape=shape, guidance=problem.guidance, **how)
    found.numbers = problem.numbers  # which decides what auto does
    return found


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
