"""Frechet distance without the bias of few images, and with an interval that covers the distance of infinitely many.

    E F_N = F + k / N + O(1 / N^2),    k / N = tr C / N + 1/2 E D^2 F [C_N - C, C_N - C],    C_N the covariance of N samples

With L L^T the fixed side's covariance, U diag(lam) U^T = L^T C L, r_i = lam_i^(1/2) and y = U^T L^T (x - mu), the second
derivative of -2 tr (L^T C L)^(1/2) gives, from fourth moments of the samples themselves (no normal law is assumed),

    B_N = tr C / N + 1 / (2 N) [ E sum_ij (y_i^2 / r_i) (y_j^2 / r_j) / (r_i + r_j) - sum_i r_i / 2 ].

S_N = F_N - B_N is off by O(1 / N^2), and the mean of S over the two halves of a random split four times as much, so that

    value = (4 S_N - S_N/2) / 3

is off by O(1 / N^3). The influences found from the samples vary too much by the same rule, twice the part of second order:

    error^2 = 11/8 e_N^2 - 3/16 e_N/2^2 + (5/4 s^2 / B_N)^2,    e^2 = Var(influence) / N,    s = S_N - value,

between 3/2 and 1/4, which leave the part of second order once, and 5/4 and 1/8, which leave it one and a half times: the
halves' own noise is in the value too. The last term is what the bias has left if its terms go on as its first two do, and a
quarter more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import sqrt
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewstep.checks import unknown, whole
from fewstep.eval.gaussian.covariance import EPS, Gaussian
from fewstep.eval.gaussian.features import Features
from fewstep.eval.gaussian.frechet import congruence
from fewstep.eval.gaussian.statistics import FeatureStatistics
from fewstep.eval.metrics.blocks import Blocks, rows, same_dimension
from fewstep.eval.metrics.groups import group_means
from fewstep.eval.metrics.registry import metric
from fewstep.eval.report.result import Result, normal_interval

SIDES = ("generated", "both")
BLOCK = 512  # rows at once
_PAPER = (
    "Effectively Unbiased FID and Inception Score and where to find them, Chong and Forsyth, 2020, arXiv 1911.07023; "
    "the expansion is ours"
)


@dataclass(frozen=True)
class Expansion:
    """F_N of some samples, B_N, and the variance of the influences over N."""

    distance: float
    bias: float
    squared: float

    def __add__(self, other: Expansion) -> Expansion:
        """Of both sides of one distance."""
        return Expansion(self.distance, self.bias + other.bias, self.squared + other.squared)

    @property
    def value(self) -> float:
        return self.distance - self.bias


def _of_both(options: Mapping[str, Any]) -> bool:
    return options["sides"] == "both"


@metric(
    "fid_debiased",
    reference=_PAPER,
    rows=("main",),
    statistics=("main",),
    real_rows=_of_both,
    fewest=lambda options: 20,
    remedy="kid_full",
)
def fid_debiased(
    real: Features,
    generated: Features,
    *,
    sides: str = "generated",
    splits: int = 2,
    seed: int = 2020,
    device: Any = None,
) -> list[Result]:
    """Squared Frechet distance at infinitely many images; its 95 % interval is of that distance, not of F_N.

    `details`: "full" (F_N of all N images), "bias" (full - value), "second_order" (S_N). It may be negative where the sets are
    nearly of one distribution. Cost: two eigen-decompositions a split, and one.

    Args:
        sides: "generated", the real images as they are, or "both", the real ones are a sample too: the distance between
            the distributions that both sets are from.
        splits: random splits into halves, of which the mean is taken.
        seed: of the splits.
        device: where it is computed (float64).

    Raises:
        ValueError: no more than twice as many images as dimensions, sets of different dimension, features that are not
            finite, another side than these.

    Reference: Effectively Unbiased FID and Inception Score and where to find them, Chong and Forsyth, 2020, arXiv 1911.07023.
    """
    if sides not in SIDES:
        raise unknown("`sides` of fid_debiased", sides, SIDES)
    whole("fid_debiased.splits", splits, 1)
    x = _enough(generated, "generated", device)
    z = _enough(real, "real", device) if sides == "both" else None
    dim = x.array.shape[1]
    fixed = real.statistics["main"].gaussian().to(x.place)
    same_dimension("fid_debiased", fixed.dim, dim)
    random = np.random.RandomState(seed)
    influence: list[Tensor] = []
    whole_sets = _expanded(fixed, x, None, z, None, influence.append)
    halves = [
        _expanded(fixed, x, half, z, other)
        for _ in range(splits)
        for half, other in zip(_halves(random, x), _halves(random, z), strict=True)
    ]
    return [_extrapolated(whole_sets, halves, torch.cat(influence), sides, splits, seed)]


def _enough(side: Features, name: str, device: Any) -> Blocks:
    """Rows of which half span all dimensions."""
    found = rows(side, "main", "fid_debiased", 20)
    if len(found) <= 2 * found.shape[1]:
        raise ValueError(
            f"fid_debiased needs more than {2 * found.shape[1]} images a set, twice the dimension of the features; the {name} "
            f"set has {len(found)}: give more, or take kid_full, which has no bias at any number."
        )
    return Blocks(found, BLOCK, device)


def _halves(random: np.random.RandomState, x: Blocks | None) -> list[np.ndarray | None]:
    return [None, None] if x is None else list(np.array_split(random.permutation(len(x)), 2))


def _expanded(
    fixed: Gaussian,
    x: Blocks,
    some: np.ndarray | None,
    z: Blocks | None,
    others: np.ndarray | None,
    watch: Callable[[Tensor], Any] = lambda _: None,
) -> Expansion:
    """Of some generated samples, and of some real ones where these are a sample too; watch: gets the influences."""
    mine, n = _gaussian(x, some)
    if z is None:
        return expansion(fixed, mine, n, _parts(x, some), watch)
    theirs, m = _gaussian(z, others)
    return expansion(theirs, mine, n, _parts(x, some), watch) + expansion(mine, theirs, m, _parts(z, others))


def _parts(x: Blocks, some: np.ndarray | None) -> Iterator[Tensor]:
    return (x[part] for part in x.parts()) if some is None else x.taken(some)


def _gaussian(x: Blocks, some: np.ndarray | None) -> tuple[Gaussian, int]:
    statistics = FeatureStatistics(x.array.shape[1])
    for part in _parts(x, some):
        statistics.update(part)
    return statistics.gaussian(), statistics.n


def expansion(
    fixed: Gaussian,
    moving: Gaussian,
    n: int,
    blocks: Iterable[Tensor],
    watch: Callable[[Tensor], Any] = lambda _: None,
) -> Expansion:
    """F_N, B_N and the variance of the influences over N; `blocks` (B, d) are the n samples that `moving` is of.

    The influence of x is 2 (mu - mu_fixed).(x - mu) + |x - mu|^2 - |H^T (x - mu)|^2, less its mean, H = L U diag(lam)^(-1/4).
    """
    lam, U = torch.linalg.eigh(congruence(fixed.factor, moving.cov))
    kept = lam > len(lam) * EPS * lam[-1:]
    roots = lam[kept].sqrt()
    P = (fixed.factor @ U[:, kept]) * roots**-0.5  # H, and y_i / r_i^(1/2) of a sample
    together = 1 / (roots[:, None] + roots)
    apart = moving.mean - fixed.mean
    influence, fourth = [], P.new_zeros(())
    for block in blocks:
        centred = block.to(P) - moving.mean
        squares = (centred @ P).square()
        fourth += ((squares @ together) * squares).sum()
        influence.append(2 * (centred @ apart) + centred.square().sum(1) - squares.sum(1))
    phi = torch.cat(influence)
    watch(phi - phi.mean())
    distance = apart.square().sum() + fixed.trace + moving.trace - 2 * roots.sum()
    bias = moving.trace / n + (fourth / n - roots.sum() / 2) / (2 * n)
    return Expansion(float(distance), float(bias), float(phi.var()) / n)


def _extrapolated(
    full: Expansion, halves: list[Expansion], influence: Tensor, sides: str, splits: int, seed: int
) -> Result:
    of_halves = float(np.mean([half.value for half in halves]))
    value = (4 * full.value - of_halves) / 3
    left = 1.25 * (full.value - value) ** 2 / full.bias if full.bias > 0 else 0.0
    sampling = 1.375 * full.squared - 0.1875 * float(np.mean([half.squared for half in halves]))
    error = sqrt(max(sampling, full.squared / 4) + left**2)
    whose = "the real images as they are" if sides == "generated" else "both sides' sampling"
    return Result(
        "fid_debiased",
        value,
        error,
        normal_interval(value, error),
        f"covers the distance of infinitely many images, {whose}: influences, and what the extrapolation may leave",
        details={
            "full": full.distance,
            "bias": full.distance - value,
            "second_order": full.value,
            "sides": sides,
            "splits": splits,
            "seed": seed,
        },
        groups=group_means(value + influence),
    )
