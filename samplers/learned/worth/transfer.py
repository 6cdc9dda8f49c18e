"""What a learned table is worth elsewhere: other seeds, guidance, words, sizes, adapters. Asked for, not guessed.

Each row has the rms to a reference run there of the table, of the recipe it was learned from, and their ratio.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch

from fewstep.samplers.artefact.corrections import base_of
from fewstep.samplers.artefact.learned_table import Learned
from fewstep.samplers.grids.grid_entry import GRIDS
from fewstep.samplers.learned.problem.problem import Problem, squared_errors
from fewstep.samplers.learned.problem.recipes import recipes, rivals
from fewstep.samplers.learned.problem.teacher import Teacher
from fewstep.samplers.pipeline.prompts import shipped_prompts
from fewstep.samplers.table.tableau import Tableau
from fewstep.samplers.validity.domain import adapters_of, networks_of

SEEDS = range(50_000, 50_016)
FACTORS = (0.7, 1.5)  # of a guidance scale
Changes = Mapping[str, Mapping[str, Any]]


def checked_transfer(transfer: Any) -> Changes | bool:
    """True for the usual places, or {name: changes of the call}. ValueError for anything else."""
    if isinstance(transfer, bool) or transfer is None:
        return bool(transfer)
    if not isinstance(transfer, Mapping) or not all(isinstance(change, Mapping) for change in transfer.values()):
        raise ValueError(
            'transfer=True measures the usual places; others are {name: changes of the call}, for example {"wide": {"width": '
            f"1536}}}}; got {transfer!r:.80}"
        )
    return dict(transfer)


def measured_elsewhere(
    tables: Sequence[Learned], problem: Problem, transfer: Any, teacher: Mapping[str, Any], **solver: Any
) -> list[Learned]:
    """The tables, those of this problem's guidance with the matrix in their reports: "transfer", a row for every place.

    solver: name and options, of which the best fixed recipe was one.
    """
    places = _usual(problem) if transfer is True else {name: {"call": dict(c)} for name, c in transfer.items()}
    own = [t for t in tables if t.guidance == problem.guidance]
    recipe = {t.nfe: _recipe(t, problem, **solver) for t in own}
    rows: dict[int, list[dict[str, Any]]] = {t.nfe: [] for t in own}
    for name, change in {"other seeds": {}, **places}.items():
        for nfe, row in _row(own, recipe, problem, teacher, change).items():
            rows[nfe].append({"at": name, **row})
    done = {t.nfe: replace(t, report={**t.report, "transfer": rows[t.nfe]}) for t in own}
    return [done[t.nfe] if t.guidance == problem.guidance else t for t in tables]


def _usual(problem: Problem) -> dict[str, dict[str, Any]]:
    """Guidance a third weaker and a half stronger, words that were not learned on, adapters off, where there are such."""
    source = problem.source
    if source is None:
        return {}
    found: dict[str, dict[str, Any]] = {}
    for scale in source.place["guidance"].get("guidance_scale", [])[:1]:
        if scale not in (0, 1):
            found |= {f"guidance_scale {factor * scale:g}": {"guidance": factor * scale} for factor in FACTORS}
    words = source.conditions.get("prompt")
    if words and (unseen := [prompt for prompt in shipped_prompts() if prompt not in words]):
        found["unseen prompts"] = {"prompt": unseen}
    if adapters_of(source.pipe):
        found["adapters at half"] = {"adapters": 0.5}
    return found


def _row(
    tables: Sequence[Learned],
    recipe: Mapping[int, Tableau],
    problem: Problem,
    teacher: Mapping[str, Any],
    change: Mapping[str, Any],
) -> dict[int, dict[str, Any]]:
    wishes = {name: value for name, value in change.items() if name != "adapters"}
    pipe = problem.source.pipe if problem.source is not None else None
    with adapters_at(pipe, change["adapters"]) if "adapters" in change else nullcontext():
        there = problem.wishing(**wishes) if change else problem
        reference = Teacher(there, cache=False, **teacher)
        parts = there.parts(SEEDS)

        def rms(table: Tableau) -> float:
            errors = [squared_errors(there.draw(table, part), reference.end(part)) for part in parts]
            return float(torch.cat(errors).mean().sqrt())

        found = {}
        for one in tables:
            learned, fixed = rms(one.tableau), rms(recipe[one.nfe])
            found[one.nfe] = {"learned": learned, "fixed": fixed, "ratio": learned / fixed if fixed else None}
    return found


def _recipe(learned: Learned, problem: Problem, solver: str, options: Mapping[str, Any]) -> Tableau:
    """The best fixed recipe where it was learned, by its name; its own solver on its own times where none is called so."""
    ends, name = (problem.t_start, problem.t_end), str(learned.report.get("best_fixed_recipe"))
    grid = name.partition(" on ")[2].partition(" (")[0]
    grids = [grid] if grid in GRIDS else None  # one that an option names, in the solver's own name
    own = recipes(solver, problem.schedule, learned.nfe, ends=ends, options=options, grids=grids)
    others = rivals(problem.schedule, learned.nfe, grids or [], ends, ())
    return next((r.table for r in (*own, *others) if str(r) == name), base_of(learned.tableau))


@contextmanager
def adapters_at(pipe: Any, factor: float) -> Iterator[None]:
    """The pipeline's adapters at a share of their scales, for a while."""
    layers: list[Any] = [layer for network in networks_of(pipe).values() for layer in network.modules()]
    scaled = [(layer, layer.scaling) for layer in layers if isinstance(getattr(layer, "scaling", None), dict)]
    try:
        for layer, own in scaled:
            layer.scaling = {name: factor * scale for name, scale in own.items()}
        yield
    finally:
        for layer, own in scaled:
            layer.scaling = own
