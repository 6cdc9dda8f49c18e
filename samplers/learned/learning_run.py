"""How one table is learned.

    fixed recipes --> stages, each from the best table so far --> best on validation seeds --> guard on untouched seeds

Every stage's table competes with every fixed recipe, so that learning can only lose where the guard's seeds say so, and then
the best fixed recipe is what comes back.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from math import ceil, inf
from pathlib import Path
from typing import Any

from fewstep.output.files import write_text
from fewstep.output.places import prove_folder
from fewstep.output.seal import sealed, unsealed
from fewstep.samplers.artefact.artefact import Learned
from fewstep.samplers.learned.planning import Plan, short
from fewstep.samplers.learned.problem.fingerprint import ANSWERS, Answers, alike, named
from fewstep.samplers.learned.problem.kept_runs import folder_of
from fewstep.samplers.learned.problem.limits import Spent
from fewstep.samplers.learned.problem.problem import Problem
from fewstep.samplers.learned.problem.recipes import Recipe
from fewstep.samplers.learned.problem.teacher import Teacher
from fewstep.samplers.learned.tasks import guard
from fewstep.samplers.learned.tasks.budget import OVERHEAD
from fewstep.samplers.learned.tasks.learner_entry import as_told
from fewstep.samplers.learned.tasks.learner_task import FIXED, Progress, Task, score
from fewstep.samplers.learned.tasks.screening import seen, sought
from fewstep.samplers.learned.yardsticks.yardstick import judge_of
from fewstep.samplers.table.jsonfile import plainly, read, understood

TRUSTED = 0.25  # of the base's error: the teacher must be known better than that


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
        task = Task(
            problem,
            self.teacher,
            nfe,
            plan.train,
            plan.valid,
            seconds=plan.seconds,
            tell=self.tell,
            memo=self.memo,
            loss=plan.loss,
            judged=judge_of(plan.loss, plan.judge),
        )
        task.stage = FIXED
        self._allow(task)
        ranked, scores = self._ranked(task)
        own = ranked[0]
        self._trust(task, own)
        self._learn(task)
        if plan.means is not None:
            problem.limit = plan.means.evaluations
        if (calls := _calls_of_equal_cost(task)) is not None:
            few = replace(task, nfe=calls, best=None, best_score=inf, base_score=inf, fixed=[], done=[], best_of={})
            ranked, scores = self._ranked(few)
        most = guard.CANDIDATES if plan.means is None else 1
        tried = guard.tried(task, ranked[0].table, plan.guard, self._doubt, most)
        told = guard.report(task, tried.table, ranked[0].table, plan.guard[: tried.samples], self._doubt)
        told |= {"best_fixed_recipe": str(ranked[0]), "teacher_error": self._doubt, "guard": tried.told()}
        told["fixed"] = {str(r): scores[id(r)] for r in ranked}
        if calls is not None:
            told["cost"] = {"learned": tried.table.cost, "best_fixed": ranked[0].table.cost}
        return Learned(
            tried.table if tried.sure else ranked[0].table,
            problem.guidance,
            {"grid": own.grid if tried.sure else ranked[0].grid},
            "learned" if tried.sure else "no-gain",
            told,
            task.done,
            None if tried.sure or tried.table is ranked[0].table else tried.table,
        )

    def _ranked(self, task: Task) -> tuple[list[Recipe], dict[int, float]]:
        """The fixed recipes worth looking at, best first, and the score of each by its id."""
        plan = self.plan
        screening = (
            None if plan.means is None else plan.means.screening.get(task.nfe, min(plan.means.screening.values()))
        )
        known = sought(task, plan.solver, dict(plan.options), plan.rivals, screening)
        for i, recipe in enumerate(known.own):
            task.offer(recipe.table, i + 1, len(known.own))
        by = self.problem.parts(seen(task))
        scores = {id(r): score(task.errors(r.table, by)) for r in (*known.own, *known.others)}
        task.fixed = sorted(known.own, key=lambda r: scores[id(r)])
        return sorted([*known.own, *known.others], key=lambda r: scores[id(r)]), scores

    def _trust(self, task: Task, fixed: Recipe) -> None:
        """ValueError where the teacher is not much better known than what shall be learned from it."""
        self._ask_doubt(task, self.plan.valid)
        rms = float(task.errors(fixed.table, task.valid_parts()).mean().sqrt())
        if self._doubt > TRUSTED * rms:
            raise ValueError(
                f"the teacher is not converged: {self.teacher.solver} with {self.teacher.nfe} evaluations is "
                f"{self._doubt:.3g} from a run of twice the length, and {fixed} errs by {rms:.3g}. Give it more, "
                f"teacher={{'nfe': {4 * self.teacher.nfe}}}"
            )

    def _ask_doubt(self, task: Task, seeds: Sequence[int]) -> None:
        """How far the teacher is from a run of twice its length, by what tables are judged by; asked once."""
        if "doubt" not in self.memo:
            self.memo["doubt"] = self.teacher.self_error(seeds, task.judged.judged)

    @property
    def _doubt(self) -> float:
        return float(self.memo["doubt"])

    def _allow(self, task: Task) -> None:
        """Where there is a budget: what this table may spend until the guard, its share of what is left."""
        means, plan, problem = self.plan.means, self.plan, self.problem
        if means is None:
            return
        problem.limit = means.evaluations
        if plan.nfes.index(task.nfe) == 0:
            problem.spent += OVERHEAD
        self.teacher.prepare([*problem.parts(plan.train), *task.valid_parts(), *problem.parts(plan.guard)])
        self._ask_doubt(task, plan.valid[: means.checked])
        ahead = plan.nfes[plan.nfes.index(task.nfe) :]
        left = means.evaluations - problem.spent - sum(means.after(n) for n in ahead)
        problem.limit = problem.spent + left * task.nfe // sum(ahead)

    def _learn(self, task: Task) -> None:
        """Run the stages, each from the best table so far; Ctrl-C, or the budget's end, leaves the rest away."""
        task.store = self.folder
        for name, options in self.plan.stages_of(task.nfe):
            assert task.best is not None
            try:
                task.run(name, task.best, **options)
            except KeyboardInterrupt:
                task.done.append({"method": name, "options": as_told(options), "interrupted": True})
                return
            except Spent:
                task.done.append({"method": name, "options": as_told(options), "spent": True})
                return


