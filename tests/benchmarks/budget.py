"""Gain over network evaluations spent: `learn(budget=N)` on two mixtures and the digits, judged on fresh seeds.

    python tests/benchmarks/budget.py                     # the table of the pages
    python tests/benchmarks/budget.py digits --nfe 8

Ratios are geometric means over samples of the error over that of the best fixed recipe which all recipes together, without a
budget, are screened for; then over SETS disjoint seed sets.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import kept
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "helpers"))
from learned_problems import MIXTURES, SHAPES

from fewstep import learn
from fewstep.samplers.learned.problem.problem import Problem
from fewstep.samplers.learned.problem.teacher import Teacher
from fewstep.samplers.learned.tasks.guard import compared
from fewstep.samplers.learned.tasks.learner_task import Task
from fewstep.samplers.learned.tasks.screening import sought

BUDGETS = (1000, 2000, 4000, 8000, 32000)
SETS = 3
CHOOSES, JUDGES = 10_000, 50_000  # first seeds of those that choose the best recipe, and of those that judge


def model(name: str) -> tuple[Any, dict[str, Any]]:
    """A model and how it is called."""
    if name == "digits":
        return "demo", {"classes": range(10)}
    if name not in MIXTURES:
        return name, {}
    return MIXTURES[name](), {"shape": SHAPES[name], "dtype": torch.float64}


def curve(name: str, nfe: int, budgets: tuple[int, ...]) -> Iterator[str]:
    """A cell a budget: gain of what comes back, of the candidate (its rms), how many were accepted."""
    made, how = model(name)
    problem = Problem(made, batch_size=256, **how)
    few = name not in MIXTURES
    chooses, judges = range(CHOOSES, CHOOSES + (64 if few else 256)), range(JUDGES, JUDGES + (256 if few else 1024))
    own = Task(problem, Teacher(problem, cache=False), nfe, tuple(range(8)), tuple(chooses))
    known = sought(own, "auto", {}, True)
    best = min([*known.own, *known.others], key=lambda recipe: own.judge(recipe.table)).table
    parts = problem.parts(judges)
    base = own.errors(best, parts)
    for budget in budgets:
        found, candidates, sure = [], [], 0
        for k in range(SETS):
            seeds = {
                "seeds": range(1000 * k, 1000 * k + 256),
                "guard_seeds": range(20_000 + 1100 * k, 21_024 + 1100 * k),
            }
            try:
                table = learn(made, nfe=nfe, budget=budget, cache=False, progress=False, **seeds, **how).tables[0]
            except ValueError as error:
                click.echo(f"{name}, {budget:,}: refused: {str(error)[:90]}", err=True)
                continue
            sure += table.status == "learned"
            found.append(own.errors(table.tableau, parts))
            candidates.append(own.errors(table.refused or table.tableau, parts))
        if not found:
            yield "refused"
        else:
            returned, before = ([compared(errors, base) for errors in every] for every in (found, candidates))
            gains = [
                f"{np.exp(np.mean([np.log(c['gain']['ratio']) for c in every])):.2f}" for every in (returned, before)
            ]
            rms = f"{np.exp(np.mean([np.log(c['rms']['ratio']) for c in before])):.2f}"
            cell = f"{gains[0]}, {gains[1]} ({rms}), {sure} of {len(found)}"
            click.echo(f"{name}, {budget:,}: {cell}", err=True)
            yield cell


@click.command()
@click.argument("models", nargs=-1, metavar="[ring|sixteen|third|digits|FOLDER]...")
@click.option("--nfe", default=5, show_default=True)
@click.option("--budget", "budgets", multiple=True, type=int, default=BUDGETS, show_default=True)
@kept.keep
def main(models: tuple[str, ...], nfe: int, budgets: tuple[int, ...], keep: bool) -> None:
    """Print a table of MODELS: ring, sixteen and digits unless told."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    models = models or ("ring", "sixteen", "digits")
    cells = [list(curve(name, nfe, budgets)) for name in models]
    head = ("budget", *(f"{name}: gain, candidate (its rms), accepted" for name in models))
    kept.show("budget", head, [(f"{n:,}", *row) for n, *row in zip(budgets, *cells, strict=True)], keep)


if __name__ == "__main__":
    main()
