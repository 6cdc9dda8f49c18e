"""What `fewstep compare` does: the errors of several solvers to a long reference, as a table, pictures, figures and a page."""

import json
import sys
from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click

from fewstep.arguments import parsed, watched
from fewstep.eval.compare.solver_errors import SolverErrors
from fewstep.eval.compare.trials import Trials, told
from fewstep.output.files import write_text
from fewstep.output.page import Table, write_page
from fewstep.output.pictures import Line, image_sheet, plot_lines
from fewstep.output.places import kept, prove_file, prove_folder
from fewstep.output.seal import sealed
from fewstep.samplers.building.solver_entry import SOLVERS
from fewstep.samplers.pipeline.contenders import Contender, contenders, learned_file, the_only
from fewstep.samplers.pipeline.source import Batch, Source

# The solvers that are run where none is named: one or two of each family, all deterministic.
DEFAULT_SOLVERS = (
    "ddim",
    "heun",
    "dpm_2",
    "dpm_3",
    "dpmpp_2s",
    "dpmpp_2m",
    "dpmpp_3m",
    "deis",
    "unipc",
    "res_multistep",
    "etd_rk3",
    "ipndm_v",
)


def compare_solvers(
    solvers: Sequence[str] | None,
    nfes: Sequence[int],
    *,
    learned: Sequence[str],
    grid: str | None,
    number: int,
    seed: int,
    out: str,
    form: str,
    options: Sequence[str],
    **how: Any,
) -> None:
    """Draw, print the table in this form, write the files; the arguments are the options of the command."""
    (prove_file if Path(out).suffix == ".html" else prove_folder)(out, "--out")
    given = dict(map(parsed, options))
    families = {("all",): ode_solvers, ("sde",): stochastic_solvers}
    named = tuple(solvers or DEFAULT_SOLVERS)
    solvers = families[named]() if named in families else named
    solvers = contenders(solvers, nfes, None if grid == "auto" else grid, given)
    files = [learned_file(name) for name in learned]
    for file in files:
        how["guidance"] = _guidance_of(file, nfes, how["guidance"])

    trials = Trials(Source(**how), range(seed, seed + number))
    for _ in watched([trials.reference], "reference", told):
        trials.truth(progress=sys.stderr.isatty())
    rows = [trials.errors(name, nfes, grid, **given) for name in watched([*files, *solvers], "solver")]
    about = {"model": how["model"], "images": number, "seed": seed, "reference": told(trials.reference)}
    if form == "text":
        click.echo(table(rows).text())
        click.echo(f"RMSE per image to {about['reference']}, mean of {number}; * best of its column")
        if any(one.stochastic for one in (*files, *solvers)):
            click.echo("stochastic solvers: to their own, longer run on the same Brownian paths")
    else:
        click.echo(csv_table(rows) if form == "csv" else json_table(rows, **about))
    for path in write_comparison(Path(out), rows, trials.batches[0], about):
        click.echo(f"wrote {path}", err=form != "text")


def ode_solvers() -> tuple[str, ...]:
    """Every registered solver that is a table and draws no noise."""
    return tuple(name for name, entry in SOLVERS.items() if entry.kind == "tableau" and not entry.stochastic)


def stochastic_solvers() -> tuple[str, ...]:
    """Every registered table that draws noise and converges."""
    return tuple(n for n, entry in SOLVERS.items() if entry.kind == "tableau" and entry.stochastic and entry.order)


def _guidance_of(name: Contender, nfes: Sequence[int], guidance: float | None) -> float | None:
    """The scale of all: what was given, else an artefact's where it has one. ValueError: it has no table to compare."""
    artefact = name.learned
    assert artefact is not None
    if not set(nfes) & set(artefact.nfes):
        raise ValueError(
            f"{name} has tables for nfe {', '.join(map(str, artefact.nfes))}, and --nfe names none of them"
        )
    scale: float | None = the_only(artefact.guidances) if guidance is None else guidance
    return scale


def write_comparison(out: Path, rows: Sequence[SolverErrors], batch: Batch, about: Mapping[str, Any]) -> list[Path]:
    """One page where `out` ends in .html, else a folder of curves.png, samples.png and results.json."""
    if out.suffix != ".html":
        figures = out / "results.json"
        text = json.dumps(sealed(_told(rows, about)), indent=1)
        kept(figures, lambda place: write_text(place, text + "\n"))
        drawn = _pictures(out, rows, batch, about)
        return [*drawn, figures]
    words = (
        f"RMSE per image to {about['reference']} on shared noise, mean of {about['images']} images (seeds from "
        f"{about['seed']}). The best of each column is marked."
    )
    with TemporaryDirectory() as folder:
        drawn = _pictures(Path(folder), rows, batch, about)
        kept(out, lambda place: write_page(place, f"Solvers on {about['model']}", [words], [table(rows)], drawn))
    return [out]


def _pictures(folder: Path, rows: Sequence[SolverErrors], batch: Batch, about: Mapping[str, Any]) -> list[Path]:
    """curves.png and samples.png; the sheet shows the first images of `batch`."""
    curves, sheet = folder / "curves.png", folder / "samples.png"
    title = f"{about['model']}: {about['images']} images, error to {about['reference']}"
    plot_lines([Line(row.solver, row.nfes, row.rmse) for row in rows], curves, title, "RMSE to the reference")
    some = len(batch.seeds)
    cells = [(row.solver, [batch.images(x0[:some]) for x0 in (*row.samples, row.reference)]) for row in rows]
    image_sheet(cells, [*(f"nfe {n}" for n in rows[0].nfes), "reference"], sheet)
    return [curves, sheet]


def table(rows: Sequence[SolverErrors]) -> Table:
    """One line a solver, one column an nfe; the smallest error of each column is marked."""
    best = [min(row.rmse[j] for row in rows) for j in range(len(rows[0].nfes))]
    marked = frozenset((i, j + 2) for i, row in enumerate(rows) for j, least in enumerate(best) if row.rmse[j] == least)
    cells = [[row.solver, row.grid, *(f"{e:.5f}" if isfinite(e) else "-" for e in row.rmse)] for row in rows]
    return Table(["solver", "grid", *(f"nfe {n}" for n in rows[0].nfes)], cells, names=2, best=marked)


def csv_table(rows: Sequence[SolverErrors]) -> str:
    """One line a solver and nfe: solver,grid,nfe,rmse,worst."""
    lines = ["solver,grid,nfe,rmse,worst"]
    for row in rows:
        lines += [f"{row.solver},{row.grid},{n},{e},{w}" for n, e, w in zip(row.nfes, row.rmse, row.worst, strict=True)]
    return "\n".join(lines)


def json_table(rows: Sequence[SolverErrors], **about: Any) -> str:
    """The same as JSON, beside whatever tells how it was made."""
    return json.dumps(_told(rows, about), indent=1)


def _told(rows: Sequence[SolverErrors], about: Mapping[str, Any]) -> dict[str, Any]:
    listed = [
        {"solver": r.solver, "grid": r.grid, "nfe": list(r.nfes), "rmse": _numbers(r.rmse), "worst": _numbers(r.worst)}
        for r in rows
    ]
    return {**about, "rows": listed}


def _numbers(values: Sequence[float]) -> list[float | None]:
    """What JSON can hold: None for infinity."""
    return [value if isfinite(value) else None for value in values]
