"""Weights of the embedded digits tuned to a table of two to four evaluations: `python tests/benchmarks/tuned_digits.py`.

Tuned by `mmd` to MNIST training digits, by `ddim` and by the shipped learned tables. Told of 512 untouched seeds: FD-digits
to the MNIST test digits before and after, the paired 95 % interval of its change to the training digits, energy distance and
error to the teacher; and the FD of eight evaluations of `ddim` with the weights as they were.
"""

from __future__ import annotations

import time
import warnings
from pathlib import Path
from typing import Any

import click
import kept
import numpy as np
import torch

import fewstep
from fewstep import Denoiser, sample
from fewstep import eval as fe
from fewstep.adjoint import Tuned

GUARD = range(100_000, 100_512)
COLUMNS = (
    "table",
    "FD before",
    "FD after",
    "its change",
    "energy before",
    "energy after",
    "error before",
    "error after",
    "s",
)
PLAYED = (("ddim", 2), ("ddim", 3), ("ddim", 4), ("learned", 3), ("learned", 4))


def distance(pipe: Any, solver: Any, nfe: int) -> float:
    """FD-digits of the untouched seeds to the test digits."""
    images = []
    for first in range(0, len(GUARD), 100):
        seeds = list(GUARD)[first : first + 100]
        denoiser = Denoiser.from_pipeline(pipe, class_labels=[seed % 10 for seed in seeds])
        x_T = denoiser.initial_noise([torch.Generator().manual_seed(seed) for seed in seeds])
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            images += list(denoiser.decode(sample(denoiser, x_T, solver, nfe)))
    return float(fe.fid("mnist-test", iter(images), extractor="digits", progress=False))


@click.command()
@click.option("--data", type=click.Path(exists=True, path_type=Path), required=True, help="mnist.npz.")
@click.option("--steps", default=60, show_default=True)
@kept.keep
def main(data: Path, steps: int, keep: bool) -> None:
    """Tune, and measure before and after."""
    torch.set_num_threads(1)
    pipe = fewstep.load_demo_pipeline()
    digits = np.load(data)["train_images"][:10_000]
    click.echo(f"ddim at 8 evaluations, untuned: FD {distance(pipe, 'ddim', 8):.2f}", err=True)
    rows = [["`ddim`, 8, untuned", f"{distance(pipe, 'ddim', 8):.2f}", *[""] * (len(COLUMNS) - 2)]]
    for name, nfe in PLAYED:
        solver = fewstep.load_demo_artefact() if name == "learned" else name
        pipe = fewstep.load_demo_pipeline()
        began = time.process_time()
        tuned: Tuned = fewstep.tune(
            pipe, solver, nfe, "mmd", data=digits, extractor="digits", guard_seeds=GUARD, steps=steps, method="direct",
            classes=range(10), progress=False,
        )  # fmt: skip
        spent = time.process_time() - began
        before = distance(pipe, solver, nfe)
        tuned.apply(pipe, refused=True)
        report = tuned.report
        fd, energy, error = report["fd"], report["loss"], [report[end]["error"]["rms"] for end in ("before", "after")]
        low, high = fd["interval"]
        rows.append(
            [
                f"`{name}`, {nfe}", f"{before:.2f}", f"{distance(pipe, tuned.artefact, nfe):.2f}", f"{low:.2f} to {high:.2f}",
                *(kept.few(energy[end]) for end in ("before", "after")), *map(kept.few, error), f"{spent:.0f}",
            ]
        )  # fmt: skip
        click.echo(" | ".join(rows[-1]), err=True)
    kept.show("tuned_digits", COLUMNS, rows, keep)


if __name__ == "__main__":
    main()
