"""Evaluations at equal error, steps chosen against steps fixed: `python tests/benchmarks/adaptive.py`.

Prints tables, asserts nothing; the last one is that of the pages.
ODE: the mixture under VP, 16 states in float64, root-mean-square distance to a
solution of tolerance 1e-11; beside each run the cheapest fixed grid of any of the solvers and grids below whose error is
no larger, interpolated. SDE: Gaussian data under VP, deviation of 16 x 2000 numbers against a fine solution on the same
Brownian paths; beside each run the fewest steps of Euler-Maruyama on any grid.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import click
import kept
import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "helpers"))

from problems import Gaussian, Mixture, starts  # noqa: E402

from fewstep.samplers import NoiseSchedule, sample  # noqa: E402

VP = NoiseSchedule.vp_linear()
GRIDS = ("logsnr", "uniform", "quadratic")
FIXED = {"dpm_3": {}, "dpmpp_3m": {}, "unipc": {"order": 3}}
SHOWN = {
    "dpm_adaptive": ("0.05", "1e-2", "1e-4"),
    "rk45": ("1e-4", "1e-5", "1e-6"),
    "gotta_go_fast": ("0.1", "0.05", "0.02"),
}
RUNS = [
    *(("dpm_adaptive", {"rtol": r, "atol": 0.156 * r}) for r in (0.05, 1e-2, 1e-3, 1e-4)),
    *(("dpm_adaptive", {"order": 2, "rtol": r, "atol": 0.156 * r}) for r in (0.05, 1e-2)),
    *(("rk45", {"rtol": r, "atol": r}) for r in (1e-3, 1e-4, 1e-5, 1e-6)),
    *(("rk45", {"rtol": r, "atol": r, "var": "t"}) for r in (1e-3, 1e-5)),
]


def cheapest(curves: dict[str, list[tuple[int, float]]], error: float) -> tuple[int, str] | None:
    """The fewest evaluations on any curve from where its error stays no larger, between counts by a power law."""
    found = []
    for name, curve in curves.items():
        last = max((i for i, (_, e) in enumerate(curve) if e > error), default=-1)
        if 0 <= last < len(curve) - 1:
            (n0, e0), (n1, e1) = curve[last : last + 2]
            share = np.log(e0 / error) / np.log(e0 / e1)
            found.append((round(n0 * (n1 / n0) ** share), name))
    return min(found, default=None)


class Run(NamedTuple):
    """What one run of a driver spent and missed, and the cheapest fixed grid that misses no more."""

    driver: str
    options: dict[str, Any]
    nfe: float
    error: float
    best: tuple[int, str] | None


def row(label: str, run: Run) -> str:
    _, options, nfe, error, best = run
    text = ", ".join(f"{k}={v:g}" if isinstance(v, float) else f"{k}={v}" for k, v in options.items())
    other = f"{best[0]} ({best[1]}) | {best[0] / nfe:.2f}" if best else "more | -"
    return f"| {run.driver}, {label} | {text} | {nfe:.0f} | {error:.1e} | {other} |"


def sweep(run: Callable[[int], float], counts: np.ndarray) -> list[tuple[int, float]]:
    return [(n, run(n)) for n in map(int, counts)]


def shown(runs: list[Run]) -> list[tuple[str, ...]]:
    """The rows of the pages."""
    rows = []
    for driver, tolerances in SHOWN.items():
        for tolerance in tolerances:
            run = next(
                r for r in runs
                if r.driver == driver and r.options["rtol"] == float(tolerance) and not r.options.keys() & {"order", "var"}
            )  # fmt: skip
            other = " (Euler-Maruyama)" if driver == "gotta_go_fast" else ""
            needs = f"{run.best[0]}{other}" if run.best else "more"
            rows.append((driver, tolerance, f"{run.nfe:.0f}", kept.power(run.error), needs))
    return rows


def ode(most: int) -> list[Run]:
    """Those with shared steps."""
    found = []
    x, shared, own = starts(VP, 1.0), Mixture().denoiser(VP), Mixture().denoiser(VP, vector_time=True)
    want = sample(shared, x, "rk45", nfe=10**5, rtol=1e-11, atol=1e-11)

    def error(y: Tensor) -> float:
        return float((y - want).square().mean().sqrt())

    counts = np.unique(np.round(np.geomspace(6, most, 40)))
    curves = {
        f"{name}, {grid}": sweep(lambda n, s=name, g=grid, o=opts: error(sample(shared, x, s, n, g, **o)), counts)
        for name, opts in FIXED.items()
        for grid in GRIDS
    }
    print("| ODE | options | nfe | rms error | best fixed grid needs | its nfe / ours |\n|---|---|--:|--:|---|--:|")
    for name, options in RUNS:
        for label, denoiser in (("shared steps", shared), ("own steps, mean nfe", own)):
            y, info = sample(denoiser, x, name, return_info=True, **options)
            nfe = float(np.mean(info.each))
            run = Run(name, options, nfe, error(y), cheapest(curves, error(y)))
            print(row(label, run))
            found += [run] if denoiser is shared else []
    return found


def sde(most: int, samples: int = 16, width: int = 2000) -> list[Run]:
    found = []
    problem = Gaussian()
    denoiser = problem.denoiser(VP, vector_time=True)
    alpha, sigma = float(VP.alpha(1.0)), float(VP.sigma(1.0))
    z = torch.randn(samples, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = alpha * problem.mean + (alpha**2 * problem.std**2 + sigma**2) ** 0.5 * z
    seeds = range(samples)
    fine = sample(denoiser, x, "dpmpp_2m_sde", 600, "logsnr", noise="brownian", noise_seeds=seeds)

    def error(y: Tensor) -> float:
        return abs(float(y.std() - fine.std()))

    def em(n: int, grid: str) -> float:
        return error(sample(denoiser, x, "euler_maruyama", n, grid, noise="brownian", noise_seeds=seeds))

    counts = np.round(np.geomspace(32, most, 12))
    curves = {grid: sweep(lambda n, g=grid: em(n, g), counts) for grid in GRIDS}
    print("\n| SDE | options | nfe | error of std | Euler-Maruyama needs | its nfe / ours |\n|---|---|--:|--:|---|--:|")
    for rtol, atol in ((0.2, 0.0078), (0.1, 0.0078), (0.05, 0.0078), (0.02, 0.0031), (0.01, 0.0016)):
        options = {"rtol": rtol, "atol": atol}
        y, info = sample(denoiser, x, "gotta_go_fast", noise_seeds=seeds, denoise=False, return_info=True, **options)
        nfe = float(np.mean(info.each))
        found.append(Run("gotta_go_fast", options, nfe, error(y), cheapest(curves, error(y))))
        print(row("own steps", found[-1]))
    return found


@click.command()
@click.option(
    "--most", default=(400, 1448), type=(int, int), show_default=True, help="Steps of fixed grids, ODE and SDE."
)
@kept.keep
def main(most: tuple[int, int], keep: bool) -> None:
    """Print the tables."""
    torch.set_num_threads(1)
    rows = shown([*ode(most[0]), *sde(most[1])])
    print()
    kept.show("adaptive", ("driver", "tolerance", "evaluations", "error", "a fixed grid needs"), rows, keep)


if __name__ == "__main__":
    main()
