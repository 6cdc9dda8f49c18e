"""The Frechet inception distance, sFID, and Frechet distances of any extractor, with error bars.

To first order every sample x of the generated set adds to FD^2 its influence

    phi(x) = g_mu . (x - mu) + (x - mu)^T G (x - mu) n / (n - 1) - tr(G C),   g_mu = dFD^2 / dmu,   G = dFD^2 / dC,

whose mean over all n samples is zero: the jackknife, for one eigen-decomposition instead of n distances. The standard error
sd(phi) / sqrt(n) needs the spread alone, which k kept samples tell to some 1 / sqrt(2 k): 2 % of it.
Two solvers on the same seeds have kept the same ones: their difference is measured by paired ones.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import sqrt

import torch
from torch import Tensor

from fewstep.eval.gaussian.covariance import Gaussian
from fewstep.eval.gaussian.features import Features
from fewstep.eval.gaussian.frechet import frechet, gradient_of_distance
from fewstep.eval.metrics.groups import GROUPS, group_means
from fewstep.eval.metrics.registry import metric
from fewstep.eval.report.result import Result, normal_interval
from fewstep.lazy import optional

with optional("evaluation"):
    from scipy.special import stdtrit

HEUSEL = "GANs Trained by a Two Time-Scale Update Rule, Heusel et al., 2017, arXiv 1706.08500"
NASH = "Generating Images with Sparse Representations, Nash et al., 2021, arXiv 2103.03841"
BLOCK = 256  # rows at once


def influences(real: Gaussian, generated: Gaussian, n: int, blocks: Iterable[Tensor]) -> Tensor:
    """phi (k,) of the rows in `blocks` (B, d), some or all of the n that `generated` is of."""
    g_mean, g_cov = gradient_of_distance(real, generated)
    level, found = (g_cov * generated.cov).sum(), []
    for block in blocks:
        x = block.to(g_cov) - generated.mean
        found.append(x @ g_mean + ((x @ g_cov) * x).sum(1) * (n / (n - 1)) - level)
    return torch.cat(found)


def distance_of(name: str, part: str, real: Features, generated: Features, interval: bool) -> Result:
    """The distance between two sides' statistics of a part, with its error where the generated side kept a sample."""
    side = generated.statistics[part]
    a, b = real.statistics[part].gaussian(), side.gaussian()
    b = b.to(a.mean.device)
    distance = frechet(a, b)
    plain = Result(name, distance.value, details={"bound": distance.bound, "of_means": distance.of_means})
    kept, n = torch.from_numpy(side.sketch.ordered()), side.n
    if not interval or side.sketch.seen != n or len(kept) < 2 * GROUPS:
        return plain
    phi = influences(a, b, n, kept.split(BLOCK))
    error = float(phi.std()) / sqrt(n)
    low, high = normal_interval(distance.value, error, float(stdtrit(len(kept) - 1, 0.975)))  # Student's t
    return plain.under(
        error=error,
        interval=(max(low, 0.0), high),
        method=(
            f"influences of {len(kept)} of the generated images, first order; covers what is expected of {n} images, which "
            "more would lower: fid_debiased is of infinitely many"
        ),
        # Of k kept samples the groups' means vary like 1 / k, of all n like 1 / n.
        groups=group_means(distance.value + sqrt(len(kept) / n) * (phi - phi.mean())),
    )


@metric("fid", reference=HEUSEL, statistics=("main",))
def fid(real: Features, generated: Features, *, interval: bool = True) -> list[Result]:
    """Squared Frechet distance of the main layer; with the inception extractor it is FID, with others FD-<extractor>.

    FD^2 = |mu_1 - mu_2|^2 + tr C_1 + tr C_2 - 2 tr (C_1 C_2)^(1/2), lower is better; biased upwards by about k / N.

    interval: also its standard error, of the sampling of the generated images (the real side counts as fixed).
    """
    return [distance_of("fid", "main", real, generated, interval)]


@metric("sfid", reference=NASH, statistics=("spatial",))
def sfid(real: Features, generated: Features, *, interval: bool = True) -> list[Result]:
    """The same on the first 7 channels of Inception's mixed_6/conv with their places: 2023 dimensions."""
    return [distance_of("sfid", "spatial", real, generated, interval)]
