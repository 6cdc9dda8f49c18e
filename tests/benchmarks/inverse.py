"""Posterior guidance on a linear problem with Gaussian data: how far mean and covariance are from the posterior's.

    python tests/benchmarks/inverse.py

8 dimensions with variances 2 to 0.05, 3 measured numbers with noise of deviation 0.1, EDM levels 30 to 0.005, 8,000 samples,
whose own error is about 0.01 of the mean and 0.025 of the covariance. A row is a method; columns are numbers of steps, the
last one the published form where it differs.
"""

import sys
from pathlib import Path

import click
import kept
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "helpers"))
from restoring import Linear  # noqa: E402

from fewstep.samplers import guidance  # noqa: E402

METHODS = {
    "exact_covariance": {"iterations": 3},
    "pigdm": {},
    "dps": {},
    "lgd": {},
    "dds": {},
    "mpgd": {},
    "dreamguider": {},
}
PUBLISHED = {  # options, solver, evaluations, its options, what is said of it
    "pigdm": ({}, "ddim", 100, {}, "`ddim`, 100"),
    "dps": ({"scale": 0.3}, "euler_ancestral", 400, {}, "scale 0.3, ancestral, 400"),
    "dreamguider": ({}, "ddpm", 100, {}, "`ddpm`, 100"),
    "dds": ({"gamma": 10.0}, "ddim", 50, {"eta": 0.85}, "gamma 10, 50"),
    "mpgd": ({"scale": 0.1}, "ddim", 50, {}, "scale 0.1, 50; diverges at 0.3"),
}


@click.command()
@click.option("--number", default=8000, show_default=True, help="Samples.")
@click.option("--nfe", default="20,100,200", show_default=True)
@click.option("--solver", default="dpmpp_2m_sde", show_default=True)
@kept.keep
def main(number: int, nfe: str, solver: str, keep: bool) -> None:
    """Errors of mean and covariance, relative."""
    torch.set_num_threads(1)
    problem, steps = Linear(), [int(n) for n in nfe.split(",")]

    def guided(name: str, **options: object) -> object:
        return getattr(guidance, name)(problem.denoiser(), problem.y, problem.operator, problem.noise, **options)

    rows = []
    for name, options in METHODS.items():
        cells = ["{:.3f} / {:.3f}".format(*problem.errors(guided(name, **options), solver, n, number)) for n in steps]
        published = ""
        if name in PUBLISHED:
            own, of, n, more, said = PUBLISHED[name]
            errors = problem.errors(guided(name, published=True, **own), of, n, number, **more)
            published = "{:.3f} / {:.3f} ({})".format(*errors, said)
        rows.append([f"`{name}`", *cells, published])
    for row in rows:
        row[1:-1] = [f"**{cell}**" if _exact(cell, number) else cell for cell in row[1:-1]]
    columns = ("method", *(f"{n}{' evaluations' * (n == steps[0])}" for n in steps), "as published")
    kept.show("posterior", columns, rows, keep)


def _exact(cell: str, number: int) -> bool:
    """Whether both errors are no more than what the number of samples allows, 0.010 and 0.025 at 8,000."""
    mean, covariance = map(float, cell.split(" / "))
    rough = (8000 / number) ** 0.5
    return mean <= 0.0105 * rough and covariance <= 0.025 * rough


if __name__ == "__main__":
    main()
