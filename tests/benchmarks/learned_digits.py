"""Learned tables of a model against the best fixed recipe: `python tests/benchmarks/learned_digits.py`.

    python tests/benchmarks/learned_digits.py --guidance 3 --nfe 5,8
    python tests/benchmarks/learned_digits.py --model examples/colours --learned examples/colours-learned.json

What `fewstep learn demo --solver auto --set steps=70` does, as the table of the pages: rms / median of the error to the
teacher on untouched seeds, ratios with 95 % intervals. Minutes a table; a run that was interrupted goes on.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click
import kept

from fewstep import learn
from fewstep.arguments import NUMBERS
from fewstep.samplers.artefact.artefact import Artefact

COLUMNS = ("evaluations", "best fixed recipe", "its error", "learned", "ratio of rms", "ratio of medians", "worse in")


def recipe(told: str) -> str:
    """Of the options of a recipe, the one that changes what it is."""
    name = re.sub(r" \(.*\)$", "", told)
    return f"{name}, no lower order at the end" if "lower_order_final=False" in told else name


def shown(artefact: Artefact) -> list[tuple[str, ...]]:
    """A row a table."""

    def errors(told: dict[str, Any]) -> str:
        return f"{told['test']['rms']:.3f} / {told['test']['median']:.3f}"

    def ratio(told: dict[str, Any]) -> str:
        return "{:.2f} [{:.2f}, {:.2f}]".format(told["ratio"], *told["interval"])

    rows = []
    for table in artefact.tables:
        report, test = table.report, table.report["test"]
        learned = errors(report["learned"])
        learned = f"**{learned}**" if table.status == "learned" else learned
        errs = errors(report["best_fixed"]), learned
        worse = f"{100 * test['worse']:.0f} %"
        rows.append(
            (
                str(table.nfe),
                recipe(report["best_fixed_recipe"]),
                *errs,
                ratio(test["rms"]),
                ratio(test["median"]),
                worse,
            )
        )
    return rows


@click.command()
@click.option("--model", default="demo", show_default=True, help="demo, or the folder of a pipeline.")
@click.option("--learned", type=click.Path(exists=True), help="What was learned already, and told with it.")
@click.option("--nfe", "nfes", type=NUMBERS, default="3,4,5,6,7,8,9,10", show_default=True)
@click.option("--guidance", type=float, help="Scale  [default: none]")
@click.option("-n", "--number", default=256, show_default=True, help="Samples learned on.")
@click.option("--guard", default=256, show_default=True, help="Untouched ones.")
@click.option("--steps", default=70, show_default=True, help="Of gradient methods.")
@click.option("--solver", default="auto", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="The artefact.")
@kept.keep
def main(
    model: str,
    learned: str | None,
    nfes: tuple[int, ...],
    guidance: float | None,
    number: int,
    guard: int,
    steps: int,
    solver: str,
    out: Path | None,
    keep: bool,
) -> None:
    """Learn, and print the table."""
    name = f"learned_{kept.short(model)}" if guidance is None else f"learned_{kept.short(model)}_guided"
    if learned:
        kept.show(name, COLUMNS, shown(Artefact.load(learned)), keep)
        return
    seeds = {"seeds": range(number), "guard_seeds": range(max(1000, number), max(1000, number) + guard)}
    with kept.resumable() as folder:
        artefact = learn(model, solver, nfes, guidance=guidance, steps=steps, resume=folder, **seeds)
        if out:
            artefact.save(out)
        kept.show(name, COLUMNS, shown(artefact), keep)


if __name__ == "__main__":
    main()
