"""Stochastic solvers against themselves on the same Brownian paths: `python tests/benchmarks/stochastic_errors.py`.

What `fewstep compare --solvers er_sde,... --grid logsnr` does on the embedded model, as the table of the pages.
"""

from __future__ import annotations

import click
import kept
import torch

from fewstep.arguments import NAMES, NUMBERS, watched
from fewstep.eval.shared_noise.trials import Trials
from fewstep.samplers.pipeline.source import Source


@click.command()
@click.option("--solvers", type=NAMES, default="er_sde,dpmpp_2m_sde,sa_solver,euler_ancestral", show_default=True)
@click.option("--nfe", "nfes", type=NUMBERS, default="10,20,40,80", show_default=True)
@click.option("-n", "--number", default=4, show_default=True, help="Images.")
@kept.keep
def main(solvers: tuple[str, ...], nfes: tuple[int, ...], number: int, keep: bool) -> None:
    """Print the table."""
    torch.set_num_threads(1)
    trials = Trials(Source("demo"), range(number))
    found = [trials.errors(name, nfes, "logsnr") for name in watched(solvers, "solver")]
    rows = [(one.solver, *(f"{e:.3f}" for e in one.rmse)) for one in found]
    kept.show("stochastic_errors", ("solver", *map(str, nfes)), rows, keep)


if __name__ == "__main__":
    main()
