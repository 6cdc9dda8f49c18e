"""Solvers against ddim on the grids that published configs describe: `python tests/benchmarks/real_configs.py`.

A cell is a config, a number of evaluations and a mixture; its figure is the error over that of ddim, as a root mean square of
the same samples: in sixteen dimensions many of them, as one that goes to another kind of data counts whole. Printed for
each solver: the geometric mean of all cells, the largest, the share above 1.1, and the worst cells; then, for the pages, the
geometric mean and the largest over the configs of a kind, and every cell above 1.1 of the recommended solvers, or above 2 of
others, with its interval of 95 %. What a solver refuses is left out, and counted.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import kept
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "helpers"))

from real_grids import DATA, distinct, squared_errors, table  # noqa: E402
from spreads import STOCHASTIC  # noqa: E402

from fewstep.samplers import SOLVERS  # noqa: E402
from fewstep.samplers.config.reading import default_solver  # noqa: E402

SHOWN = ("auto", "deis", "unipc", "dpmpp_2m")
LIMIT, OTHERS = 1.1, 2.0  # of the recommended solvers, and of the others
Cell = tuple[str, int, str]


@dataclass(frozen=True)
class Ratio:
    """Error over error of ddim, and the logarithm's standard error, of paired samples."""

    value: float
    deviation: float

    @classmethod
    def of(cls, one: np.ndarray, other: np.ndarray) -> Ratio:
        a, b = one.mean(), other.mean()
        return cls(float(np.sqrt(a / b)), float((one / a - other / b).std() / np.sqrt(len(one)) / 2))

    def __str__(self) -> str:
        low, high = (self.value * np.exp(s * 1.96 * self.deviation) for s in (-1, 1))
        return f"{self.value:.2f} ({low:.2f} to {high:.2f})"


def kind_of(config: dict[str, Any]) -> str:
    """The row of the pages that a config belongs to; none for what has steps of another kind."""
    kind, karras = table(config, "ddim", 5).schedule.kind, config.get("use_karras_sigmas")
    if kind == "flow" and not karras:
        return "flow"
    if kind == "vp" and config["_class_name"] not in ("SCMScheduler", "IPNDMScheduler") and not karras:
        return "table of betas"
    return "EDM" if kind == "ve" and "sigma_data" in config else ""


def shown(ratios: dict[str, dict[Cell, Ratio]], configs: dict[str, Any]) -> list[list[str]]:
    """The rows of the pages."""
    kinds = {name: kind_of(config) for name, config in configs.items()}
    rows = []
    for kind in ("flow", "table of betas", "EDM"):
        count = sum(found == kind for found in kinds.values())
        cells = []
        for solver in SHOWN:
            values = np.array([ratio.value for (c, *_), ratio in ratios[solver].items() if kinds[c] == kind])
            mean = f"{np.exp(np.log(values).mean()):.2f}" if count else "-"
            cells.append((mean.removeprefix("0"), f"{values.max():.2f}" if count else "-"))
        best = min(mean for mean, _ in cells)
        texts = [f"{f'**{mean}**' if mean == best else mean}, {most}" for mean, most in cells]
        rows.append([f"{kind} ({count})", *texts])
    return rows


def above(ratios: dict[str, dict[Cell, Ratio]]) -> list[list[str]]:
    """A row a config and mixture: solver, evaluations and error over that of ddim of every cell above its limit."""
    left: dict[tuple[str, str], list[str]] = {}
    for solver, cells in ratios.items():
        for (config, n, data), ratio in cells.items():
            if ratio.value > (LIMIT if solver in SHOWN else OTHERS):
                left.setdefault((config, data), []).append(f"`{solver}` {n}: {ratio}")
    return [[config, data, "; ".join(cells)] for (config, data), cells in sorted(left.items())]


def deterministic() -> list[str]:
    """Every solver that is a table without noise, other than ddim."""
    return [n for n, e in SOLVERS.items() if e.kind == "tableau" and n not in STOCHASTIC and n != "ddim"]


def tables(config: dict[str, Any], solver: str, counts: list[int], published: bool) -> dict[int, Any]:
    """By number of evaluations, what the solver does not refuse."""
    found: dict[int, Any] = {}
    if solver == "auto" and default_solver(config)[0] != "auto":  # distilled: played by a solver of its own
        return found
    for n in counts:
        with contextlib.suppress(ValueError):
            found[n] = table(config, solver, n, **({"limiter": False} if published else {}))
    return found


def summary(solver: str, ratio: dict[Cell, Ratio], cells: int) -> str:
    """A line of the terminal."""
    values = np.array([r.value for r in ratio.values()])
    worst = sorted(ratio, key=lambda cell: -ratio[cell].value)[:3]
    told = "; ".join(f"{c} {n} {data} {ratio[c, n, data]}" for c, n, data in worst)
    mean, limit = np.exp(np.log(values).mean()), LIMIT if solver in SHOWN else OTHERS
    shares = f"most {values.max():6.2f}  above {limit}: {(values > limit).mean():5.1%}  refused {cells - len(values)}"
    return f"{solver:14} mean {mean:.3f}  {shares}  {told}"


@click.command()
@click.option("--solvers", default=",".join(SHOWN), show_default=True, help="Or all.")
@click.option("--nfe", default="4,5,6,8,10,13,20,30,50", show_default=True)
@click.option("--samples", default=1000, show_default=True)
@click.option("--every", default=1, show_default=True, help="Every how many-th of the configs.")
@click.option("--published", is_flag=True, help="Rows without their limiter.")
@kept.keep
def main(solvers: str, nfe: str, samples: int, every: int, published: bool, keep: bool) -> None:
    warnings.simplefilter("ignore")
    logging.disable()
    configs = dict(list(distinct().items())[::every])
    counts = [int(n) for n in nfe.split(",")]
    names = deterministic() if solvers == "all" else solvers.split(",")
    print(f"{len(configs)} configs x nfe {nfe} x {', '.join(DATA)}: error / error of ddim")
    ratios: dict[str, dict[Cell, Ratio]] = {name: {} for name in names}
    for c, config in configs.items():
        plain = tables(config, "ddim", counts, False)
        base = {(n, data): squared_errors(t, data, samples) for n, t in plain.items() for data in DATA}
        for solver in names:
            for n, played in tables(config, solver, counts, published).items():
                errors = {data: squared_errors(played, data, samples) for data in DATA}
                ratios[solver].update({(c, n, d): Ratio.of(errors[d], base[n, d]) for d in DATA if (n, d) in base})
        print(f"{c}: done", file=sys.stderr, flush=True)
    for solver in names:
        print(summary(solver, ratios[solver], len(configs) * len(counts) * len(DATA)))
    print()
    whole = set(SHOWN) <= set(ratios)  # what the pages show
    kept.show("real_configs_left", ("config", "mixture", "where"), above(ratios), keep and whole)
    if whole:
        kept.show("real_configs", ("kind of config", *(f"`{s}`" for s in SHOWN)), shown(ratios, configs), keep)


if __name__ == "__main__":
    main()
