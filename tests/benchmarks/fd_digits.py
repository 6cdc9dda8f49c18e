"""Distances and errors of solvers on the embedded model over evaluations: `python tests/benchmarks/fd_digits.py`.

    python tests/benchmarks/fd_digits.py --learned        # learned tables beside fixed solvers

What `fewstep eval --model demo` does, as the tables of the pages. FD-digits is to the MNIST test set, the RMSE of 64 of the
images to a long run; a cell has the one and, in brackets, the other. Bold are the best of a column and what its paired 95 %
interval cannot tell from it. Interrupted, the same command goes on.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import kept
import torch

from fewstep.arguments import NUMBERS, watched
from fewstep.eval import curve
from fewstep.eval.report.curve_points import Points

REAL = "mnist-test"


@dataclass(frozen=True)
class Table:
    """What is drawn, and which of the two is in front; seeds: the first of the images, of the pairs."""

    solvers: tuple[str, ...]
    nfes: tuple[int, ...]
    number: int
    first: str
    seeds: tuple[int, int] = (0, 0)


FIXED = Table(("ddim", "dpmpp_2m", "unipc", "deis", "heun"), (4, 5, 6, 8, 10, 20), 1000, "fid")
LEARNED = Table(("demo", "dpmpp_2m", "res_multistep", "unipc"), tuple(range(3, 11)), 500, "rmse", (0, 5000))


def best(points: Points, metric: str, nfe: int) -> set[str]:
    """The best of a column, and what cannot be told from it."""
    first = points.best(metric, nfe)
    assert first is not None
    others = {s: points.difference(metric, nfe, s, first) for s in points.solvers if s != first}
    return {first, *(s for s, gap in others.items() if gap is not None and not gap.sure)}


def shown(figures: dict[str, Points], table: Table) -> list[list[str]]:
    """A row a solver."""
    second = "rmse" if table.first == "fid" else "fid"
    rows = []
    for solver in table.solvers:
        cells = []
        for n in table.nfes:
            a, b = (figures[metric].result(metric, solver, n) for metric in (table.first, second))
            assert a is not None and b is not None
            texts = [number(float(result), metric) for result, metric in ((a, table.first), (b, second))]
            marked = f"**{texts[0]}**" if solver in best(figures[table.first], table.first, n) else texts[0]
            cells.append(f"{marked} ({texts[1]})")
        rows.append(["learned" if solver == "demo" else solver, *cells])
    return rows


def number(value: float, metric: str) -> str:
    return f"{value:.3f}" if metric == "rmse" else f"{value:.2f}" if value < 10 else f"{value:.1f}"


def measured(table: Table, pairs: int, folder: Path) -> dict[str, Points]:
    """Both curves."""
    how: dict[str, Any] = {"state": folder, "watch": watched, "evaluation": {"progress": False}}
    fd = curve("demo", table.solvers, table.nfes, REAL, ("fid",), table.number, table.seeds[0], **how)
    errors = curve("demo", table.solvers, table.nfes, None, ("rmse",), pairs, table.seeds[1], pairs=pairs, **how)
    return {"fid": fd, "rmse": errors}


@click.command()
@click.option("--learned", is_flag=True, help="Learned tables beside fixed solvers.")
@click.option("--nfe", "nfes", type=NUMBERS, help="Evaluations  [default: those of the pages]")
@click.option("-n", "--number", type=int, help="Images a point  [default: as many as in the pages]")
@click.option("--pairs", default=64, show_default=True, help="Images of the RMSE.")
@kept.keep
def main(learned: bool, nfes: tuple[int, ...] | None, number: int | None, pairs: int, keep: bool) -> None:
    """Print the table."""
    torch.set_num_threads(1)
    usual = LEARNED if learned else FIXED
    table = Table(usual.solvers, nfes or usual.nfes, number or usual.number, usual.first, usual.seeds)
    with kept.resumable() as folder:
        rows = shown(measured(table, pairs, folder), table)
        head = ("" if learned else "solver", *map(str, table.nfes))
        kept.show("learned_rmse_fd" if learned else "fd_digits", head, rows, keep)


if __name__ == "__main__":
    main()
