"""What `fewstep sample` does: draw numbered images with one solver, into a picture or a folder."""

import sys
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any

import click

from fewstep.arguments import parsed, watched
from fewstep.output.pictures import checked_suffix, save_image, tile
from fewstep.output.places import kept, prove_file, prove_folder
from fewstep.samplers.pipeline.contenders import Contender, contenders, learned_file, the_only
from fewstep.samplers.pipeline.source import Source
from fewstep.samplers.validity.domain import checked_policy


def sample_images(
    solver: str | None,
    learned: str | None,
    nfe: int | None,
    *,
    grid: str | None,
    noise: str,
    number: int,
    seed: int,
    out: str,
    options: tuple[str, ...],
    policy: str | None = None,
    **how: Any,
) -> None:
    """Draw and write; the arguments are the options of the command."""
    given = dict(map(parsed, options))
    if solver is not None and learned is not None:
        raise ValueError(f"--learned {learned} brings its solver; leave --solver {solver} away, or --learned")
    if policy is not None and learned is None:
        raise ValueError(f"--policy {policy} is of a learned artefact: give --learned FILE.json, or leave it away")
    checked_policy(policy)
    chosen = Contender(solver or "dpmpp_2m") if learned is None else learned_file(learned)
    if chosen.nfes is not None and nfe is None:
        nfe = the_only(chosen.nfes) or _which(chosen.nfes)
    if chosen.learned is not None and how["guidance"] is None and policy != "nearest":
        how["guidance"] = the_only(chosen.learned.guidances)
    contenders([chosen], [] if nfe is None else [nfe], grid, given)
    folder = out.endswith("/") or Path(out).is_dir()
    if folder:
        prove_folder(out, "--out")
    else:
        checked_suffix(Path(out))
        prove_file(out, "--out")
    if nfe is None and not chosen.adaptive:
        nfe = 8
    told = {
        "solver": chosen,
        "nfe": nfe,
        "grid": grid,
        "noise": noise,
        **({} if policy is None else {"policy": policy}),
    }
    images, spent = [], []
    for batch in watched(Source(**how).batches(range(seed, seed + number), alone=chosen.adaptive), "batch"):
        x0, info = batch.run(**told, progress=sys.stderr.isatty(), **given)
        images += batch.images(x0)
        spent.append(info.nfe)
    if folder:
        kept(out, partial(_save_each, images, seed))
    else:
        kept(out, partial(save_image, tile(images, ceil(number**0.5))))
    count = f"{min(spent)}" if min(spent) == max(spent) else f"{min(spent)} to {max(spent)}"
    click.echo(f"{out}: {number} images, {chosen}, {count} evaluations, seeds {seed} to {seed + number - 1}")


def _save_each(images: list[Any], seed: int, folder: Path) -> None:
    """A file for every image, named after its seed."""
    for i, image in enumerate(images):
        save_image(image, folder / f"{seed + i:06d}.png")


def _which(nfes: tuple[int, ...]) -> int:
    raise ValueError(f"this artefact has tables for nfe {', '.join(map(str, nfes))}: say which, --nfe {nfes[0]}")
