"""Feynman-Kac correctors against densities known by quadrature: `python tests/benchmarks/feynman_kac.py`.

A cell is the largest Kolmogorov-Smirnov distance of a coordinate of weighted particles, at one amount of noise tau, and in
brackets that of the same sampler without weights; then the least effective sample size, as a share, and the resamplings.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import click
import kept
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "helpers"))

from particles import OTHER, PLANE, TARGETS, distance, drawn, log_target, networks  # noqa: E402

from fewstep.samplers import guidance  # noqa: E402

TAUS = (1.0, 1.75)
SHOWN = {
    "q^2": TARGETS["q^2"],
    "q^0.5": TARGETS["q^0.5"],
    "q1 q2": TARGETS["q1 q2"],
    "q_c^2 / q_u, what guidance 2 is named after": TARGETS["q_c^2 q_u^-1"],
    "q1 q2, two dimensions": ([PLANE, OTHER], [1.0, 1.0]),
    "q_c^2 / q_u, two dimensions": ([PLANE, OTHER], [2.0, -1.0]),
}


def cells(mixtures: Sequence[object], exponents: Sequence[float], particles: int, nfe: int) -> list[str]:
    """Of a target; effective size and resamplings are those at the last tau."""
    shape, found = (particles, mixtures[0].means.shape[1]), []

    def exact(x: object) -> object:
        return log_target(mixtures, exponents, x)

    for tau in TAUS:
        target = guidance.fkc(networks(mixtures), exponents)
        weighted = distance(*drawn(target, shape, nfe=nfe, tau=tau), exact)
        share, times = float(target.effective.min()) / particles, int(target.resampled.sum())
        plain = distance(*drawn(target, shape, nfe=nfe, tau=tau, hook=False), exact)
        found.append(f"{weighted:.3f} ({plain:.3f})")
    return [*found, f"{share:.2f}", str(times)]


@click.command()
@click.option("--particles", default=40_000, show_default=True)
@click.option("--nfe", default=300, show_default=True)
@kept.keep
def main(particles: int, nfe: int, keep: bool) -> None:
    """Print the table."""
    torch.set_num_threads(1)
    rows = [(name, *cells(*target, particles, nfe)) for name, target in SHOWN.items()]
    kept.show("feynman_kac", ("target", *(f"tau {tau:g}" for tau in TAUS), "effective", "resampled"), rows, keep)


if __name__ == "__main__":
    main()
