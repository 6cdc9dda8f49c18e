"""Error against work: plain tables, and tables whose rows leave blocks of the network out (method l2p).

    python tests/benchmarks/feature_cache.py                      # the embedded network
    python tests/benchmarks/feature_cache.py --network dit        # of `examples/train_digits.py --network dit --out dit`
    python tests/benchmarks/feature_cache.py --network dit --network demo       # the table of the pages

Both kinds begin from the best of four grids of dpmpp_2m for their number of calls and have their weights fitted (iia). "mix":
with matrices over channels. rms and median are over untouched seeds, to a reference of 60 evaluations of dpmpp_3m.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import click
import kept
import torch

from fewstep import load_demo_pipeline
from fewstep.demo.pipeline import DigitsPipeline
from fewstep.samplers import Tableau
from fewstep.samplers.blocks.flops import flops
from fewstep.samplers.learned import METHODS, Problem, Teacher
from fewstep.samplers.learned.problem.recipes import recipes
from fewstep.samplers.learned.tasks.learner_task import Task
from fewstep.samplers.pipeline.source import load_pipeline

COLUMNS = ("network", "table", "calls", "cost in evaluations", "MFLOP a sample", "rms", "median")
GRIDS = ("quadratic", "flow", "uniform", "polyexponential")


def opened(network: str) -> DigitsPipeline:
    """The embedded pipeline, or the one in a folder."""
    if network == "demo":
        return load_demo_pipeline()
    pipe = load_pipeline(network, torch.device("cpu"), torch.float32)
    pipe.unet.requires_grad_(False)
    return pipe


def started(task: Task) -> Tableau:
    """The best of some grids of dpmpp_2m on the validation seeds."""
    how: dict[str, Any] = {"grids": GRIDS, "options": {"lower_order_final": True}}
    return min((r.table for r in recipes("dpmpp_2m", task.problem.schedule, task.nfe, **how)), key=task.judge)


def tables(task: Task, counts: list[int], options: dict[str, Any]) -> Iterator[tuple[str, Tableau]]:
    """What is compared at one number of calls."""
    start = started(task)
    yield "plain, best of four grids", start
    yield "plain, `iia`", METHODS.find("iia").fn(task, start)
    for full in counts:
        if full < task.nfe:
            for mix in (False, True):
                name = f"`l2p`, {full} full{', `mix`' * mix}"
                yield name, METHODS.find("l2p").fn(task, start, full=full, mix=mix, **options)


def measured(
    network: str, calls: list[int], shares: list[float], options: dict[str, Any], train: int, test: int
) -> Iterator[tuple[str, ...]]:
    """The rows of a network."""
    torch.manual_seed(0)
    problem = Problem(opened(network), classes=range(10), batch_size=32)
    teacher, part = Teacher(problem), problem.part([0])
    one = flops(lambda: part.denoiser(part.x_T, 500.0))
    whole = Task(problem, teacher, 1, tuple(range(train)), tuple(range(1000, 1032)))
    untouched = problem.parts(range(5000, 5000 + test))
    teacher.prepare([*problem.parts(whole.train), *whole.valid_parts(), *untouched])
    label = "embedded U-Net" if network == "demo" else "transformer"
    click.echo(f"{label}: one evaluation of a sample {one / 1e6:.0f} MFLOP", err=True)
    for n in calls:
        task = replace(whole, nfe=n)
        for name, table in tables(task, sorted({max(1, round(share * n)) for share in shares}), options):
            errors = task.errors(table, untouched)
            told = "" if table.cache is None else "".join("01"[int(row)] for row in table.cache.computed.all(1))
            work = f"{table.cost:.2f}", f"{table.cost * one / 1e6:.0f}"
            row = (label, name, str(table.nfe), *work, f"{errors.mean().sqrt():.3f}", f"{errors.median().sqrt():.3f}")
            click.echo(f"{' '.join(row)}  {told}", err=True)
            yield row


@click.command()
@click.option("--network", "networks", multiple=True, default=("demo",), show_default=True, help="demo, or a folder.")
@click.option("--nfe", "calls", multiple=True, type=int, default=(3, 4, 5, 6, 8), show_default=True)
@click.option(
    "--share", "shares", multiple=True, type=float, default=(0.5,), show_default=True, help="Of rows that are full."
)
@click.option("--rows", default="even", show_default=True, help="even or greedy.")
@click.option("--window", default=3, show_default=True)
@click.option("--blocks", help="JSON: paths, or groups of paths.")
@click.option("--train", default=48, show_default=True)
@click.option("--test", default=64, show_default=True)
@kept.keep
def main(
    networks: Any,
    calls: Any,
    shares: Any,
    rows: str,
    window: int,
    blocks: str | None,
    train: int,
    test: int,
    keep: bool,
) -> None:
    """Print a row a table: calls, evaluations, FLOPs of a sample, rms and median."""
    options = {"rows": rows, "window": window, "search": 16, "samples": train}
    options |= {} if blocks is None else {"blocks": json.loads(blocks)}
    found = [row for network in networks for row in measured(network, calls, shares, options, train, test)]
    kept.show("feature_cache", COLUMNS, found, keep)


if __name__ == "__main__":
    main()
