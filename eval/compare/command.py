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
    help="Names between commas, also 'unipc on karras'; `all`: ODE tables; `sde`: stochastic ones  [default: a dozen; with "
    "--budget all]",
)
@click.option(
    "--nfe", "nfes", type=NUMBERS, metavar="N,...", default="4,5,6,8,10,15,20", show_default=True, help="Evaluations."
)
@click.option(
    "--learned", metavar="FILE.json,...", type=NAMES, default=(), help="What `fewstep learn` wrote, beside them."
)
@click.option(
    "--grid",
    "grids",
    type=NAMES,
    metavar="A,B,...",
    help="Each solver on each of these; `auto`: on five, `all`: on every one  [default: the model's own; with --budget auto]",
)
@click.option(
    "-n", "--number", type=int, help="Images that errors are measured on  [default: 16; with --budget up to 64]"
)
@click.option("--budget", metavar="TIME", help="Take about so long, 2m, and choose what to try by racing.")
@click.option(
    "--metrics",
    type=NAMES,
    default="rmse",
    show_default=True,
    help="rmse, psnr, lpips, and any that `fewstep metrics` lists.",
)
@click.option("--real", help="What metrics of sets compare with  [demo: mnist]")
@click.option("--images", type=click.IntRange(2), default=1000, show_default=True, help="Images for metrics of sets.")
@click.option(
    "--reference", "reference", multiple=True, metavar="KEY=VALUE", help="Of the long run: solver=, nfe=, grid=."
)
@click.option("--resume", metavar="DIR", help="Keep what is drawn in DIR, and go on from what is there.")
@click.option("--theme", default="auto", show_default=True, help="Of the page: auto, light or dark.")
@click.option(
    "--out",
    default="compare",
    show_default=True,
    help="Folder for page, curves, sheet and figures, or NAME.html for the page alone.",
)
@click.option(
    "--format", "form", type=click.Choice(["text", "json", "csv"]), default="text", help="Of what is printed."
)
def compare(solvers: Sequence[str] | None, nfes: Sequence[int], **how: Any) -> None:
    """Compare solvers on MODEL, and say which one to take at each number of evaluations.

    \b
    fewstep compare --solvers ddim,dpmpp_2m,unipc --nfe 5,8
    fewstep compare MODEL --prompt "a fox" --budget 20m --out page.html
    fewstep compare MODEL --solvers deis,unipc --grid uniform,karras --learned mine.json

    Every solver starts from the same noise and is compared image by image with a run of 100 to 200 evaluations, whose own
    error is told; recommendations come with paired 95 % intervals. A stochastic solver is compared with its own long run on
    the same Brownian paths; a solver that chooses its steps has in each column its best run that spent no more.
    """
    from fewstep.eval.compare.comparison import compare_solvers

    compare_solvers(solvers, nfes, **how)
