"""Distances and errors of solvers on a model over evaluations: `python tests/benchmarks/fd_digits.py`.

    python tests/benchmarks/fd_digits.py --learned        # learned tables beside fixed solvers
    python tests/benchmarks/fd_digits.py --model colours --data cifar10.zip --classifier colour_classifier.safetensors

What `fewstep eval --model demo` does, as the tables of the pages. FD-digits is to the MNIST test set, FD-colours to the test
pictures of DATA over the features of examples/colour_classifier.py, the RMSE of 64 of the images to a long run; a cell has the
one and, in brackets, the other. Bold are the best of a column and what its paired 95 % interval cannot tell from it.
Interrupted, the same command goes on.
"""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import kept
import torch

from fewstep import eval as fe
from fewstep.arguments import NUMBERS, watched
from fewstep.eval.report.curve_points import Points

EXAMPLES = kept.ROOT / "examples"


@dataclass(frozen=True)
class Judged:
    """A model, the pictures that it should be like, whose features tell, and the artefacts learned for it."""

    model: str = "demo"
    real: Any = "mnist-test"
    extractor: Any = "digits"
    learned: tuple[str, ...] = ("demo",)


def judged(model: str, data: Path | None, classifier: Path | None, learned: tuple[str, ...]) -> Judged:
    """The embedded model by the embedded classifier; another one by pictures and a classifier that are given."""
    if model == "demo":
        return Judged()
    if data is None or classifier is None:
        raise click.UsageError(
            "--model needs --data, with real pictures, and --classifier: see examples/colour_classifier.py"
        )
    sys.path.insert(0, str(EXAMPLES))
    colour_classifier, colour_pictures = map(importlib.import_module, ("colour_classifier", "colour_pictures"))
    network = colour_classifier.load(classifier)
    features = fe.Function(Features(network), network.head.in_features, Path(model).name)
    return Judged(model, colour_pictures.load(data).images["test"], features, learned)


class Features(torch.nn.Module):
    """A classifier's features as its output."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.network.features(images)


@dataclass(frozen=True)
class Table:
    """What is drawn, and which of the two is in front; seeds: the first of the images, of the pairs."""

    solvers: tuple[str, ...]
    nfes: tuple[int, ...]
    number: int
    first: str
    seeds: tuple[int, int] = (0, 0)


FIXED = Table(("ddim", "dpmpp_2m", "unipc", "deis", "heun"), (4, 5, 6, 8, 10, 20), 1000, "fid")
LEARNED = Table(("demo", "dpmpp_2m", "res_multistep", "unipc"), tuple(range(3, 11)), 500, "rmse", (0, 5000))
KNOWN = {*FIXED.solvers, *LEARNED.solvers} - {"demo"}


def best(points: Points, metric: str, nfe: int) -> set[str]:
    """The best of a column, and what cannot be told from it."""
    first = points.best(metric, nfe)
    assert first is not None
    others = {s: points.difference(metric, nfe, s, first) for s in points.solvers if s != first}
    return {first, *(s for s, gap in others.items() if gap is not None and not gap.sure)}


def shown(figures: dict[str, Points], table: Table) -> list[list[str]]:
    """A row a solver."""
    second = "rmse" if table.first == "fid" else "fid"
    rows = []
    for solver in table.solvers:
        cells = []
        for n in table.nfes:
            a, b = (figures[metric].result(metric, solver, n) for metric in (table.first, second))
            assert a is not None and b is not None
            texts = [number(float(result), metric) for result, metric in ((a, table.first), (b, second))]
            marked = f"**{texts[0]}**" if solver in best(figures[table.first], table.first, n) else texts[0]
            cells.append(f"{marked} ({texts[1]})")
        rows.append([solver if solver in KNOWN else "learned", *cells])
    return rows


def named(model: str, learned: bool) -> str:
    """What the table is kept as."""
    if learned:
        return "learned_rmse_fd" if model == "demo" else f"learned_rmse_fd_{kept.short(model)}"
    return f"fd_{kept.short(model)}"


def number(value: float, metric: str) -> str:
    return f"{value:.3f}" if metric == "rmse" else f"{value:.2f}" if value < 10 else f"{value:.1f}"


def measured(judged: Judged, table: Table, pairs: int, folder: Path) -> dict[str, Points]:
    """Both curves."""
    how: dict[str, Any] = {"state": folder, "watch": watched}
    seen = {"evaluation": {"progress": False, "extractor": judged.extractor}}
    model, names = judged.model, table.solvers
    fd = fe.curve(model, names, table.nfes, judged.real, ("fid",), table.number, table.seeds[0], **seen, **how)
    errors = fe.curve(model, names, table.nfes, None, ("rmse",), pairs, table.seeds[1], pairs=pairs, **how)
    return {"fid": fd, "rmse": errors}


@click.command()
@click.option(
    "--model", default="demo", show_default=True, help="demo, or the folder of a pipeline of colour pictures."
)
@click.option("--data", type=click.Path(exists=True, path_type=Path), help="Real pictures, for another model.")
@click.option("--classifier", type=click.Path(exists=True, path_type=Path), help="Its judge.")
@click.option("--learned", is_flag=True, help="Learned tables beside fixed solvers.")
@click.option("--artefact", "artefacts", multiple=True, help="Files of tables, for another model.")
@click.option("--nfe", "nfes", type=NUMBERS, help="Evaluations  [default: those of the pages]")
@click.option("-n", "--number", type=int, help="Images a point  [default: as many as in the pages]")
@click.option("--pairs", default=64, show_default=True, help="Images of the RMSE.")
@kept.keep
def main(
    model: str, data: Path | None, classifier: Path | None, learned: bool, artefacts: tuple[str, ...],
    nfes: tuple[int, ...] | None, number: int | None, pairs: int, keep: bool,
) -> None:  # fmt: skip
    """Print the table."""
    torch.set_num_threads(1)
    whose = judged(model, data, classifier, artefacts)
    usual = replace(LEARNED, solvers=(*whose.learned, *LEARNED.solvers[1:])) if learned else FIXED
    table = Table(usual.solvers, nfes or usual.nfes, number or usual.number, usual.first, usual.seeds)
    with kept.resumable() as folder:
        rows = shown(measured(whose, table, pairs, folder), table)
        head = ("" if learned else "solver", *map(str, table.nfes))
        kept.show(named(model, learned), head, rows, keep)


if __name__ == "__main__":
    main()
