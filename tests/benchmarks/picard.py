"""Picard sweeps on the embedded digits: `python tests/benchmarks/picard.py [--device cuda] [--tolerance 1e-3]`.

Prints tables, asserts nothing: times belong to the machine. DDIM with 100 steps at batch 1, one after another and by
`picard` with windows 1, 8, 32 and 100; they take turns, and the medians are compared. Then, for the pages, the sweeps that
tolerances take, with guidance 2 and all steps in one window (--sweeps: this alone).
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import click
import kept
import torch

from fewstep.demo import load_demo_pipeline
from fewstep.demo.pipeline import NULL_CLASS
from fewstep.samplers import Denoiser, NoiseSchedule, sample

WINDOWS = (1, 8, 32, 100)
TOLERANCES = ("1e-1", "1e-2", "1e-3", "1e-4", "1e-5")


def digits(labels: list[int], device: str, guidance: float = 1.0) -> Denoiser:
    """The embedded network for copies of a batch with these classes, a time for every sample."""
    pipe = load_demo_pipeline(device)
    classes = torch.tensor(labels, device=device)

    @torch.no_grad()
    def fn(x: torch.Tensor, tau: torch.Tensor) -> torch.Tensor:
        own = classes.repeat(len(x) // len(labels))
        there = pipe.unet(x, tau.expand(len(x)), own).sample
        if guidance == 1:
            return there
        null = pipe.unet(x, tau.expand(len(x)), torch.full_like(own, NULL_CLASS)).sample
        return null + guidance * (there - null)

    return Denoiser(fn, NoiseSchedule.from_config(pipe.scheduler.config), "epsilon", vector_time=True)


def seconds(run: Callable[[], Any], device: str) -> float:
    began = time.perf_counter()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def speeds(device: str, tolerance: float, steps: int, batch: int, rounds: int) -> None:
    """The table of windows."""
    denoiser = digits([i % 10 for i in range(batch)], device)
    x = torch.randn(batch, 1, 28, 28, generator=torch.Generator().manual_seed(0)).to(device)
    runs: dict[str, Callable[[], Any]] = {"ddim": partial(sample, denoiser, x, "ddim", steps, return_info=True)}
    for window in WINDOWS:
        options = {"window": window, "tolerance": tolerance, "return_info": True}
        runs[f"picard, {window}"] = partial(sample, denoiser, x, "picard", steps, **options)
    results = {name: run() for name, run in runs.items()}  # and warms up
    spent: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            spent[name].append(seconds(run, device))
    median = {name: statistics.median(times) for name, times in spent.items()}
    print(f"DDIM, {steps} steps, batch {batch}, {device}, tolerance {tolerance:g}")
    print(f"{'':<12} {'calls':>6} {'nfe':>6} {'max error':>10} {'seconds':>8} {'speed-up':>9}")
    for name, (y, info) in results.items():
        error = float((y - results["ddim"][0]).abs().max())
        print(
            f"{name:<12} {info.calls:>6} {info.nfe:>6} {error:>10.1e} {median[name]:>8.3f} "
            f"{median['ddim'] / median[name]:>8.2f}x"
        )
    print()


def sweeps(device: str, steps: int) -> list[list[str]]:
    """Rows of the table of tolerances: sweeps, and the largest error of a pixel."""
    denoiser = digits([5], device, 2.0)
    x = torch.randn(1, 1, 28, 28, generator=torch.Generator().manual_seed(0)).to(device)
    alone = sample(denoiser, x, "ddim", steps)
    made, errors = ["sweeps"], ["largest error"]
    for tolerance in map(float, TOLERANCES):
        y, info = sample(denoiser, x, "picard", steps, window=steps, tolerance=tolerance, return_info=True)
        error = float((y - alone).abs().max())
        made.append(str(info.calls))
        errors.append(kept.few(error) if error >= 0.01 else kept.power(error, 0))
    return [made, errors]


@click.command()
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option("--tolerance", default=1e-3, show_default=True, help="Of the table of windows.")
@click.option("--steps", default=100, show_default=True)
@click.option("--batch", default=1, show_default=True)
@click.option("--rounds", default=5, show_default=True)
@click.option("--sweeps", "only", is_flag=True, help="The table of tolerances alone.")
@kept.keep
def main(device: str, tolerance: float, steps: int, batch: int, rounds: int, only: bool, keep: bool) -> None:
    """Print the tables."""
    if device == "cuda":  # true float32, so that the column of errors is the method's
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    if not only:
        speeds(device, tolerance, steps, batch, rounds)
    kept.show("picard", ("tolerance", *TOLERANCES), sweeps(device, steps), keep)


if __name__ == "__main__":
    main()
