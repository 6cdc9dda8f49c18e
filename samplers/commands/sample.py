"""The commands `fewstep sample` and `fewstep compare`. torch is imported inside them, never by `--help`."""

import sys
from collections.abc import Sequence
from math import ceil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import click

from fewstep.arguments import NAMES, NOISE, NUMBERS, model_options, parsed, watched

if TYPE_CHECKING:
    from fewstep.eval.compare.trials import Curve
    from fewstep.samplers.pipeline.source import Batch


@click.command()
@model_options
@click.option("--solver", default="dpmpp_2m", show_default=True, help="A name that `fewstep solvers` lists.")
@click.option("--learned", metavar="FILE.json", help="What `fewstep learn` wrote, instead of --solver and --grid.")
@click.option("--nfe", type=int, help="Network evaluations  [default: 8; no limit for adaptive solvers]")
@click.option("--grid", help="A name that `fewstep grids` lists  [default: the model's]")
@NOISE
@click.option("-n", "--number", type=click.IntRange(1), default=64, show_default=True, help="Images.")
@click.option("--out", default="samples.png", show_default=True, help="A picture, or DIR/ for one PNG an image.")
def sample(
    solver: str,
    learned: str | None,
    nfe: int | None,
    grid: str | None,
    noise: str,
    number: int,
    seed: int,
    out: str,
    **how: Any,
) -> None:
    """Sample MODEL with one solver into a grid of images (or a folder of them).

    Every image has its own seed, so that asking for more of them changes none.
    """
    from fewstep.samplers.building.solver_entry import checked_names
    from fewstep.samplers.pipeline.contenders import artefact_of, entry_of, the_only

    options = dict(map(parsed, how.pop("options")))
    if learned is not None:
        solver = learned_file(learned)
    if (artefact := artefact_of(solver)) is not None:
        nfe = (the_only(artefact.nfes) or _which(artefact.nfes)) if nfe is None else nfe
        how["guidance"] = the_only(artefact.guidances) if how["guidance"] is None else how["guidance"]
    checked_names([solver], [] if nfe is None else [nfe], grid, options)
    folder = out.endswith("/") or Path(out).is_dir()

    from fewstep.output.pictures import checked_suffix, save_image, tile
    from fewstep.samplers.pipeline.source import Source

    if not folder:
        checked_suffix(Path(out))
    adaptive = entry_of(solver).adaptive
    if nfe is None and not adaptive:
        nfe = 8
    images, spent = [], []
    for batch in watched(Source(**how).batches(range(seed, seed + number), alone=adaptive), "batch"):
        x0, info = batch.run(solver=solver, nfe=nfe, grid=grid, noise=noise, progress=sys.stderr.isatty(), **options)
        images += batch.images(x0)
        spent.append(info.nfe)
    if folder:
        for image_seed, image in zip(range(seed, seed + number), images, strict=True):
            save_image(image, Path(out) / f"{image_seed:06d}.png")
    else:
        save_image(tile(images, ceil(number**0.5)), Path(out))
    count = f"{min(spent)}" if min(spent) == max(spent) else f"{min(spent)} to {max(spent)}"
    click.echo(f"{out}: {number} images, {solver}, {count} evaluations, seeds {seed} to {seed + number - 1}")


def learned_file(name: str) -> str:
    """The file of an artefact. ValueError for a name that is none."""
    if name != "demo" and not name.endswith(".json"):
        raise ValueError(f"--learned takes a file that `fewstep learn` wrote, NAME.json, or demo; got {name!r}")
    return name


