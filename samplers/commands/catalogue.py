"""The commands `fewstep solvers`, `fewstep grids` and `fewstep guidance`: what the registries hold, as text or JSON."""

from typing import Any

import click

from fewstep.checks import MOST_ROWS

NAME = click.argument("name", required=False)
JSON = click.option("--json", "as_json", is_flag=True, help="As JSON.")


@click.command()
@NAME
@click.option(
    "--nfe", type=click.IntRange(1, MOST_ROWS), default=4, show_default=True, help="Evaluations of the table shown."
)
@JSON
def solvers(**given: Any) -> None:
    """List the solvers, or show the one called NAME with its options and its table."""
    from fewstep.samplers.commands.registry_pages import solver_page

    click.echo(solver_page(**given))


@click.command()
@NAME
@click.option(
    "--nfe", "-n", type=click.IntRange(1, MOST_ROWS), default=8, show_default=True, help="Intervals of the grid shown."
)
@JSON
def grids(**given: Any) -> None:
    """List the time grids, or show the one called NAME with its times on the embedded model's noise schedule."""
    from fewstep.samplers.commands.registry_pages import grid_page

    click.echo(grid_page(**given))


@click.command()
@NAME
@JSON
def guidance(**given: Any) -> None:
    """List the methods of guidance, or show the one called NAME with its options and what it needs."""
    from fewstep.samplers.commands.registry_pages import guidance_page

    click.echo(guidance_page(**given))
