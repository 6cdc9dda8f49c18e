"""The command `fewstep sample`. torch is imported inside it, never by `--help`."""

import sys
from math import ceil
from pathlib import Path
from typing import Any

import click

from fewstep.arguments import NOISE, model_options, parsed, watched


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
    from fewstep.samplers.pipeline.contenders import artefact_of, checked_names, entry_of, learned_file, the_only

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


def _which(nfes: tuple[int, ...]) -> int:
    raise ValueError(f"this artefact has tables for nfe {', '.join(map(str, nfes))}: say which, --nfe {nfes[0]}")
