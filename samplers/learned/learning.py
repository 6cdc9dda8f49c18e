"""`learn`: from a model, a solver and a number of evaluations to a table that is certainly better, or to none.

    fixed recipes --> stages, each from the best table so far --> best on validation seeds --> guard on untouched seeds

Every stage's table competes with every fixed recipe, so that learning can only lose where the guard's seeds say so, and then
the best fixed recipe is what comes back.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from fewstep.samplers.artefact.artefact import Artefact, Learned, prediction_name
from fewstep.samplers.artefact.corrections import corrections
from fewstep.samplers.learned.planning import Plan, planned, short
from fewstep.samplers.learned.problem.problem import Problem
from fewstep.samplers.learned.problem.recipes import Recipe, recipes
from fewstep.samplers.learned.problem.teacher import Teacher
from fewstep.samplers.learned.progress import shown
from fewstep.samplers.learned.tasks import guard
from fewstep.samplers.learned.tasks.screening import screened
from fewstep.samplers.learned.tasks.task import Progress, Task
from fewstep.samplers.table.tableau import Tableau

TRUSTED = 0.25  # of the base's error: the teacher must be known better than that


def learn(
    model: Any,
    solver: str = "dpmpp_2m",
    nfe: int | Sequence[int] = 5,
    method: str | Sequence[Any] = "auto",
    *,
    shape: Sequence[int] | None = None,
    seeds: Sequence[int] = range(192),
    guard_seeds: Sequence[int] = range(1000, 1128),
    guidance: float | Sequence[float] | None = None,
    solver_options: Mapping[str, Any] | None = None,
    teacher: Mapping[str, Any] | None = None,
    cache: Any = None,
    resume: str | Path | None = None,
    progress: bool | Callable[[Progress], Any] = True,
    seconds: float | None = None,
    classes: Sequence[int] | None = None,
    prompt: str | Sequence[str] | None = None,
    batch_size: int = 64,
    device: Any = None,
    dtype: torch.dtype | str | None = None,
    **spec: Any,
) -> Artefact:
    """Learn where to step, with which weights and network times, for one model, solver and number of evaluations.

    The network's weights stay as they are; what is learned are some tens of numbers, in seconds to minutes.

    Args:
        model: Denoiser, diffusers pipeline, "demo", or a folder or hub id of a pipeline; or {guidance: Denoiser}.
        solver: what is corrected; "auto": the best of a few. nfe: network evaluations, or several. method: "auto", a name
            in METHODS, or a list of names and (name, options), each stage from the best table so far.
        shape: of one sample, for a Denoiser. seeds: of the samples learned on, three quarters, and chosen on, the rest.
        guard_seeds: untouched ones, which decide whether the result is better. guidance: scale, or several: a table each.
        solver_options: fixed options of the solver; others (order, lower_order_final, corrector) are tried.
        teacher: {"solver": "dpmpp_3m", "nfe": n, ...}, the reference; n is 6 times the largest `nfe` and 40 at least unless
            told. cache: folder of reference runs; None: the user's, False: none. resume: folder in which an interrupted
            run is found again. progress: a bar, or a callable that gets Progress. seconds: limit of each gradient stage;
            without it the result depends on nothing but what is given here.
        classes, prompt, batch_size, device: of the samples. dtype: what a network that is loaded here computes in, or x_T of
            a Denoiser; None: float32, and as it is for a pipeline. spec: options of a single `method`.

    Returns:
        Artefact with one table for each (nfe, guidance): .save(path), .report. A table that is not certainly better than
        the best fixed recipe is that recipe, with status "no-gain".

    Raises:
        ValueError: unknown names or options, seeds used twice, a teacher that is not converged.
    """
    plan = planned(solver, nfe, method, seeds, guard_seeds, guidance, solver_options, teacher, seconds, spec, model)
    how: dict[str, Any] = {"shape": shape, "classes": classes, "prompt": prompt}
    how |= {"batch_size": batch_size, "device": device, "dtype": dtype}
    learned: list[Learned] = []
    facts: dict[str, Any] = {}
    drawn: dict[str, Any] = {}
    with shown(progress) as tell:
        for scale in plan.guidances:
            own = model[scale] if isinstance(model, Mapping) else model
            problem = Problem(own, guidance=scale, **how)
            run = Run(
                plan, problem, Teacher(problem, cache=cache, **plan.teacher), tell, _folder(resume, plan, problem)
            )
            for n in plan.nfes:
                if not any(stage.get("interrupted") for one in learned for stage in one.stages):
                    learned.append(run.table(n))
            facts = {
                "name": problem.name, "prediction": prediction_name(problem.prediction), "shape": list(problem.shape),
                "fingerprint": problem.fingerprint,
            }  # fmt: skip
            drawn = _drawn(problem)
    if plan.guidances != (None,):
        drawn["guidance"] = list(plan.guidances)
    return Artefact(tuple(_alike(learned)), facts, {**plan.content(), "samples": drawn})


def _drawn(problem: Problem) -> dict[str, Any]:
    """What samples were drawn of and in, as JSON: the same however classes and prompts were given."""
    found = problem.conditions
    if found.get("classes"):
        found["classes"] = short(tuple(found["classes"]))
    return {**found, "dtype": str(problem.dtype).removeprefix("torch.")}


def _alike(tables: Sequence[Learned]) -> list[Learned]:
    """Tables of one nfe relative to one solver, where they can be, so that guidances between theirs can be played."""
    first: dict[int, Tableau] = {}
    found = []
    for one in tables:
        like = first.setdefault(one.nfe, one.tableau)
        moved = replace(one.tableau, name=like.name, options=like.options, order=like.order)
        try:
            corrections(moved)
        except ValueError:
            moved = one.tableau
        found.append(replace(one, tableau=moved, base={"grid": one.base["grid"]}))
    return found


@dataclass(eq=False)
class Run:
    """All tables of one problem."""

    plan: Plan
    problem: Problem
    teacher: Teacher
    tell: Callable[[Progress], Any] | None
    folder: Path | None
    memo: dict[Any, Any] = field(default_factory=dict)

    def table(self, nfe: int) -> Learned:
        """The table for one number of evaluations."""
        plan, problem = self.plan, self.problem
        task = Task(problem, self.teacher, nfe, plan.train, plan.valid, plan.seconds, self.tell, memo=self.memo)
        known = recipes(plan.solver, problem.schedule, nfe, ends=(problem.t_start, problem.t_end), options=plan.options)
        task.stage = "fixed recipes"
        known = screened(task, known)
        scores = [task.offer(r.table, i + 1, len(known)) for i, r in enumerate(known)]
        ranked = task.fixed = [known[i] for i in sorted(range(len(known)), key=lambda i: scores[i])]
        self._trust(task, ranked[0])
        self._learn(task)
        best = task.best
        assert best is not None
        told = guard.report(task, best, ranked[0].table, plan.guard)
        sure = guard.certain(told["test"])
        told |= {"best_fixed_recipe": str(ranked[0]), "teacher_error": self._doubt}
        told["fixed"] = {str(r): s for r, s in zip(known, scores, strict=True)}
        return Learned(
            best if sure else ranked[0].table,
            problem.guidance,
            {"grid": ranked[0].grid},
            "learned" if sure else "no-gain",
            told,
            task.done,
        )

    def _trust(self, task: Task, fixed: Recipe) -> None:
        """ValueError where the teacher is not much better known than what shall be learned from it."""
        if "doubt" not in self.memo:
            self.memo["doubt"] = self.teacher.self_error(self.plan.valid)
        rms = float(task.errors(fixed.table, task.valid_parts()).mean().sqrt())
        if self._doubt > TRUSTED * rms:
            raise ValueError(
                f"the teacher is not converged: {self.teacher.solver} with {self.teacher.nfe} evaluations is "
                f"{self._doubt:.3g} from a run of twice the length, and {fixed} errs by {rms:.3g}. Give it more, "
                f"teacher={{'nfe': {4 * self.teacher.nfe}}}"
            )

    @property
    def _doubt(self) -> float:
        return float(self.memo["doubt"])

    def _learn(self, task: Task) -> None:
        """Run the stages, each from the best table so far; Ctrl-C leaves the rest away."""
        task.store = self.folder
        for name, options in self.plan.stages:
            assert task.best is not None
            try:
                task.run(name, task.best, **options)
            except KeyboardInterrupt:
                task.done.append({"method": name, "options": options, "interrupted": True})
                return


def _folder(resume: str | Path | None, plan: Plan, problem: Problem) -> Path | None:
    """Where the stages of exactly this work are kept."""
    if resume is None:
        return None
    about = [plan.content(), problem.fingerprint, problem.guidance, _drawn(problem)]
    said = json.dumps(about, sort_keys=True, default=str)
    folder = Path(resume) / hashlib.sha256(said.encode()).hexdigest()[:24]
    folder.mkdir(parents=True, exist_ok=True)
    return folder
