"""Solvers on a config's own steps and on the grids that suit them, on two networks: `python tests/benchmarks/grids.py`.

RMSE per picture to a 200-evaluation reference, 16 pictures on shared noise: the embedded digits, a table of betas, and the
colours in examples/, a flow. The rule of `auto` (samplers/solvers/automatic.py) and the page on choosing are made from it.
"""

from __future__ import annotations

import click
import kept
import torch

from fewstep.arguments import NUMBERS
from fewstep.eval.shared_noise.trials import Trials
from fewstep.samplers.pipeline.source import Source

MODELS = {"digits": "demo", "colours": str(kept.ROOT / "examples" / "colours")}
OWN = "its own"
PLAYED = {
    "digits": {
        "deis": (OWN, "beta", "quadratic"),
        "unipc": (OWN, "beta", "quadratic"),
        **dict.fromkeys(("heun", "dpm_2", "dpm_3", "etd_rk4"), (OWN, "quadratic")),
    },
    "colours": {**dict.fromkeys(("deis", "unipc", "heun", "dpm_2", "dpm_3", "etd_rk4"), (OWN, "beta"))},
}


@click.command()
@click.option("--nfe", "nfes", type=NUMBERS, default="4,5,6,8,10,12,15,20,30,50", show_default=True)
@click.option("-n", "--number", default=16, show_default=True, help="Pictures.")
@kept.keep
def main(nfes: tuple[int, ...], number: int, keep: bool) -> None:
    """Print the table."""
    torch.set_num_threads(1)
    rows = []
    for network, model in MODELS.items():
        trials = Trials(Source(model), range(number))
        trials.truth(progress=False)
        for solver, grids in PLAYED[network].items():
            for grid in grids:
                found = trials.errors(solver, nfes, None if grid == OWN else grid)
                rows.append([network, f"`{solver}`", grid, *(f"{e:.4f}" for e in found.rmse)])
                click.echo(" ".join(rows[-1]), err=True)
    kept.show("grids", ("network", "solver", "grid", *map(str, nfes)), rows, keep)


if __name__ == "__main__":
    main()
