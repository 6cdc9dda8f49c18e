"""What learning will cost, before it is done: evaluations as in a rehearsal, times as of a few calls of the model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, astuple, dataclass, replace
from math import prod
from typing import Any

from fewstep.output.page import Table
from fewstep.samplers.learned.planning import planned
from fewstep.samplers.learned.problem.problem import Problem
from fewstep.samplers.learned.rehearsal import Cost, extrapolated, stand_in
from fewstep.samplers.learned.tasks.each_guidance import first_of
from fewstep.samplers.learned.tasks.evidence import FEWEST
from fewstep.samplers.learned.tasks.measuring import measured, room
from fewstep.samplers.learned.yardsticks.yardstick import LATENT

BYTES = 4  # of a number in a kept state


@dataclass(frozen=True)
class Estimate:
    """stages: what is spent where. seconds: in all, None where the model was not timed. call: of one sample and call.

    more: evaluations besides, at most, where the guard has to look at all of its seeds. disk: bytes of the reference runs.
    memory: bytes of one call with its gradients, weights of the network included, and of the states that are held; None where
    it could not be measured.
    """

    stages: tuple[Cost, ...]
    seconds: float
    call: float
    more: int
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
        further = f"; up to {self.more:,} evaluations more while the guard is open" if self.more else ""
        return (
            f"{table}\nabout {minutes} at {1000 * self.call:.3g} ms a sample and call; memory {memory}; "
            f"reference runs {self.disk / 2**20:,.0f} MiB{further}"
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
    budget: int | str | None = None,
    memory: int | str | None = None,
    **how: Any,
) -> Estimate:
    """What `learn` with these arguments will spend: nothing is learned, and the model is asked about some twenty samples.

    Args:
        model, solver, nfe, method, ...: as in `learn`. how: shape, classes, prompt, call, batch_size, device, dtype.

    Raises:
        ValueError: whatever `learn` would refuse.
    """
    there = room(model, budget, memory, guidance=guidance, nfe=nfe, **how)
    plan = planned(
        model, solver=solver, nfe=nfe, method=method, seeds=seeds, guard_seeds=guard_seeds, guidance=guidance,
        solver_options=solver_options, teacher=teacher, seconds=seconds,
        rivals=rivals, loss=loss, judge=judge, budget=there.budget, remember=there.remember,
    )  # fmt: skip
    plan = replace(plan, loss=LATENT)  # which costs as many evaluations
    own, scale = first_of(model, guidance)
    problem = Problem(own, guidance=scale, **how)
    call, back, fixed, each_saved = astuple(measured(problem))
    saved = None if each_saved is None else fixed + each_saved * (there.most or problem.batch_size)
    once = extrapolated(plan, lambda: stand_in(problem, gradients=back is not None))
    stages = tuple(Cost(c.stage, *(len(plan.guidances) * n for n in (c.evaluations, c.backward))) for c in once)
    each = [(c.evaluations - c.backward) * call + c.backward * (call if back is None else back) for c in stages]
    limit = float("inf") if plan.seconds is None else plan.seconds * len(plan.nfes) * len(plan.guidances)
    spent = sum(min(s, limit) if c.backward else s for s, c in zip(each, stages, strict=True))
    further = 0 if plan.means else max(0, len(plan.guard) - FEWEST) * (plan.teacher["nfe"] + 2 * sum(plan.nfes))
    ends, size = len(plan.train) + len(plan.valid) + min(FEWEST, len(plan.guard)), BYTES * prod(problem.shape)
    disk = (ends + len(plan.paths) * 2 * plan.teacher["nfe"]) * len(plan.guidances) * size
    held = len(plan.train) * (max(plan.nfes) + 4) * size
    return Estimate(stages, spent, call, len(plan.guidances) * further, disk, None if saved is None else saved + held)
