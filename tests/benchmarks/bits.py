"""Bits per dimension of the embedded digits model, with the standard error over digits, at several clean ends.

    python tests/benchmarks/bits.py --data mnist.npz        # real digits: test_images (N, 28, 28) uint8, test_labels (N,)
    python tests/benchmarks/bits.py                         # digits that the model draws itself, rounded to 256 levels

Values x = k / 127.5 - 1 as in training, made continuous by uniform noise of one level. What is measured is the density of
x0 + rho eps, rho = sigma / alpha at the clean end: at the least noise of training (0.01, more than a level of 2 / 255) it
cannot be narrow where digits are black, and below it the network is shown times that it never saw.
"""

from __future__ import annotations

import time
from typing import Any

import click
import numpy as np
import torch
from tqdm import tqdm

from fewstep import Denoiser, NoiseSchedule, load_demo_pipeline
from fewstep.adjoint.likelihood.quantised_bits import bits_per_dim
from fewstep.demo.pipeline import NULL_CLASS


def digits(data: str | None, number: int, pipe: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Digits (N, 1, 28, 28) on 256 levels from -1 to 1, and their classes (N,)."""
    if data:
        with np.load(data) as npz:
            images, labels = npz["test_images"][:number], npz["test_labels"][:number]
        return torch.from_numpy(images).float().div(127.5).sub(1).unsqueeze(1), torch.from_numpy(labels).long()
    labels = torch.arange(number) % 10
    drawn = pipe(labels, num_inference_steps=50, generator=torch.Generator().manual_seed(0), output_type="pt").images
    return (drawn * 255).round().div(127.5).sub(1), labels


@click.command()
@click.option(
    "--data", type=click.Path(exists=True, dir_okay=False), help="npz with test digits  [default: drawn ones]"
)
@click.option("-n", "--number", type=click.IntRange(2), default=200, show_default=True)
@click.option("--nfe", type=click.IntRange(1), default=60, show_default=True)
@click.option("--solver", default="adams6", show_default=True)
@click.option("--grid", default="logsnr", show_default=True, help="Nodes; images have structure down to their noise.")
@click.option("--rho", "rhos", default="0,0.003", show_default=True, help="sigma / alpha at the end; 0: of t_min.")
@click.option("--labels/--null", "known", default=False, help="p(x | class) instead of p(x).", show_default=True)
@click.option("--batch", type=click.IntRange(1), default=25, show_default=True)
@click.option("--device", default="cpu", show_default=True)
def main(
    data: str | None, number: int, nfe: int, solver: str, grid: str, rhos: str, known: bool, batch: int, device: str
) -> None:
    """Print a row for each clean end."""
    pipe = load_demo_pipeline(device)
    unet, schedule = pipe.unet.requires_grad_(False), NoiseSchedule.from_config(pipe.scheduler.config)
    x, classes = digits(data, number, pipe)
    for rho in (float(v) for v in rhos.split(",")):
        t_end = float(schedule.t_of_lam(-np.log(rho))) if rho else schedule.t_min
        began, bits = time.perf_counter(), []
        for i in tqdm(range(0, len(x), batch), desc=f"t_end {t_end:.2g}", disable=None):
            part = x[i : i + batch].to(device)
            y = classes[i : i + batch].to(device) if known else torch.full((len(part),), NULL_CLASS, device=device)
            denoiser = Denoiser(lambda x, tau, y=y: unet(x, tau, class_labels=y).sample, schedule)
            seeds = list(range(i, i + len(part)))
            bits.append(bits_per_dim(denoiser, part, nfe, solver, t_end=t_end, grid=grid, seeds=seeds).cpu())
        each, seconds = torch.cat(bits), time.perf_counter() - began
        level = float(np.exp(-schedule.lam(t_end)))
        print(
            f"rho {level:.4f}: {each.mean():.4f} +- {each.std() / len(each) ** 0.5:.4f} bits/dim, {len(each)} digits, "
            f"{solver} {nfe} evaluations ({grid}), {seconds:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
