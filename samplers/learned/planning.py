"""What `learn` was asked for, checked before any network call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from fewstep.checks import evaluations
from fewstep.samplers.building.names import checked_options, solver_of
from fewstep.samplers.learned.problem.recipes import SHORTLIST
from fewstep.samplers.learned.problem.teacher import NFE, SOLVER
from fewstep.samplers.learned.tasks.budget import Means, means
from fewstep.samplers.learned.tasks.learner_entry import METHODS, as_told
from fewstep.samplers.learned.yardsticks.yardstick import LATENT, Yardstick, judge_of, named, yardstick

Stage = tuple[str, dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What was asked for, checked: everything that decides the result, and nothing else."""

    solver: str
    options: Mapping[str, Any]
    nfes: tuple[int, ...]
    guidances: tuple[float | None, ...]
    stages: tuple[Stage, ...]
    train: tuple[int, ...]
    valid: tuple[int, ...]
    guard: tuple[int, ...]
    teacher: Mapping[str, Any]
    seconds: float | None = None
    rivals: bool = True
    loss: Yardstick = LATENT
    judge: str = "loss"
    means: Means | None = None
    remember: bool = True

    def stages_of(self, nfe: int) -> tuple[Stage, ...]:
        """The stages for one number of evaluations: with a budget, auto does what there are means for."""
        own = {} if self.means is None else self.means.auto[nfe]
        own = own if self.remember else {**own, "remember": False}
        return tuple((name, {**own, **options} if name == "auto" else options) for name, options in self.stages)

    @property
    def paths(self) -> tuple[int, ...]:
        """Seeds whose reference is read on the way: the training ones, where a stage compares states there."""
        return self.train if any(name == "auto" or METHODS.find(name).paths for name, _ in self.stages) else ()

    def content(self) -> dict[str, Any]:
        """As JSON; seeds as hashes where they are long."""
        return {
            "solver": self.solver,
            "options": dict(self.options),
            "method": [[name, as_told(options)] for name, options in self.stages],
            "seeds": {name: short(getattr(self, name)) for name in ("train", "valid", "guard")},
            "teacher": dict(self.teacher),
            **({} if self.seconds is None else {"seconds": self.seconds}),
            **({} if self.rivals else {"rivals": False}),
            **({} if self.loss is LATENT else {"loss": self.loss.content(), "judge": self.judge}),
            **({} if self.means is None else {"budget": self.means.told()}),
        }


def short(seeds: tuple[int, ...]) -> Any:
    """First and last + 1 of consecutive numbers, or all of them."""
    if seeds == tuple(range(seeds[0], seeds[0] + len(seeds))):
        return {"from": seeds[0], "to": seeds[-1] + 1}
    return list(seeds)


def planned(
    model: Any,
    *,
    solver: str,
    nfe: int | Sequence[int],
    method: str | Sequence[Any],
    seeds: Sequence[int],
    guard_seeds: Sequence[int],
    guidance: float | Sequence[float] | None = None,
    solver_options: Mapping[str, Any] | None = None,
    teacher: Mapping[str, Any] | None = None,
    seconds: float | None = None,
    rivals: bool = True,
    loss: Any = None,
    judge: str = "loss",
    spec: Mapping[str, Any] = MappingProxyType({}),
    budget: int | None = None,
    remember: bool = True,
) -> Plan:
    """Everything checked before any network call."""
    entry, _ = solver_of(SHORTLIST[0] if solver == "auto" else solver)
    name = solver if entry.bound else entry.name
    if entry.kind != "tableau":
        raise ValueError(f"{name!r} chooses its steps as it goes: learn on a solver that is a table, such as dpmpp_2m")
    checked_options(entry, solver_options or {})
    given = tuple(nfe) if isinstance(nfe, Sequence) else (nfe,)
    nfes = tuple(evaluations("nfe", n, hint="It counts network evaluations; several take a table each") for n in given)
    if not nfes or len(set(nfes)) < len(nfes):
        raise ValueError(f"`nfe` must be a number of network evaluations, or several different ones; got {nfe!r}")
    if isinstance(loss, str) and not named(loss) and isinstance(method, str) and "loss" in METHODS.find(method).options:
        loss, spec = None, {**spec, "loss": loss}  # how a descent sums the errors of a batch
    by = yardstick(loss)
    judge_of(by, judge)
    stages = _stages(method, spec)
    seeds, held = [int(s) for s in seeds], tuple(int(s) for s in guard_seeds)
    if len(seeds) < 8 or len(held) < 8:
        raise ValueError(f"learning needs at least 8 `seeds` and 8 `guard_seeds`; got {len(seeds)} and {len(held)}")
    if len({*seeds, *held}) < len(seeds) + len(held):
        raise ValueError("`seeds` and `guard_seeds` share numbers, or repeat them: the guard's must be untouched")
    if isinstance(model, Mapping):
        scales: tuple[float | None, ...] = tuple(sorted(model))
    elif guidance is None or isinstance(guidance, (int, float)):
        scales = (None if guidance is None else float(guidance),)
    else:
        scales = tuple(sorted({float(g) for g in guidance}))
    told: dict[str, Any] = {"solver": name if entry.stochastic else SOLVER}
    told |= {"nfe": 200 if entry.stochastic else max(NFE, 6 * max(nfes)), **(teacher or {})}
    there: Means | None = None
    if budget is not None:
        steps = (teacher or {}).get("nfe")
        there = means(budget, nfes, len(scales), (len(seeds), len(held)), steps, remember)
        seeds, held, told["nfe"] = seeds[: there.seeds], held[: there.guard], there.steps
    cut = max(4, len(seeds) // 4)
    return Plan(
        solver=solver, options=dict(solver_options or {}), nfes=nfes, guidances=scales, stages=stages,
        train=tuple(seeds[:-cut]), valid=tuple(seeds[-cut:]), guard=held, teacher=told, seconds=seconds,
        rivals=rivals, loss=by, judge=judge, means=there, remember=remember,
    )  # fmt: skip


def _stages(method: str | Sequence[Any], spec: Mapping[str, Any]) -> tuple[Stage, ...]:
    """Names and options of the stages; ValueError for unknown ones."""
    given: Sequence[Any] = [(method, dict(spec))] if isinstance(method, str) else list(method)
    if not isinstance(method, str) and spec:
        raise ValueError(
            f"give options beside their stage, [('ld3', {{...}}), ...]; got {', '.join(spec)} for all of them"
        )
    stages = [(s, {}) if isinstance(s, str) else (s[0], dict(s[1])) for s in given]
    known = [(METHODS.find(name), options) for name, options in stages]
    return tuple((entry.name, entry.checked(options)) for entry, options in known)
