"""Solvers against ddim on the grids that published configs describe: `python tests/benchmarks/real_configs.py`.

A cell is a config, a number of evaluations and a mixture; its figure is the error over that of ddim. Printed for each solver:
the geometric mean of all cells, the largest, the share above 1.1, and the worst cells.
"""

from __future__ import annotations

import logging
import sys
import warnings
from pathlib import Path

import click
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "helpers"))

from real_grids import DATA, distinct, error, table  # noqa: E402


@click.command()
@click.option("--solvers", default="dpmpp_2m,unipc,deis,deis_log_rho,dpmpp_3m,cab,heun,dpm_2", show_default=True)
@click.option("--nfe", default="5,8,13,20", show_default=True)
@click.option("--every", default=1, show_default=True, help="Every how many-th of the configs.")
@click.option("--published", is_flag=True, help="Rows without their limiter.")
def main(solvers: str, nfe: str, every: int, published: bool) -> None:
    warnings.simplefilter("ignore")
    logging.disable()
    configs = dict(list(distinct().items())[::every])
    counts = [int(n) for n in nfe.split(",")]
    plain = {(c, n): table(config, "ddim", n) for c, config in configs.items() for n in counts}
    base = {(*key, data): error(t, data) for key, t in plain.items() for data in DATA}
    print(f"{len(configs)} configs x nfe {nfe} x {', '.join(DATA)}: error / error of ddim")
    for solver in solvers.split(","):
        ratio = {}
        for c, n in plain:
            played = table(configs[c], solver, n, **({"limiter": False} if published else {}))
            ratio.update({(c, n, data): error(played, data) / base[c, n, data] for data in DATA})
        values = np.array(list(ratio.values()))
        worst = sorted(ratio, key=ratio.__getitem__)[:-4:-1]
        cells = "; ".join(f"{c} {n} {data} {ratio[c, n, data]:.2f}" for c, n, data in worst)
        mean = np.exp(np.log(values).mean())
        print(
            f"{solver:14} mean {mean:.3f}  most {values.max():6.2f}  above 1.1: {(values > 1.1).mean():5.1%}  {cells}",
            flush=True,
        )


if __name__ == "__main__":
    main()
