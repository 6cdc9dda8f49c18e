"""Error of every deterministic solver on a model: `python tests/benchmarks/solvers_digits.py [--model colours]`.

What `fewstep compare --solvers all --grid auto` does, as the table of the pages: each solver on the best of five grids, those
whose errors are the same ones in one row, the best at 10 evaluations first. `all` may be names between commas.
"""

from __future__ import annotations

import sys

import click
import kept
import torch

from fewstep.arguments import NAMES, NUMBERS, watched
from fewstep.eval.compare.comparison import ode_solvers
from fewstep.eval.shared_noise.solver_errors import SolverErrors
from fewstep.eval.shared_noise.trials import Trials
from fewstep.samplers.pipeline.source import Source

RANKED = 10  # evaluations that rows are ordered by
SAME = 2e-4  # relative: errors of one and the same table


def together(found: list[SolverErrors]) -> list[list[SolverErrors]]:
    """Solvers that are one, as their errors tell."""
    groups: list[list[SolverErrors]] = []
    for one in found:
        like = [
            group
            for group in groups
            if all(abs(a - b) <= SAME * b for a, b in zip(one.rmse, group[0].rmse, strict=True))
        ]
        (like[0] if like else groups.append([]) or groups[-1]).append(one)
    return groups


@click.command()
@click.option("--model", default="demo", show_default=True, help="demo, or the folder of a pipeline.")
@click.option("--solvers", type=NAMES, default="all", show_default=True)
@click.option("--nfe", "nfes", type=NUMBERS, default="4,5,6,8,10,15,20", show_default=True)
@click.option("-n", "--number", default=16, show_default=True, help="Images.")
@kept.keep
def main(model: str, solvers: tuple[str, ...], nfes: tuple[int, ...], number: int, keep: bool) -> None:
    """Print the table."""
    torch.set_num_threads(1)
    names = ode_solvers() if tuple(solvers) == ("all",) else solvers
    trials = Trials(Source(model), range(number))
    trials.truth(progress=sys.stderr.isatty())
    groups = together([trials.errors(name, nfes, "auto") for name in watched(names, "solver")])
    at = list(nfes).index(RANKED) if RANKED in nfes else -1
    groups.sort(key=lambda group: group[0].rmse[at])
    values = [group[0].rmse for group in groups]
    cells = kept.least_bold([[f"{e:.3f}" for e in row] for row in values], values)
    rows = [
        (", ".join(one.solver for one in group), group[0].grid, *line)
        for group, line in zip(groups, cells, strict=True)
    ]
    kept.show(f"solvers_{kept.short(model)}", ("solver", "grid", *map(str, nfes)), rows, keep)


if __name__ == "__main__":
    main()
