"""Spread of stochastic solvers on wide data over published configs: `python tests/benchmarks/std_of_solvers.py`.

Data N(0.5, 0.5^2), whose network is affine: mean and deviation of the result are propagated exactly. A cell is a config, a
solver and a number of evaluations; printed for each solver and each number: how many cells, the share whose deviation is off
by more than 15 %, the largest ratio and the smallest, and the cells themselves with --cells.
"""

from __future__ import annotations

import logging
import sys
import warnings
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).parents[1] / "helpers"))

from spreads import STOCHASTIC, spreads  # noqa: E402


@click.command()
@click.option("--solvers", default=",".join(STOCHASTIC), show_default=False)
@click.option("--nfe", default="10,20,50", show_default=True)
@click.option("--every", default=1, show_default=True, help="Every how many-th of the configs of distinct steps.")
@click.option("--limit", default=0.15, show_default=True)
@click.option("--cells", is_flag=True, help="Every cell that is off.")
def main(solvers: str, nfe: str, every: int, limit: float, cells: bool) -> None:
    warnings.simplefilter("ignore")
    logging.disable()
    for solver in solvers.split(","):
        for n in map(int, nfe.split(",")):
            ratios, refused = spreads(solver, n, every)
            off = {name: ratio for name, ratio in ratios.items() if not abs(ratio - 1) <= limit}
            ends = f"{min(ratios.values()):.3f} .. {max(ratios.values()):.3f}" if ratios else "-"
            print(
                f"{solver:26} nfe {n:3}  cells {len(ratios):3}  off {len(off):3}  std / right {ends}  refused {refused}"
            )
            if cells:
                print("".join(f"    {name}: {ratio:.3f}\n" for name, ratio in off.items()), end="", flush=True)


if __name__ == "__main__":
    main()
