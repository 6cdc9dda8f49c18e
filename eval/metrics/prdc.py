"""Precision, recall, density and coverage: how the samples of each set lie in the balls around those of the other.

    ball of r_i: radius R_i = distance to the k-th nearest other sample of the same set
    precision = share of generated samples in the ball of some real one        |g_j - r_i| <= R_i
    recall    = share of real samples in the ball of some generated one        |r_i - g_j| <= R_j
    density   = mean number of real balls a generated sample is in, over k     |g_j - r_i| <  R_i
    coverage  = share of real balls with a generated sample in them            |g_j - r_i| <  R_i

Whether a sample on the sphere itself counts follows each measure's own authors. Distances are compared squared, from float64
products of rows shifted by the real mean; equal up to their rounding is equal, so results do not depend on the blocks.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import Any

import torch
from torch import Tensor

from fewstep.checks import whole
from fewstep.eval.gaussian.features import Features
from fewstep.eval.metrics.blocks import BLOCK, Blocks, both, half_tiles, tiles
from fewstep.eval.metrics.groups import group_means
from fewstep.eval.metrics.registry import metric
from fewstep.eval.report.result import Result, normal_interval

_SLACK = 1e-13  # of |x|^2 + |y|^2: some hundred roundings, what |x|^2 + |y|^2 - 2 x.y is off by
_GIVEN_REAL = "over generated images, the real ones as they are"


@metric(
    "prdc",
    reference="Improved Precision and Recall Metric for Assessing Generative Models, Kynkaanniemi et al., 2019, "
    "arXiv 1904.06991; Reliable Fidelity and Diversity Metrics for Generative Models, Naeem et al., 2020, arXiv 2002.09797",
    rows=("main",),
    fewest=lambda options: int(options["k"]) + 1,
    remedy="a smaller k",
    higher_is_better=True,
)
def prdc(real: Features, generated: Features, *, k: int = 5, block: int = BLOCK, device: Any = None) -> list[Result]:
    """Four results: "precision", "recall", "density", "coverage".

    All depend on k and on the numbers of images: compare at equal ones. Errors are of the generated side's sampling with the
    real images as they are. Precision is a share of independent trials (Wilson's interval) and density a mean. Coverage's is
    the jackknife over generated images, which is too large rather than too small (Efron and Stein). For recall no such
    estimate exists: its interval is Wilson's over the real images, with the generated ones as they are.

    Args:
        k: which neighbour gives a ball its radius: 5 as in density and coverage's paper, 3 in that of precision and recall.
        block: rows at once; memory is a few block^2 float64.
        device: where it is computed (float64).

    Raises:
        ValueError: k or fewer images, sets of different dimension, features that are not finite.

    Reference: Improved Precision and Recall Metric for Assessing Generative Models, Kynkaanniemi, Karras, Laine, Lehtinen,
    Aila, 2019, arXiv 1904.06991. Reliable Fidelity and Diversity Metrics for Generative Models, Naeem, Oh, Uh, Choi, Yoo,
    2020, arXiv 2002.09797.
    """
    whole("prdc.k", k, 1)
    whole("prdc.block", block, 1)
    x_rows, y_rows = both(real, generated, "main", "prdc", k + 1)
    shift = x_rows.mean(axis=0, dtype="float64")
    x, y = Blocks(x_rows, block, device, shift), Blocks(y_rows, block, device, shift)
    hits = neighbours(x, y, radii(x, k), radii(y, k))
    details = {"k": k}
    return [
        _share("precision", hits.generated_inside, f"Wilson, {_GIVEN_REAL}", details),
        _recall(hits.real_inside, details),
        _mean("density", hits.balls / k, details),
        _coverage(hits, details),
    ]


@dataclass
class Hits:
    """Who lies in whose ball.

    Attributes:
        generated_inside: (M,) 1.0 for a generated sample in some real ball.
        real_inside: (N,) 1.0 for a real sample in some generated ball.
        balls: (M,) number of open real balls a generated sample is in.
        occupants: (N,) number of generated samples in the open ball of a real one.
        last: (N,) sum of the indices of those samples: the index itself where there is one.
    """

    generated_inside: Tensor
    real_inside: Tensor
    balls: Tensor
    occupants: Tensor
    last: Tensor


def radii(x: Blocks, k: int) -> Tensor:
    """(n,) squared distance of each row to the k-th nearest other one."""
    nearest = x.filled(torch.inf, k)
    for i, j, (squared, _) in half_tiles(x, _distances):
        if i == j:
            squared.fill_diagonal_(torch.inf)
        else:
            nearest[j] = _smallest(nearest[j], squared.T, k)
        nearest[i] = _smallest(nearest[i], squared, k)
    return nearest[:, -1]


def neighbours(x: Blocks, y: Blocks, x_radii: Tensor, y_radii: Tensor) -> Hits:
    """Who of the generated y lies in a ball of the real x, and the other way round."""
    hits = Hits(y.filled(0), x.filled(0), y.filled(0), x.filled(0), x.filled(0))
    for i, j, (squared, slack) in tiles(x, y, _distances):
        beyond_x, beyond_y = squared - x_radii[i, None], squared - y_radii[None, j]
        hits.generated_inside[j] = torch.maximum(hits.generated_inside[j], (beyond_x <= slack).any(0).double())
        hits.real_inside[i] = torch.maximum(hits.real_inside[i], (beyond_y <= slack).any(1).double())
        within = (beyond_x < -slack).double()
        hits.balls[j] += within.sum(0)
        hits.occupants[i] += within.sum(1)
        hits.last[i] += within @ torch.arange(j.start, j.stop, dtype=torch.float64, device=within.device)
    return hits


def _distances(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Squared distances (n, m), and how far rounding can put two equal ones apart."""
    size = a.square().sum(1)[:, None] + b.square().sum(1)[None]
    return (size - 2 * (a @ b.T)).clamp_min(0), _SLACK * size


def _smallest(known: Tensor, squared: Tensor, k: int) -> Tensor:
    return torch.cat([known, squared], 1).topk(k, dim=1, largest=False).values


def _share(name: str, inside: Tensor, method: str, details: dict[str, Any]) -> Result:
    p, n = float(inside.mean()), len(inside)
    return Result(name, p, sqrt(p * (1 - p) / n), wilson(p, n), method, details=details, groups=group_means(inside))


def _recall(inside: Tensor, details: dict[str, Any]) -> Result:
    p = float(inside.mean())
    method = "Wilson, over real images, the generated ones as they are"
    return Result("recall", p, None, wilson(p, len(inside)), method, details=details)


def _mean(name: str, values: Tensor, details: dict[str, Any]) -> Result:
    value, error = float(values.mean()), float(values.std()) / sqrt(len(values))
    interval = normal_interval(value, error)
    return Result(name, value, error, interval, f"mean {_GIVEN_REAL}", details=details, groups=group_means(values))


def _coverage(hits: Hits, details: dict[str, Any]) -> Result:
    """Without sample j the coverage falls by the share of balls that hold j and no other."""
    n, m = len(hits.occupants), len(hits.balls)
    value = float((hits.occupants > 0).double().mean())
    alone = torch.bincount(hits.last[hits.occupants == 1].long(), minlength=m).double() / n
    error = sqrt((m - 1) / m * float((alone - alone.mean()).square().sum()))
    low, high = normal_interval(value, error)
    method = f"jackknife {_GIVEN_REAL}; too large rather than too small"
    return Result("coverage", value, error, (max(low, 0.0), min(high, 1.0)), method, details=details)


def wilson(p: float, n: int, z: float = 1.959963984540054) -> tuple[float, float]:
    """Interval of a share p of n independent trials; it stays within [0, 1] and is no point at 0 or 1.

    (p + z^2/2n -+ z sqrt(p (1-p)/n + z^2/4n^2)) / (1 + z^2/n)

    Reference: Probable inference, the law of succession, and statistical inference, E. B. Wilson, 1927.
    """
    middle, half = p + z * z / (2 * n), z * sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low, high = (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)
    return max(min(low, p), 0.0), max(high, p)  # p is inside, at 0 and 1 by less than a rounding
