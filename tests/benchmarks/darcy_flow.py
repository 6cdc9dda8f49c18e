"""Darcy flow from 3 % of its cells: `python tests/benchmarks/darcy_flow.py --weights darcy.safetensors`.

Methods of `examples/recover_pde.py`, whose training makes the weights, as the table of the pages: mean relative L2 errors of
a / u over 16 fields, where u is known and where both are. The published loops take hours, as their weights are searched for
at each number of steps. Interrupted, the same command goes on.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import kept
import torch
from torch import Tensor

from fewstep import sample
from fewstep.arguments import NUMBERS, watched
from fewstep.output.files import write_text

sys.path.insert(0, str(kept.ROOT / "examples"))

from darcy import fields, saved  # noqa: E402
from recover_pde import NOISE, errors, guided, linear, loop, places, searched, start  # noqa: E402

PROBLEMS = {"u": "u known", "both": "both known"}
RULES = {"fun_dps": "`fun_dps` as published", "diffusion_pde": "DiffusionPDE's rule"}
NFE, LONG, FEW, MANY, DRAWS = 20, 100, 4, 12, 8
Row = tuple[str, str, Callable[[], Tensor]]


def methods(prior: Any, truth: Tensor, other: Tensor, known: Tensor, loops: dict[str, list[int]]) -> Iterator[Row]:
    """(row, calls + gradients, what it recovers)."""
    denoiser, y = prior.denoiser(NOISE["field"]), truth[:, known]

    def form(n: int, k: int, equation: bool = False, seed: int = 0) -> Tensor:
        return guided(denoiser, y, known, n, k, equation, seed)

    def mean(k: int) -> Tensor:
        return torch.stack([form(NFE, k, False, seed) for seed in range(DRAWS)]).mean(0)

    def published(steps: int, rule: str) -> Tensor:
        return loop(denoiser, y, known, steps, rule, searched(denoiser, other, known, steps, rule))

    first = start(denoiser, range(len(y)), known.shape)
    yield "prior alone", "20", lambda: sample(denoiser, first, "dpmpp_2m", 20)
    yield "best linear estimate, no network", "0", lambda: linear(prior, y, known)
    for n, k in ((NFE, FEW), (NFE, MANY), (LONG, MANY)):
        yield f"`diffusion_pde`, {k} iterations", f"{n} + {n * k}", lambda n=n, k=k: form(n, k)
    yield f"with the equation, {MANY} iterations", f"{NFE} + {NFE * MANY}", lambda: form(NFE, MANY, True)
    for k in (FEW, MANY):
        yield f"mean of {DRAWS} samples, {k} iterations", f"{DRAWS * NFE} + {DRAWS * NFE * k}", lambda k=k: mean(k)
    for rule, name in RULES.items():
        for n in loops[rule]:
            yield name, f"{2 * n - 1} + {2 * (n - 1)}", lambda n=n, rule=rule: published(n, rule)


@torch.no_grad()
def measured(path: Path, weights: Path, count: int, loops: dict[str, list[int]]) -> dict[str, dict[str, Any]]:
    """problem -> row with its calls -> errors of a and u; kept in the file as they come."""
    found: dict[str, dict[str, Any]] = json.loads(path.read_text()) if path.exists() else {}
    prior = saved(weights)
    side = prior.mean.shape[-1]
    truth, other = fields(count, side, 0), fields(4, side, 10**5)
    for problem, known in places(side, 0.03, 0).items():
        rows = list(methods(prior, truth, other, known, loops))
        for name, spent, run in watched(rows, problem, lambda row: row[0]):
            own = found.setdefault(problem, {})
            if f"{name} | {spent}" not in own:
                own[f"{name} | {spent}"] = errors(run(), truth)[:2]
                write_text(path, json.dumps(found, indent=1))
    return found


@click.command()
@click.option("--weights", type=click.Path(exists=True, dir_okay=False, path_type=Path), default="darcy.safetensors",
              show_default=True, help="Of the prior, as the example leaves them.")  # fmt: skip
@click.option("--fields", "count", default=16, show_default=True, help="Fields to recover.")
@click.option("--loops", type=NUMBERS, default="50,250,1000", show_default=True, help="Steps of `fun_dps`.")
@click.option("--rule-loops", type=NUMBERS, default="250,1000", show_default=True, help="Of DiffusionPDE's rule.")
@kept.keep
def main(weights: Path, count: int, loops: tuple[int, ...], rule_loops: tuple[int, ...], keep: bool) -> None:
    """Print the table."""
    torch.set_num_threads(1)
    with kept.resumable() as folder:
        steps = {"fun_dps": list(loops), "diffusion_pde": list(rule_loops)}
        found = measured(folder / "darcy.json", weights, count, steps)
        columns = []
        for problem in PROBLEMS:
            values = list(found[problem].values())
            texts = kept.least_bold([[f"{e:.3f}" for e in row] for row in values], values)
            columns.append([" / ".join(row) for row in texts])
        rows = [(*name.split(" | "), *cells) for name, *cells in zip(found["u"], *columns, strict=True)]
        kept.show("darcy", ("method", "network calls + gradients", *PROBLEMS.values()), rows, keep)


if __name__ == "__main__":
    main()
