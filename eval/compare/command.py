"""The command `fewstep compare`: its options. What it does is in comparison.py, imported when it is called."""

from collections.abc import Sequence
from typing import Any

import click

from fewstep.arguments import NAMES, NUMBERS, model_options


@click.command()
@model_options
@click.option(
    "--solvers",
    type=NAMES,
    metavar="A,B,...",
    help="Names between commas; `all`: ODE tables; `sde`: stochastic ones  [default: a dozen]",
)
@click.option(
    "--nfe", "nfes", type=NUMBERS, metavar="N,...", default="4,5,6,8,10,15,20", show_default=True, help="Evaluations."
)
@click.option(
    "--learned", metavar="FILE.json,...", type=NAMES, default=(), help="What `fewstep learn` wrote, beside them."
)
@click.option("--grid", help="A grid for all, or `auto`: the best of a few for each solver  [default: the model's]")
@click.option("-n", "--number", type=click.IntRange(1), default=16, show_default=True, help="Images.")
@click.option("--out", default="compare", show_default=True, help="Folder for curves, sheet and figures, or NAME.html.")
@click.option(
    "--format", "form", type=click.Choice(["text", "json", "csv"]), default="text", help="Of what is printed."
)
def compare(solvers: Sequence[str] | None, nfes: Sequence[int], **how: Any) -> None:
    """Compare solvers on MODEL: error to a 200-evaluation reference on shared noise, per solver and evaluations.

    Prints a table (a star marks the best of a column) and writes curves.png, samples.png and results.json,
    or all of it as one page where --out ends in .html. A stochastic solver is compared with its own long run on the same
    Brownian paths; a solver that chooses its steps has in each column its best run that spent no more.
    """
    from fewstep.eval.compare.comparison import compare_solvers

    compare_solvers(solvers, nfes, **how)
