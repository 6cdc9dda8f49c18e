"""The command `fewstep sample`: its options. What it does is imported when it runs, never by `--help`."""

from typing import Any

import click

from fewstep.arguments import NOISE, model_options


@click.command()
@model_options
@click.option("--solver", help="A name that `fewstep solvers` lists, or TABLE.json  [default: dpmpp_2m]")
@click.option("--learned", metavar="FILE.json", help="What `fewstep learn` wrote, instead of --solver and --grid.")
@click.option(
    "--policy",
    metavar="warn|refuse|nearest",
    help="Of --learned elsewhere than it was learned: warn, refuse, or play its nearest guidance  [default: warn]",
)
@click.option("--nfe", type=int, help="Network evaluations  [default: 8; no limit for adaptive solvers]")
@click.option("--grid", help="A name that `fewstep grids` lists  [default: the model's]")
@NOISE
@click.option("-n", "--number", type=click.IntRange(1), default=64, show_default=True, help="Images.")
@click.option("--out", default="samples.png", show_default=True, help="A picture, or DIR/ for one PNG an image.")
def sample(**given: Any) -> None:
    """Sample MODEL with one solver into a grid of images (or a folder of them).

    Every image has its own seed, so that asking for more of them changes none.
    """
    from fewstep.samplers.commands.sample_images import sample_images

    sample_images(**given)
