"""Posterior guidance on a linear problem with Gaussian data: how far mean and covariance are from the posterior's.

    python tests/benchmarks/inverse.py

8 dimensions with variances 2 to 0.05, 3 measured numbers with noise of deviation 0.1, EDM levels 30 to 0.005, 8,000 samples,
whose own error is about 0.01 of the mean and 0.025 of the covariance. A row is a method; columns are numbers of steps. At the
end the published forms.
"""

import sys
from pathlib import Path

import click
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
PUBLISHED = [
    ("pigdm", {}, "ddim", 100, {}),
    ("dps", {"scale": 0.3}, "euler_ancestral", 400, {}),
    ("dps", {"scale": 1.0}, "euler_ancestral", 400, {}),
    ("dds", {"gamma": 10.0}, "ddim", 50, {"eta": 0.85}),
    ("mpgd", {"scale": 0.1}, "ddim", 50, {}),
]


@click.command()
@click.option("--number", default=8000, show_default=True, help="Samples.")
@click.option("--nfe", default="20,100,200", show_default=True)
@click.option("--solver", default="dpmpp_2m_sde", show_default=True)
def main(number: int, nfe: str, solver: str) -> None:
    """Errors of mean and covariance, relative."""
    torch.set_num_threads(1)
    problem, steps = Linear(), [int(n) for n in nfe.split(",")]

    def guided(name: str, **options: object) -> object:
        return getattr(guidance, name)(problem.denoiser(), problem.y, problem.operator, problem.noise, **options)

    click.echo(f"{solver:<18}" + "".join(f"{f'mean, cov at {n}':>18}" for n in steps))
    for name, options in METHODS.items():
        cells = [problem.errors(guided(name, **options), solver, n, number) for n in steps]
        click.echo(f"{name:<18}" + "".join(f"{mean:>11.3f} {covariance:.3f}" for mean, covariance in cells))
    for name, options, own, n, more in PUBLISHED:
        mean, covariance = problem.errors(guided(name, published=True, **options), own, n, number, **more)
        said = " ".join(f"{k} {v}" for k, v in options.items())
        click.echo(f"{f'{name}, published {said}':<32} {own} {n}: {mean:.3f} {covariance:.3f}")


if __name__ == "__main__":
    main()
