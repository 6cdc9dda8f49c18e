"""Solvers against ddim on the grids that published configs describe: `python tests/benchmarks/real_configs.py`.

A cell is a config, a number of evaluations and a mixture; its figure is the error over that of ddim. Printed for each solver:
the geometric mean of all cells, the largest, the share above 1.1, and the worst cells; then, for the pages, the geometric mean
and the largest over the configs of a kind, or with --left every cell above 1.1 of the recommended solvers.
"""

from __future__ import annotations

import logging
import sys
import warnings
from pathlib import Path
from typing import Any

import click
import kept
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "helpers"))

from real_grids import DATA, distinct, error, table  # noqa: E402

SHOWN = ("deis", "unipc", "dpmpp_2m")


def kind_of(config: dict[str, Any]) -> str:
    """The row of the pages that a config belongs to; none for what has steps of another kind."""
    kind, karras = table(config, "ddim", 5).schedule.kind, config.get("use_karras_sigmas")
    if kind == "flow" and not karras:
        return "flow"
    if kind == "vp" and config["_class_name"] not in ("SCMScheduler", "IPNDMScheduler") and not karras:
        return "table of betas"
    return "EDM" if kind == "ve" and "sigma_data" in config else ""


def shown(ratios: dict[str, dict[tuple[str, int, str], float]], configs: dict[str, Any]) -> list[list[str]]:
    """The rows of the pages."""
    kinds = {name: kind_of(config) for name, config in configs.items()}
    rows = []
    for kind in ("flow", "table of betas", "EDM"):
        count = sum(found == kind for found in kinds.values())
        cells = []
        for solver in SHOWN:
            values = np.array([ratio for (c, *_), ratio in ratios[solver].items() if kinds[c] == kind])
            mean = f"{np.exp(np.log(values).mean()):.2f}" if count else "-"
            cells.append((mean.removeprefix("0"), f"{values.max():.1f}" if count else "-"))
        best = min(mean for mean, _ in cells)
        texts = [f"{f'**{mean}**' if mean == best else mean}, {most}" for mean, most in cells]
        rows.append([f"{kind} ({count})", *texts])
    return rows


def above(ratios: dict[str, dict[tuple[str, int, str], float]], most: float = 1.1) -> list[list[str]]:
    """A row a config and mixture: solver, evaluations and error over that of ddim of every cell above `most`."""
    left: dict[tuple[str, str], list[str]] = {}
    for solver in SHOWN:
        for (config, n, data), ratio in ratios[solver].items():
            if ratio > most:
                left.setdefault((config, data), []).append(f"`{solver}` {n}: {ratio:.2f}")
    return [[config, data, "; ".join(cells)] for (config, data), cells in sorted(left.items())]


@click.command()
@click.option("--solvers", default="dpmpp_2m,unipc,deis,deis_log_rho,dpmpp_3m,cab,heun,dpm_2", show_default=True)
@click.option("--nfe", default="5,8,13,20", show_default=True)
@click.option("--every", default=1, show_default=True, help="Every how many-th of the configs.")
@click.option("--published", is_flag=True, help="Rows without their limiter.")
@click.option("--left", is_flag=True, help="Every cell that is left above 1.1.")
@kept.keep
def main(solvers: str, nfe: str, every: int, published: bool, left: bool, keep: bool) -> None:
    warnings.simplefilter("ignore")
    logging.disable()
    configs = dict(list(distinct().items())[::every])
    counts = [int(n) for n in nfe.split(",")]
    plain = {(c, n): table(config, "ddim", n) for c, config in configs.items() for n in counts}
    base = {(*key, data): error(t, data) for key, t in plain.items() for data in DATA}
    print(f"{len(configs)} configs x nfe {nfe} x {', '.join(DATA)}: error / error of ddim")
    ratios: dict[str, dict[tuple[str, int, str], float]] = {}
    for solver in solvers.split(","):
        ratio = ratios[solver] = {}
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
    if set(SHOWN) <= set(ratios):
        print()
        if left:
            kept.show("real_configs_left", ("config", "mixture", "where"), above(ratios), keep)
            return
        kept.show("real_configs", ("kind of config", *(f"`{s}`" for s in SHOWN)), shown(ratios, configs), keep)


if __name__ == "__main__":
    main()
