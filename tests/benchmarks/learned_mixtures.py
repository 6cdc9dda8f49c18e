"""Learning on mixtures with exact scores, against fixed recipes: `python tests/benchmarks/learned_mixtures.py`.

A cell is rms / median of the error over that of the best fixed recipe of dpmpp_2m on untouched seeds (process seconds,
reference and all); of `joint` and `ld3`, begun from the best of eight recipes, the rms alone.
"""

from __future__ import annotations

import sys
import time
import warnings
from pathlib import Path
from typing import Any

import click
import kept
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "helpers"))

from learned_problems import MIXTURES, SHAPES, base, task  # noqa: E402

from fewstep import learn  # noqa: E402
from fewstep.arguments import NUMBERS, watched  # noqa: E402
from fewstep.samplers.learned.methods.joint import joint  # noqa: E402
from fewstep.samplers.learned.methods.ld3 import ld3  # noqa: E402

GRIDS = ("uniform", "quadratic", "logsnr", "karras")
AUTO: dict[str, dict[str, Any]] = {
    "`auto`, closed form only": {"refine": ()},
    "`auto` without gradients": {"refine": ("newton",)},
    "`auto`": {},
}


def auto(name: str, nfe: int, seeds: int, fresh: int, how: dict[str, Any]) -> str:
    """rms / median (seconds) of the ratios."""
    began = time.process_time()
    artefact = learn(
        MIXTURES[name](), "dpmpp_2m", nfe, "auto", shape=SHAPES[name], dtype=torch.float64, cache=False, progress=False,
        batch_size=512, teacher={"nfe": 120}, seeds=range(seeds), guard_seeds=range(10_000, 10_000 + fresh), rivals=False,
        **how,
    )  # fmt: skip
    test = artefact.tables[0].report["test"]
    return f"{test['rms']['ratio']:.2f} / {test['median']['ratio']:.2f} ({time.process_time() - began:.1f} s)"


def descents(name: str, nfe: int, seeds: int, fresh: int) -> list[str]:
    """Ratio of rms: joint from the best start, ld3 from two."""
    made = task(MIXTURES[name](), SHAPES[name], nfe, seeds, seeds // 2, batch_size=512)
    recipes = {(g, last): base(made, grid=g, lower_order_final=last) for g in GRIDS for last in (True, False)}
    parts = made.problem.parts(range(20_000, 20_000 + fresh))

    def rms(table: Any) -> float:
        return float(made.errors(table, parts).mean().sqrt())

    how: dict[str, Any] = {"batch": min(128, seeds), "remember": True}
    fixed = min(map(rms, recipes.values()))
    best = min(recipes.values(), key=made.judge)
    starts = [min((recipes[g, last] for g in GRIDS), key=made.judge) for last in (True, False)]
    found = rms(joint(made, best, **how)), min(rms(ld3(made, begin, **how)) for begin in starts)
    return [f"{one / fixed:.2f}" for one in found]


@click.command()
@click.argument("mixtures", nargs=-1, type=click.Choice(list(MIXTURES)))
@click.option("--nfe", "nfes", type=NUMBERS, default="5,8", show_default=True)
@click.option("--seeds", default=512, show_default=True, help="Learned on.")
@click.option("--fresh", default=1500, show_default=True, help="Untouched seeds.")
@kept.keep
def main(mixtures: tuple[str, ...], nfes: tuple[int, ...], seeds: int, fresh: int, keep: bool) -> None:
    """Print the table of MIXTURES: all of them unless told."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    rows = []
    for name, nfe in watched([(name, n) for name in mixtures or MIXTURES for n in nfes], "mixture, evaluations"):
        cells = [auto(name, nfe, seeds, fresh, how) for how in AUTO.values()]
        rows.append([f"{name}, {nfe}", *cells, *descents(name, nfe, seeds, fresh)])
    kept.show("learned_mixtures", ("mixture, evaluations", *AUTO, "`joint`, rms", "`ld3`, rms"), rows, keep)


if __name__ == "__main__":
    main()
