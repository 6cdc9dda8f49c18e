"""Picard sweeps on the embedded digits: `python tests/benchmarks/picard.py [--device cuda] [--tolerance 1e-3]`.

Prints a table, asserts nothing: times belong to the machine. DDIM with 100 steps at batch 1, one after another and by
`picard` with windows 1, 8, 32 and 100; they take turns, and the medians are compared.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from fewstep.demo import load_demo_pipeline
from fewstep.samplers import Denoiser, NoiseSchedule, sample

WINDOWS = (1, 8, 32, 100)


def digits(labels: list[int], device: str) -> Denoiser:
    """The embedded network for copies of a batch with these classes, a time for every sample."""
    pipe = load_demo_pipeline(device)
    classes = torch.tensor(labels, device=device)

    @torch.no_grad()
    def fn(x: torch.Tensor, tau: torch.Tensor) -> torch.Tensor:
        return pipe.unet(x, tau.expand(len(x)), classes.repeat(len(x) // len(labels))).sample

    return Denoiser(fn, NoiseSchedule.from_config(pipe.scheduler.config), "epsilon", vector_time=True)


def seconds(run: Callable[[], Any], device: str) -> float:
    began = time.perf_counter()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--tolerance", type=float, default=1e-3)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    if given.device == "cuda":  # true float32, so that the column of errors is the method's
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    denoiser = digits([i % 10 for i in range(given.batch)], given.device)
    x = torch.randn(given.batch, 1, 28, 28, generator=torch.Generator().manual_seed(0)).to(given.device)
    runs: dict[str, Callable[[], Any]] = {"ddim": partial(sample, denoiser, x, "ddim", given.steps, return_info=True)}
    for window in WINDOWS:
        options = {"window": window, "tolerance": given.tolerance, "return_info": True}
        runs[f"picard, {window}"] = partial(sample, denoiser, x, "picard", given.steps, **options)
    results = {name: run() for name, run in runs.items()}  # and warms up
    spent: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(given.rounds):
        for name, run in runs.items():
            spent[name].append(seconds(run, given.device))
    median = {name: statistics.median(times) for name, times in spent.items()}
    print(f"DDIM, {given.steps} steps, batch {given.batch}, {given.device}, tolerance {given.tolerance:g}")
    print(f"{'':<12} {'calls':>6} {'nfe':>6} {'max error':>10} {'seconds':>8} {'speed-up':>9}")
    for name, (y, info) in results.items():
        error = float((y - results["ddim"][0]).abs().max())
        print(
            f"{name:<12} {info.calls:>6} {info.nfe:>6} {error:>10.1e} {median[name]:>8.3f} "
            f"{median['ddim'] / median[name]:>8.2f}x"
        )


if __name__ == "__main__":
    main()
