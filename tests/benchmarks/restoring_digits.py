"""Digits restored by several methods at equal evaluations: `python tests/benchmarks/restoring_digits.py --data mnist.npz`.

What `examples/restore_digits.py` does on its three tasks, as the table of the pages: PSNR in dB and, in brackets, the misfit to
the measurement over that of the truth; seconds an image for missing pixels. Without --data digits of the model itself.
"""

from __future__ import annotations

import math
import sys

import click
import kept
import torch

from fewstep.arguments import NUMBERS

sys.path.insert(0, str(kept.ROOT / "examples"))

from restore_digits import METHODS, Outcome, restored  # noqa: E402

TASKS = {"inpaint": "70 % missing", "sr": "4 x 4 means", "deblur": "blur"}
WITHOUT = ("deblur",)  # the published form has no row there


def label(one: Outcome) -> str:
    """A row's name."""
    if one.name not in METHODS:
        return f"`dps`, published, {one.nfe} steps"
    method, options, _ = METHODS[one.name]
    told = [f"{key} {value:g}" if key == "scale" else f"{value} {key}" for key, value in options.items()]
    return ", ".join([f"`{method}`", *told])


@click.command()
@click.option("--data", type=click.Path(exists=True, dir_okay=False), help="npz with test_images (N, 28, 28), uint8.")
@click.option("--images", default=12, show_default=True)
@click.option("--nfe", default=20, show_default=True)
@click.option("--published", type=NUMBERS, default="20,1000", show_default=True, help="Steps of DPS as published.")
@click.option("--task", "tasks", multiple=True, type=click.Choice(list(TASKS)), default=list(TASKS))
@kept.keep
def main(
    data: str | None, images: int, nfe: int, published: tuple[int, ...], tasks: tuple[str, ...], keep: bool
) -> None:
    """Print the table."""
    torch.set_num_threads(1)
    found: dict[str, dict[str, Outcome]] = {}
    for task in tasks:
        for one in restored(task, images, nfe, "ddim", () if task in WITHOUT else published, data):
            if one.nfe:
                found.setdefault(label(one), {})[task] = one
    minus = [[-own[task].psnr if task in own else math.inf for task in tasks] for own in found.values()]
    texts = kept.least_bold([[f"{-value:.1f}" if value < math.inf else "" for value in row] for row in minus], minus)
    rows = []
    for (name, own), line in zip(found.items(), texts, strict=True):
        cells = [f"{text} ({own[task].misfit:.1f})" if text else "" for text, task in zip(line, tasks, strict=True)]
        first = own[tasks[0]]
        spent = f"{first.calls}{f' + {first.vjps}' if first.vjps else ''}"
        seconds = f"{first.seconds:.2f}" if first.seconds < 10 else f"{first.seconds:.1f}"
        rows.append([name, spent, *cells, seconds])
    kept.show("restoring", ("method", "network calls + gradients", *(TASKS[t] for t in tasks), "s"), rows, keep)


if __name__ == "__main__":
    main()
