"""Learned tables against fixed recipes, paired, on seeds that learning has not seen.

For each table and each solver compared, the recipe is the one with the least error on these very seeds: hindsight that the
learned table does not have.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from fewstep.samplers.artefact.artefact import Artefact
from fewstep.samplers.artefact.learned_table import Learned
from fewstep.samplers.building.names import solver_of
from fewstep.samplers.learned.problem.problem import Problem, squared_errors
from fewstep.samplers.learned.problem.recipes import Recipe, recipes
from fewstep.samplers.learned.problem.teacher import Teacher
from fewstep.samplers.learned.report.verdict import Comparison, Row
from fewstep.samplers.learned.tasks.each_guidance import drawn_from, under_each
from fewstep.samplers.learned.tasks.guard import compared, summary
from fewstep.samplers.learned.tasks.learner_task import score
from fewstep.samplers.table.tableau import Tableau

TRUSTED = 0.25  # of an error: what the reference may be off by
Watch = Callable[[Sequence[Any], str], Iterable[Any]]


def compare_learned(
    artefact: Artefact,
    model: Any = "demo",
    *,
    nfe: Sequence[int] | None = None,
    guidance: Sequence[float] | None = None,
    seeds: Sequence[int] = range(5000, 5256),
    against: Sequence[str] = (),
    measure: Callable[[Any, int, Sequence[int], float | None], Mapping[str, float]] | None = None,
    watch: Watch = lambda items, _: items,
    **how: Any,
) -> Comparison:
    """Errors to a converged reference of an artefact's tables and of the fixed recipes of solvers, on fresh seeds.

    Args:
        artefact: what is judged. model: as in `learn`. nfe, guidance: of the tables; all of them where nothing is said.
        seeds: of the samples, at least 8. against: solvers beside the artefact's own, of the same kind of reference.
        measure: `measure(contender, nfe, seeds, guidance) -> {metric: value}` of an artefact, for more columns.
        watch: `watch(items, label)` yields the items while it shows progress. how: as `Problem` takes it.

    Raises:
        ValueError: seeds used in learning, tables that are not there, another schedule or prediction, fewer than 8 seeds.
    """
    seeds = [int(seed) for seed in seeds]
    tables = checked(artefact, nfe, guidance, seeds, against)
    rows: list[Row] = []
    notes: list[str] = []
    reference = name = ""
    with drawn_from(model):
        for problem in under_each(model, tuple(dict.fromkeys(t.guidance for t in tables)), **how):
            scale = problem.guidance
            own, name = [t for t in tables if t.guidance == scale], problem.name
            for t in own:
                artefact.table(
                    t.nfe, scale, schedule=problem.schedule, prediction=problem.prediction, shape=problem.shape
                )
            teacher = Teacher(problem, cache=False, **artefact.provenance.get("teacher", {}))
            reference = f"{teacher.nfe} evaluations of {teacher.solver}"
            if artefact.model.get("fingerprint") not in (None, problem.fingerprint):
                notes.append("this model's weights are not those that the artefact was learned on")
            doubt = teacher.self_error(seeds)
            trials = [_Trial(t, against, artefact, problem) for t in own]
            for part in watch(problem.parts(seeds), "batch"):
                truth = problem.draw(teacher.table, part)
                for trial in trials:
                    trial.meet(problem, part, truth)
            rows += [row for trial in trials for row in trial.rows(artefact, seeds, measure)]
            smallest = min(row.learned["rms"] for row in rows)
            if doubt > TRUSTED * smallest:
                notes.append(
                    f"the reference is {doubt:.2g} from a run of twice its length, near the smallest error, {smallest:.2g}"
                )
    about = {"model": name, "artefact": artefact.hash, "samples": len(seeds), "seed": seeds[0], "reference": reference}
    return Comparison(tuple(rows), about, tuple(dict.fromkeys(notes)))


def checked(
    artefact: Artefact,
    nfe: Sequence[int] | None,
    guidance: Sequence[float] | None,
    seeds: Sequence[int],
    against: Sequence[str],
) -> list[Learned]:
    """The tables meant; ValueError for all that is wrong before a model is loaded."""
    for kind, given, known in (("nfe", nfe, artefact.nfes), ("guidance", guidance, artefact.guidances)):
        for value in given or ():
            if value not in known:
                listed = ", ".join(f"{v:g}" for v in known) or "none"
                raise ValueError(f"the artefact has no table for {kind} {value:g}; it has {kind} {listed}")
    if len(seeds) < 8 or len(set(seeds)) < len(seeds):
        raise ValueError(f"a comparison needs at least 8 seeds, each once; got {len(seeds)}. Give more with -n")
    if shared := used_seeds(artefact) & set(seeds):
        free = max(used_seeds(artefact)) + 1
        raise ValueError(
            f"{len(shared)} of the seeds, {min(shared)} to {max(shared)}, were used in learning: a comparison needs others, "
            f"e.g. --seed {free}"
        )
    tables = [t for t in artefact.tables if (not nfe or t.nfe in nfe) and (not guidance or t.guidance in guidance)]
    noisy = tables[0].tableau.stochastic
    for name in against:
        entry = solver_of(name)[0]
        if entry.kind != "tableau":
            raise ValueError(f"{name!r} chooses its steps as it goes: compare with a solver that is a table")
        if entry.stochastic or noisy:
            raise ValueError(
                f"{name!r} and {tables[0].tableau.name!r} do not go to the same samples: where noise is drawn, a table is "
                "compared with its own solver alone"
            )
    return tables


def used_seeds(artefact: Artefact) -> set[int]:
    """Every seed that had a part in learning, as the provenance tells."""
    found: set[int] = set()
    for told in artefact.provenance.get("seeds", {}).values():
        found.update(range(told["from"], told["to"]) if isinstance(told, Mapping) else told)
    return found


def _spelled(name: str) -> str:
    """The registered name, so that two spellings are one; the name as it is where it brings a grid or options."""
    entry, grid = solver_of(name)
    return name if grid is not None or entry.bound else entry.name


class _Trial:
    """One learned table and everything it is compared with, and their squared errors so far."""

    def __init__(self, learned: Learned, against: Sequence[str], artefact: Artefact, problem: Problem) -> None:
        self.learned = learned
        ends = (problem.t_start, problem.t_end)
        own = artefact.provenance.get("solver", learned.base["solver"])
        self.known: list[list[Recipe]] = []
        for name in dict.fromkeys((own, *(_spelled(a) for a in against))):
            options = artefact.provenance.get("options", {}) if name == own else {}
            self.known.append(recipes(name, problem.schedule, learned.nfe, ends=ends, options=options))
        self.errors: dict[int, list[Tensor]] = {}

    @property
    def _tables(self) -> list[Tableau]:
        return [self.learned.tableau, *(recipe.table for group in self.known for recipe in group)]

    def meet(self, problem: Problem, part: Any, truth: Tensor) -> None:
        """Errors of every table on one part."""
        for i, table in enumerate(self._tables):
            self.errors.setdefault(i, []).append(squared_errors(problem.draw(table, part), truth))

    def rows(self, artefact: Artefact, seeds: Sequence[int], measure: Any) -> list[Row]:
        """One a solver."""
        learned, *others = (torch.cat(parts) for parts in self.errors.values())
        found, t = [], self.learned
        mine = measure(artefact, t.nfe, seeds, t.guidance) if measure else {}
        for group in self.known:
            errors, others = others[: len(group)], others[len(group) :]
            scores = [score(e) for e in errors]
            best = min(range(len(group)), key=scores.__getitem__)
            if not isfinite(scores[best]):
                raise ValueError(f"{group[best]} at {t.nfe} evaluations gives samples that are not finite")
            theirs = measure(_fixed(group[best], artefact, t), t.nfe, seeds, t.guidance) if measure else {}
            more = {name: (mine[name], theirs[name]) for name in mine}
            errors_of = (summary(learned), summary(errors[best]), compared(learned, errors[best]))
            found.append(Row(t.nfe, t.guidance, str(group[best]), *errors_of, more))
        return found


def _fixed(recipe: Recipe, artefact: Artefact, learned: Learned) -> Artefact:
    """A recipe in the form of an artefact, to be measured in the same way."""
    base = {"solver": recipe.table.name, "grid": recipe.grid}
    return Artefact((Learned(recipe.table, learned.guidance, base, "no-gain"),), artefact.model)
