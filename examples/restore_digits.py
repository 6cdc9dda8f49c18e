"""Digits restored from what is left of them: methods side by side at equal network evaluations.

    python examples/restore_digits.py
    python examples/restore_digits.py --task sr --data mnist.npz --images 32 --published 1000

Tasks: 70 % of the pixels missing, a Gaussian blur, or 4 x 4 means (7 x 7 pixels), with noise of 5 % of the gray range. The
truth is drawn by the embedded model from other seeds, or comes from the test images of an .npz file. It prints the PSNR of
each method (mean over the images), how well the result explains the measurement (1 is as well as the truth), the calls of
the network with and without gradient and the seconds an image, and draws truth, measurement and results.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import click
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from fewstep import Denoiser, NoiseSchedule, load_demo_pipeline, sample
from fewstep.demo.pipeline import NULL_CLASS
from fewstep.samplers import guidance

NOISE = 0.05  # of pixels in [-1, 1]: 0.1 is 5 % of the gray range
TASKS: dict[str, Callable[[], guidance.Operator]] = {
    "inpaint": lambda: guidance.mask(torch.rand(1, 28, 28, generator=torch.Generator().manual_seed(7)) > 0.7),
    "deblur": lambda: guidance.blur(2.0, 9),
    "sr": lambda: guidance.downsample(4),
}
# name: (method, options, vector-Jacobian products a call)
METHODS = {
    "dps, 3 iterations": ("dps", {"scale": 2.0, "iterations": 3}, 3),
    "dps": ("dps", {"scale": 2.0}, 1),
    "pigdm": ("pigdm", {"scale": 2.0}, 1),
    "dds": ("dds", {}, 0),
    "mpgd": ("mpgd", {}, 0),
    "dreamguider": ("dreamguider", {}, 0),
}


def truth(denoiser: Denoiser, images: int, data: str | None) -> Tensor:
    """Clean digits, (B, 1, 28, 28) in [-1, 1]."""
    if data is not None:
        return torch.from_numpy(np.load(data)["test_images"][:images]).float()[:, None] / 127.5 - 1
    x_T = torch.randn(images, 1, 28, 28, generator=torch.Generator().manual_seed(1000))
    return sample(denoiser, x_T, "dpmpp_2m", 20).clamp(-1, 1)


def psnr(x: Tensor, clean: Tensor) -> float:
    """Peak signal-to-noise ratio, the mean over images; the peak is 2."""
    error = (x.clamp(-1, 1) - clean).square().flatten(1).mean(1)
    return float((10 * torch.log10(4 / error)).mean())


def draw(rows: dict[str, Tensor], out: str) -> None:
    """A row of images for each of the truth, the measurement and the methods."""
    columns = min(8, len(next(iter(rows.values()))))
    figure = Figure(figsize=(0.9 * columns + 1.2, 0.95 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for (name, images), line in zip(rows.items(), axes, strict=True):
        line[0].set_ylabel(name, rotation=0, ha="right", va="center")
        for ax, image in zip(line, images, strict=False):
            ax.imshow(image[0].numpy(), cmap="gray", vmin=-1, vmax=1)
            ax.set(xticks=[], yticks=[])
    figure.savefig(out, dpi=120)


class Outcome(NamedTuple):
    """Of a method: images, evaluations, PSNR in dB, misfit (the truth's is 1), calls, VJPs, seconds an image."""

    name: str
    x: Tensor
    nfe: int = 0
    psnr: float = math.nan
    misfit: float = math.nan
    calls: int = 0
    vjps: int = 0
    seconds: float = 0.0


@torch.no_grad()
def restored(
    task: str, images: int, nfe: int, solver: str, published: Sequence[int], data: str | None
) -> Iterator[Outcome]:
    """The truth, what was measured of it, and then what each method makes of that; published: steps of DPS's own form."""
    pipe = load_demo_pipeline()
    unet, schedule = pipe.unet.requires_grad_(False), NoiseSchedule.from_config(pipe.scheduler.config)
    denoiser = Denoiser(lambda x, t: unet(x, t, class_labels=torch.full((len(x),), NULL_CLASS)).sample, schedule)
    clean, A, draws = truth(denoiser, images, data), TASKS[task](), torch.Generator().manual_seed(0)
    y = A(clean)
    y = y + NOISE * torch.randn(y.shape, generator=draws)
    y = A(y) if task == "inpaint" else y
    x_T = torch.randn(clean.shape, generator=draws)
    yield Outcome("truth", clean)
    yield Outcome("measured", y)
    options = {"eta": 1.0} if solver == "ddim" else {}

    runs = [
        (name, nfe, getattr(guidance, method)(denoiser, y, A, NOISE, **given), pulls)
        for name, (method, given, pulls) in METHODS.items()
    ]
    for steps in published:
        runs.append(("dps, published", steps, guidance.dps(denoiser, y, A, NOISE, published=True), 1))
    for name, n, guided, pulls in runs:
        spent, began = denoiser.nfe, time.process_time()
        x = sample(guided, x_T, solver, n, noise_seeds=range(images), **options)
        seconds, spent = (time.process_time() - began) / images, denoiser.nfe - spent
        misfit = float((A(x) - y).square().sum().sqrt() / (A(clean) - y).square().sum().sqrt())
        yield Outcome(name, x, n, psnr(x, clean), misfit, spent, spent * pulls, seconds)


@click.command()
@click.option("--task", type=click.Choice(list(TASKS)), default="inpaint", show_default=True)
@click.option("--images", default=8, show_default=True)
@click.option("--nfe", default=20, show_default=True, help="Network evaluations.")
@click.option("--solver", default="ddim", show_default=True, help="ddim runs with eta = 1; any other as it is.")
@click.option(
    "--published", default=0, show_default=True, help="Also DPS as published, with this many ancestral steps."
)
@click.option(
    "--data", type=click.Path(exists=True, dir_okay=False), help="An .npz file with test_images (N, 28, 28), uint8."
)
@click.option("--out", default="restored.png", show_default=True)
def main(task: str, images: int, nfe: int, solver: str, published: int, data: str | None, out: str) -> None:
    """Restore digits by several methods."""
    click.echo(f"{task:>17} {'nfe':>5} {'calls':>6} {'VJPs':>5} {'PSNR':>6} {'misfit':>7} {'s/image':>8}")
    rows = {}
    for one in restored(task, images, nfe, solver, [published] if published else [], data):
        rows[one.name] = one.x
        if not one.nfe:
            continue
        told = f"{one.nfe:>5} {one.calls:>6} {one.vjps:>5} {one.psnr:>6.2f} {one.misfit:>7.2f} {one.seconds:>8.3f}"
        click.echo(f"{one.name:>17} {told}")
    draw(rows, out)


if __name__ == "__main__":
    main()
