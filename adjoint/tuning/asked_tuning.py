"""What `tune` was asked for, checked before any network call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from fewstep.adjoint.gradient.sampling import METHODS
from fewstep.adjoint.tuning.losses.data_features import Eyes, features_of
from fewstep.adjoint.tuning.losses.loss_entry import JUDGES, Term, terms_of
from fewstep.adjoint.tuning.trained_weights import KINDS
from fewstep.adjoint.tuning.tuning_run import Course
from fewstep.checks import positive, unknown, whole, within
from fewstep.samplers.artefact.artefact import Artefact
from fewstep.samplers.artefact.choosing import Named, chosen
from fewstep.samplers.building.compiling import build
from fewstep.samplers.learned.problem.problem import Problem
from fewstep.samplers.learned.tasks.learner_entry import as_told
from fewstep.samplers.run.checks import validate_place
from fewstep.samplers.table.tableau import Tableau

EXACT = tuple(method for method in METHODS if not method.startswith("adjoint_"))
RATES = {"all": 1e-4, "trainable": 1e-4, "lora": 1e-3}
FEWEST = 8  # seeds to learn on, and of the guard


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Losses, course and seeds."""

    terms: tuple[Term, ...]
    course: Course
    train: tuple[int, ...]
    valid: tuple[int, ...]
    guard: tuple[int, ...]
    judge: str
    method: str

    def needs(self, what: str) -> bool:
        """Whether any of the losses needs it."""
        return any(what in term.needs for term in self.terms)

    def eyes(self, extractor: Any, device: Any) -> Eyes:
        """What images are looked at by."""
        return Eyes(extractor, device)

    def table(self, problem: Problem, solver: Any, nfe: int | None, grid: Any, options: Mapping[str, Any]) -> Tableau:
        """The table that weights are tuned for."""
        plays = chosen(solver)
        if isinstance(plays, Artefact):
            return plays.table(
                nfe, problem.guidance, schedule=problem.schedule, prediction=problem.prediction, shape=problem.shape
            )
        if isinstance(plays, Named):
            if plays.entry.kind == "driver":
                raise ValueError(
                    f"{plays.entry.name!r} chooses its steps as it goes: weights are tuned for a table, such as that of ddim"
                )
            start = None if problem.t_start == problem.schedule.t_max else problem.t_start
            grid = plays.grid if grid is None else grid
            nfe = 4 if nfe is None and grid is None else nfe
            return build(plays.entry, problem.schedule, nfe, grid, t_start=start, **options)
        if nfe not in (None, plays.nfe) or grid is not None or options:
            raise ValueError(
                f"a table is compiled already, of {plays.nfe} evaluations: leave nfe, grid and options away"
            )
        validate_place(plays, problem.part([0]).denoiser)
        return plays

    def features(self, data: Any, own: Sequence[Tensor] | None, eyes: Eyes, problem: Problem) -> Tensor:
        """(N, d) of data; own: the ends of the teacher's runs where these are the data."""
        device = problem.part([0]).x_T.device
        with torch.no_grad():
            found = features_of(data if own is None else torch.cat(list(own)).float().cpu().numpy(), eyes)
        return found.to(device)

    def content(self) -> dict[str, Any]:
        """As JSON: everything that decides the weights, seeds apart."""
        course = {k: v for k, v in asdict(_alone(self.course)).items() if k != "accelerator"}
        losses = [[term.entry.name, term.weight, as_told(term.options)] for term in self.terms]
        return {"loss": losses, "judge": self.judge, "method": self.method, **course}


def asked(
    loss: Any, *, weights: str, judge: str, data: Any, reward: Any, seeds: Sequence[int], guard_seeds: Sequence[int],
    method: str, accelerator: Any, course: Mapping[str, Any],
) -> Asked:  # fmt: skip
    """Everything that can be known to be wrong without the model; arguments as of `tune`."""
    for name, value, known in (("weights", weights, KINDS), ("judge", judge, JUDGES), ("method", method, EXACT)):
        if value not in known:
            raise unknown(name, value, known)
    terms = terms_of(loss)
    needed = {need: term.entry.name for term in terms for need in term.needs}
    if data is None and "data" in needed:
        raise ValueError(
            f"loss {needed['data']!r} compares with data: give `data`, a folder of images, an array, or 'teacher', the ends of "
            "long runs"
        )
    if reward is None and "reward" in needed:
        raise ValueError(f"loss {needed['reward']!r} needs `reward`, a function images -> (B,) with a gradient")
    if reward is not None and not callable(reward):
        raise ValueError(f"`reward` must be a function images -> (B,); got {type(reward).__name__}")
    own, held = tuple(int(s) for s in seeds), tuple(int(s) for s in guard_seeds)
    if len(own) < FEWEST or len(held) < FEWEST:
        raise ValueError(
            f"tuning needs at least {FEWEST} `seeds` and {FEWEST} `guard_seeds`; got {len(own)} and {len(held)}"
        )
    if len({*own, *held}) < len(own) + len(held):
        raise ValueError("`seeds` and `guard_seeds` share numbers, or repeat them: the guard's must be untouched")
    if accelerator is not None and accelerator.num_processes > 1 and course["seconds"] is not None:
        raise ValueError("`seconds` ends processes at different steps: say `steps` where several run")
    cut = max(4, len(own) // 8)
    return Asked(
        terms=terms,
        course=_course(course, weights),
        train=own[:-cut],
        valid=own[-cut:],
        guard=held,
        judge=judge,
        method=method,
    )


def _course(given: Mapping[str, Any], weights: str) -> Course:
    for name in ("steps", "batch", "accumulate", "every"):
        whole(name, given[name])
    positive("clip", given["clip"], zero=True, hint="0 lets any gradient pass")
    within("ema", given["ema"], 0, 0.99999, hint="It is the decay of the average")
    if given["seconds"] is not None:
        positive("seconds", given["seconds"])
    lr = RATES[weights] if given["lr"] is None else positive("lr", given["lr"])
    return Course(**{**given, "lr": lr})


def _alone(course: Course) -> Course:
    return Course(**{**vars(course), "accelerator": None})