def _calls_of_equal_cost(task: Task) -> int | None:
    """Whole evaluations that the tables cost which leave blocks of the network out, rounded up; None where there are none."""
    costs = [table.cost for _, table in task.best_of.values() if table.cache is not None]
    return ceil(max(costs) - 1e-9) if costs else None


def proved(cache: Any, resume: str | Path | None) -> None:
    """ValueError where reference runs or stages could not be kept: before anything is spent on them."""
    if (folder := folder_of(cache)) is not None:
        prove_folder(folder, "`cache`")
    if resume is not None:
        prove_folder(resume, "`resume`")


def stage_folder(resume: str | Path | None, plan: Plan, problem: Problem) -> Path | None:
    """Where the stages of exactly this work are kept: a folder named after it, of a network that answers alike.

    The first release named it without the answers; such a folder is gone on with, and its stages are judged again.

    Raises:
        ValueError: a network that does not answer the same twice, of which no stage could be known again.
    """
    if resume is None:
        return None
    place, told = Path(resume), [problem.guidance, _drawn(problem)]
    if (earlier := place / _named([plan.content(), problem.fingerprint, *told])).is_dir():
        return earlier
    answers = problem.behaviour
    if answers is None:
        raise ValueError(
            "`resume` needs a network that answers the same when it is asked the same, and this one does not, so that no "
            "stage could be known again: put it into .eval(), or leave `resume` away"
        )
    name = _named([plan.content(), problem.weights, *told])
    others = (folder for folder in sorted(place.glob(f"{name}-*")) if (folder / ANSWERS).is_file())
    found = next((folder for folder in others if alike(_answers_in(folder), answers)), None)
    return found or place / f"{name}-{named(answers)}"


def keep_answers(folder: Path, problem: Problem) -> None:
    """Write into a folder of stages what the network answers, where it is new."""
    if not (folder / ANSWERS).exists() and "-" in folder.name:  # not where the first release left it untold
        write_text(folder / ANSWERS, json.dumps(sealed({"answers": plainly(problem.behaviour)})))


def _answers_in(folder: Path) -> Answers:
    file, remedy = folder / ANSWERS, f"Remove {folder}, and its stages are done again"
    with understood(file):
        kept = unsealed(read(file, "the answers of a network"), file, remedy=remedy, required=True)
        return tuple(tuple(map(float, y)) for y in kept["answers"])


def _named(about: list[Any]) -> str:
    """Hash of what decides a result."""
    return hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode()).hexdigest()[:24]


def _drawn(problem: Problem) -> dict[str, Any]:
    """What samples were drawn of and in, as JSON: the same however classes and prompts were given."""
    found = problem.conditions
    if found.get("classes"):
        found["classes"] = short(tuple(found["classes"]))
    return {**found, "dtype": str(problem.dtype).removeprefix("torch.")}
