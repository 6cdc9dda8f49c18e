"""How sure a difference of two solvers is that were measured on the same seeds.

Group i of one solver's samples and group i of another's started from the same noise. With g_i what group i adds to a value
(Result.groups), the difference of two solvers a and b is

    (value_a - value_b) -+ t sd(g_a - g_b) / sqrt(G),        t: 97.5 % quantile of Student's t with G - 1 degrees,

which is far narrower than either interval alone: most of what varies, varies together. Groups are single images for the
errors to a reference, tenths of the set for metrics of sets (of the kept part of it for Frechet distances). The ratio of two
means has the interval of all r that these same differences allow (Fieller),

    |mean(a) - r mean(b)| <= t sd(a_i - r b_i) / sqrt(G),

which leaves 1 out exactly where the difference leaves 0 out.

Among K solvers the quantile is that of 1 - 0.025 / (K - 1) (Bonferroni): then it is 95 % sure that none of the K - 1 others is
taken for worse than the best one by chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from math import sqrt

import numpy as np

from fewstep.eval.report.result import PAIRED, Result
from fewstep.lazy import optional

with optional("evaluation"):
    from scipy.special import stdtrit


def _quantile(among: int) -> float:
    return 1 - 0.025 / max(1, among - 1)


def mean_interval(values: Sequence[float] | np.ndarray, among: int = 2) -> tuple[float, float, tuple[float, float]]:
    """(mean, its standard error, 95 % interval by Student's t) of at least two independent values; among: K above."""
    values = np.asarray(values, np.float64)
    mean, error = float(values.mean()), float(values.std(ddof=1)) / sqrt(len(values))
    reach = float(stdtrit(len(values) - 1, _quantile(among))) * error
    return mean, error, (mean - reach, mean + reach)


@dataclass(frozen=True)
class Difference:
    """How much larger a metric is for solver `first` than for `second` at one nfe: value, standard error, 95 % interval."""

    metric: str
    nfe: int
    first: str
    second: str
    value: float
    error: float
    interval: tuple[float, float]
    _: KW_ONLY
    higher_is_better: bool = False

    @property
    def sure(self) -> bool:
        """Whether the interval leaves zero out."""
        return self.interval[0] > 0 or self.interval[1] < 0

    @property
    def better(self) -> str | None:
        """The better solver, or None where they cannot be told apart."""
        if not self.sure:
            return None
        return self.first if (self.value > 0) == self.higher_is_better else self.second


def shared(a: Result, b: Result) -> tuple[np.ndarray, np.ndarray]:
    """Groups of both; of errors of single images those of the first seeds, which both have.

    Raises:
        ValueError: results without groups, or of other metrics with different numbers of them.
    """
    some = min(len(a.groups), len(b.groups))
    if some < 2 or (a.metric not in PAIRED and len(a.groups) != len(b.groups)):
        raise ValueError(
            f"a paired difference of {a.metric} needs the same two or more groups of samples on both sides; got "
            f"{len(a.groups)} and {len(b.groups)}."
        )
    return np.asarray(a.groups[:some]), np.asarray(b.groups[:some])


def difference(a: Result, b: Result, among: int = 2) -> tuple[float, float, tuple[float, float]]:
    """(a - b, its standard error, 95 % interval) of one metric measured on the same seeds; ValueError as in `shared`."""
    mine, other = shared(a, b)
    middle, error, (low, _) = mean_interval(mine - other, among)
    value = middle if len(a.groups) != len(b.groups) else a.value - b.value
    reach = middle - low
    return value, error, (value - reach, value + reach)


def ratio(a: Result, b: Result, among: int = 2) -> tuple[float, tuple[float, float]] | None:
    """(a / b, its 95 % interval) of errors of the same images; None where b may as well be 0. ValueError as in `shared`.

    (B^2 - q v_b) r^2 - 2 (A B - q c) r + (A^2 - q v_a) <= 0,     q = t^2,  v_a, v_b, c: (co)variances of the means A, B
    """
    mine, other = shared(a, b)
    A, B = float(mine.mean()), float(other.mean())
    (va, c), (_, vb) = np.cov(mine, other) / len(mine)
    q = float(stdtrit(len(mine) - 1, _quantile(among))) ** 2
    square, half, rest = B * B - q * vb, A * B - q * c, A * A - q * va
    if square <= 0:
        return None
    reach = sqrt(max(0.0, half * half - square * rest))
    return A / B, (max(0.0, (half - reach) / square), (half + reach) / square)