def _which(nfes: tuple[int, ...]) -> int:
    raise ValueError(f"this artefact has tables for nfe {', '.join(map(str, nfes))}: say which, --nfe {nfes[0]}")


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
def compare(
    solvers: Sequence[str] | None,
    learned: Sequence[str],
    nfes: Sequence[int],
    grid: str | None,
    number: int,
    seed: int,
    out: str,
    form: str,
    **how: Any,
) -> None:
    """Compare solvers on MODEL: error to a 200-evaluation reference on shared noise, per solver and evaluations.

    Prints a table (a star marks the best of a column) and writes curves.png, samples.png and results.json,
    or all of it as one page where --out ends in .html. A stochastic solver is compared with its own long run on the same
    Brownian paths; a solver that chooses its steps has in each column its best run that spent no more.
    """
    from fewstep.eval.compare import trials as comparison
    from fewstep.samplers.building.solver_entry import checked_names

    options = dict(map(parsed, how.pop("options")))
    families = {("all",): comparison.ode_solvers, ("sde",): comparison.stochastic_solvers}
    named = tuple(solvers or comparison.DEFAULT_SOLVERS)
    solvers = families[named]() if named in families else named
    checked_names(solvers, nfes, None if grid == "auto" else grid, options)
    for name in map(learned_file, learned):
        _check_learned(name, nfes, how)

    from fewstep.eval.compare.page import write_report
    from fewstep.samplers.pipeline.contenders import entry_of
    from fewstep.samplers.pipeline.source import Source

    trials = comparison.Trials(Source(**how), range(seed, seed + number))
    for _ in watched([trials.reference], "reference", comparison.told):
        trials.truth(progress=sys.stderr.isatty())
    rows = [trials.curve(name, nfes, grid, **options) for name in watched([*learned, *solvers], "solver")]
    about = {
        "model": how["model"],
        "images": number,
        "seed": seed,
        "reference": comparison.told(trials.reference),
    }
    if out.endswith(".html"):
        with TemporaryDirectory() as folder:
            *pictures, _ = write_comparison(Path(folder), rows, trials.batches[0], about)
            write_report(Path(out), rows, pictures, about)
        written = [Path(out)]
    else:
        written = write_comparison(Path(out), rows, trials.batches[0], about)
    if form == "text":
        click.echo(comparison.table(rows).text())
        click.echo(f"RMSE per image to {about['reference']}, mean of {number}; * best of its column")
        if any(entry_of(name).stochastic for name in (*learned, *solvers)):
            click.echo("stochastic solvers: to their own, longer run on the same Brownian paths")
    else:
        click.echo(comparison.csv_table(rows) if form == "csv" else comparison.json_table(rows, **about))
    for path in written:
        click.echo(f"wrote {path}", err=form != "text")


def _check_learned(name: str, nfes: Sequence[int], how: dict[str, Any]) -> None:
    """ValueError for an artefact without a table to compare; its guidance scale, where it has one, is that of all."""
    from fewstep.samplers.pipeline.contenders import artefact_of, the_only

    artefact = artefact_of(name)
    assert artefact is not None
    if not set(nfes) & set(artefact.nfes):
        raise ValueError(
            f"{name} has tables for nfe {', '.join(map(str, artefact.nfes))}, and --nfe names none of them"
        )
    how["guidance"] = the_only(artefact.guidances) if how["guidance"] is None else how["guidance"]


def write_comparison(folder: Path, rows: "Sequence[Curve]", batch: "Batch", about: dict[str, Any]) -> list[Path]:
    """curves.png, samples.png and results.json; the sheet shows the first images of `batch`."""
    from fewstep.eval.compare.trials import json_table
    from fewstep.output.files import whole
    from fewstep.output.pictures import Line, image_sheet, plot_lines

    curves, sheet, figures = (folder / name for name in ("curves.png", "samples.png", "results.json"))
    title = f"{about['model']}: {about['images']} images, error to {about['reference']}"
    plot_lines([Line(row.solver, row.nfes, row.rmse) for row in rows], curves, title, "RMSE to the reference")
    some = len(batch.seeds)
    cells = [(row.solver, [batch.images(x0[:some]) for x0 in (*row.samples, row.reference)]) for row in rows]
    image_sheet(cells, [*(f"nfe {n}" for n in rows[0].nfes), "reference"], sheet)
    with whole(figures) as path:
        path.write_text(json_table(rows, **about) + "\n")
    return [curves, sheet, figures]
