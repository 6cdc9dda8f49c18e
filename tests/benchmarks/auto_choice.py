"""`auto` against the best of many, on problems that its rule was not made from: `python tests/benchmarks/auto_choice.py`.

A cell is a published config, a number of evaluations and a mixture; models that were distilled for few steps, for which
`auto` takes their own solver, are left out. The last row may choose for each config and number of evaluations, knowing all
the errors: more than that no rule can do which looks at the config alone.
"""

from __future__ import annotations

import logging
import sys
import warnings
from pathlib import Path

import click
import kept
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "helpers"))

from real_grids import DATA, Data, distinct, squared_errors, table  # noqa: E402

from fewstep.samplers.config.reading import default_solver  # noqa: E402

SOLVERS = "deis,unipc,dpmpp_2m,dpmpp_3m,cab,lms,deis_log_rho,ddim"
NEAR, SAMPLES = 1.1, 200
_rng = np.random.default_rng(19)
_angles = 2 * np.pi * np.arange(8) / 8
NEW = {
    "ring": Data(np.stack([np.cos(_angles), np.sin(_angles)], 1), [[0.08]] * 8),
    "two far": Data([[1.5, 0.0, 0.3], [-1.2, 0.4, -0.3]], [[0.3, 0.1, 0.6], [0.2, 0.5, 0.1]]),
    "64-D": Data(0.6 * _rng.normal(size=(10, 64)), np.exp(_rng.uniform(np.log(0.05), np.log(0.6), (10, 64)))),
}


@click.command()
@click.option("--solvers", default=SOLVERS, show_default=True)
@click.option("--nfe", default="5,6,8,10,13,20", show_default=True)
@click.option("--every", default=1, show_default=True, help="Every how many-th of the configs.")
@kept.keep
def main(solvers: str, nfe: str, every: int, keep: bool) -> None:
    """Print the table."""
    warnings.simplefilter("ignore")
    logging.disable()
    DATA.clear()
    DATA.update(NEW)
    names = solvers.split(",")
    configs = {c: config for c, config in list(distinct().items())[::every] if default_solver(config)[0] == "auto"}
    places = [(c, int(n)) for c in configs for n in nfe.split(",")]
    found = np.array(
        [[_errors(configs[c], n, name) for name in ("auto", *names)] for c, n in places]
    )  # (place, name, data)
    best, ddim = found[:, 1:].min(1), found[:, 1 + names.index("ddim")]
    hindsight = np.array([of[_nearest(of[1:] / least) + 1] for of, least in zip(found, best, strict=True)])
    rows = [_row(f"`{name}`", found[:, i], best, ddim) for i, name in enumerate(("auto", *names))]
    rows.append(_row("the best for each config and nfe, by hindsight", hindsight, best, ddim))
    columns = ("solver", "within 10 % of the best", "error over the best", "above ddim", "most over ddim")
    print(f"{best.size} cells: {len(configs)} configs x nfe {nfe} x {', '.join(NEW)}")
    kept.show("auto_choice", columns, rows, keep)


def _errors(config: dict, n: int, name: str) -> list[float]:
    played = table(config, name, n)
    return [float(np.sqrt(squared_errors(played, data, SAMPLES).mean())) for data in NEW]


def _nearest(over: np.ndarray) -> int:
    """Of (names, data): who is near the best on most, then by the mean."""
    return int(np.lexsort((np.log(over).mean(1), -(over <= NEAR).sum(1)))[0])


def _row(name: str, errors: np.ndarray, best: np.ndarray, ddim: np.ndarray) -> list[str]:
    over, mean = errors / ddim, float(np.exp(np.log(errors / best).mean()))
    near = f"{(errors <= NEAR * best).mean():.0%}".replace("%", " %")
    return [name, near, f"{mean:.2f}", f"{(over > 1 + 1e-9).mean():.1%}".replace("%", " %"), f"{over.max():.2f}"]


if __name__ == "__main__":
    main()
