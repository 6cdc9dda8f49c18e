"""Gain over network evaluations spent: `learn(budget=N)` on two mixtures, judged on a thousand fresh seeds.

    python tests/benchmarks/budget.py

Ratios are geometric means over samples of the error over that of the best fixed recipe which all recipes together, without a
budget, are screened for; then over SETS disjoint seed sets.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "helpers"))
from learned_problems import MIXTURES, SHAPES, task

from fewstep import learn
from fewstep.samplers.learned.tasks.guard import compared
from fewstep.samplers.learned.tasks.screening import sought

BUDGETS = (500, 1000, 2000, 4000, 8000, 32000)
SETS, NFE, JUDGES = 3, 5, range(50_000, 51_024)


def curve(name: str) -> None:
    """One line a budget."""
    own = task(MIXTURES[name](), SHAPES[name], NFE, valid=256)
    known = sought(own, "auto", {}, True)
    best = min([*known.own, *known.others], key=lambda recipe: own.judge(recipe.table)).table
    parts = own.problem.parts(JUDGES)
    base = own.errors(best, parts)
    for budget in BUDGETS:
        found, candidates, sure = [], [], 0
        for k in range(SETS):
            seeds = {
                "seeds": range(1000 * k, 1000 * k + 256),
                "guard_seeds": range(20_000 + 1100 * k, 21_024 + 1100 * k),
            }
            how = {**seeds, "shape": SHAPES[name], "dtype": "float64", "cache": False, "progress": False}
            try:
                table = learn(MIXTURES[name](), nfe=NFE, budget=budget, **how).tables[0]
            except ValueError as error:
                print(f"| {name} | {budget:,} | refused: {str(error)[:90]} |")
                continue
            sure += table.status == "learned"
            found.append(own.errors(table.tableau, parts))
            candidates.append(own.errors(table.refused or table.tableau, parts))
        if found:
            returned, before = ([compared(errors, base) for errors in every] for every in (found, candidates))
            gains = [
                f"{np.exp(np.mean([np.log(c['gain']['ratio']) for c in every])):.2f}" for every in (returned, before)
            ]
            rms = f"{np.exp(np.mean([np.log(c['rms']['ratio']) for c in before])):.2f}"
            print(f"| {name} | {budget:,} | {gains[0]} | {gains[1]} | {rms} | {sure} of {len(found)} |", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    print(
        "| mixture | budget | gain of what comes back | of the candidate | its rms | accepted |\n|---|---|---|---|---|---|"
    )
    for mixture in sys.argv[1:] or ("ring", "sixteen"):
        curve(mixture)
