"""The commands `fewstep solvers` and `fewstep grids`: what the registries hold, as aligned text or JSON."""

import inspect
import json
import re
import shutil
import sys
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

import click


@click.command()
@click.argument("name", required=False)
@click.option("--nfe", type=click.IntRange(1), default=4, show_default=True, help="Evaluations of the table shown.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def solvers(name: str | None, nfe: int, as_json: bool) -> None:
    """List the solvers, or show the one called NAME with its options and its table."""
    from fewstep.samplers.building.solver_entry import SOLVERS, resolve

    if name is not None and not as_json:
        click.echo(_one_solver(resolve(name)[0], nfe))
        return
    entries = list(SOLVERS.values()) if name is None else [SOLVERS[resolve(name)[0]]]
    facts = [
        {
            "name": e.name,
            "order": e.order,
            "calls": e.calls(e.options) if callable(e.calls) else e.calls,
            "kind": ("SDE" if e.stochastic else "ODE") + (", driver" if e.kind == "driver" else ""),
            "combines": e.prediction,
            "reference": e.reference,
            "options": dict(e.options),
        }
        for e in entries
    ]
    print_facts(facts, as_json)


@click.command()
@click.argument("name", required=False)
@click.option("--nfe", "-n", type=click.IntRange(1), default=8, show_default=True, help="Intervals of the grid shown.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def grids(name: str | None, nfe: int, as_json: bool) -> None:
    """List the time grids, or show the one called NAME with its times on the embedded model's noise schedule."""
    from fewstep.samplers.grids.making import GRIDS, find

    if name is not None and not as_json:
        click.echo(_one_grid(name, nfe))
        return
    entries = list(GRIDS.values()) if name is None else [find(name)[0]]
    print_facts(
        [{"name": e.name, "what": e.summary, "reference": e.reference, "options": dict(e.options)} for e in entries],
        as_json,
    )


def columns(rows: Iterable[Sequence[object]]) -> str:
    """Aligned columns of text."""
    text = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*text, strict=True)]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in text)


def print_facts(facts: Sequence[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(facts, indent=1))
        return

    def cell(key: str, value: Any) -> object:
        if key == "options":
            return " ".join(f"{k}={_short(v)}" for k, v in value.items()) or "-"
        return _cite(value) if key == "reference" else value

    text = columns([list(facts[0]), *([cell(*item) for item in fact.items()] for fact in facts)])
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None  # a terminal would break the columns
    click.echo("\n".join(line if width is None else line[:width] for line in text.splitlines()))


def _cite(reference: str) -> str:
    """The arXiv number of a reference, or else its first words."""
    number = re.search(r"arXiv[: ]?(\S+)", reference)
    return f"arXiv {number[1]}" if number else textwrap.shorten(reference, 40, placeholder=" ...")


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "".join(str(value).split())


def _doc(fn: Any) -> str:
    return inspect.cleandoc(fn.__doc__ or "")


def _options(options: Any) -> list[str]:
    return [f"option {name} (default {_short(value)})" for name, value in options.items()]


def _one_solver(name: str, nfe: int) -> str:
    """Docstring, options, reference, and the table on the linear VP schedule."""
    from fewstep.samplers.building.compiling import build
    from fewstep.samplers.building.solver_entry import SOLVERS
    from fewstep.samplers.schedule.base import NoiseSchedule

    entry = SOLVERS[name]
    parts = [name, _doc(entry.fn), *_options(entry.options)]
    parts += [f"also called {', '.join(entry.aliases)}"] * bool(entry.aliases) + [entry.reference]
    if entry.kind == "tableau":
        parts += [
            f"\nOn NoiseSchedule.vp_linear() at {nfe} evaluations:",
            str(build(name, NoiseSchedule.vp_linear(), nfe)),
        ]
    return "\n".join(parts)


def _one_grid(name: str, n: int) -> str:
    """Docstring, options, reference, and the times on the noise schedule that Stable Diffusion uses."""
    from fewstep.samplers.grids.making import find, make_grid
    from fewstep.samplers.schedule.base import NoiseSchedule

    entry, _ = find(name)
    schedule = NoiseSchedule.from_config({"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012})
    nodes = schedule.nodes(make_grid(name, schedule, n))
    table = columns(
        [["t", "alpha", "sigma", "lam"], *([f"{v:.5f}" for v in node] for node in zip(*nodes, strict=True))]
    )
    parts = [entry.name, _doc(entry.fn), *_options(entry.options), entry.reference]
    return "\n".join([*parts, "\nOn Stable Diffusion's schedule:", table])
