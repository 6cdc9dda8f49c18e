"""How sure a difference of two solvers is that were measured on the same seeds.

Group i of one solver's samples and group i of another's started from the same noise. With g_i what group i adds to a value
(Result.groups), the difference of two solvers a and b is

    (value_a - value_b) -+ t sd(g_a - g_b) / sqrt(G),        t: 97.5 % quantile of Student's t with G - 1 degrees,

which is far narrower than either interval alone: most of what varies, varies together. Groups are single images for the
errors to a reference, tenths of the set for metrics of sets (of the kept part of it for Frechet distances).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from math import sqrt

import numpy as np

from fewstep.eval.report.result import Result
from fewstep.lazy import optional

with optional("evaluation"):
    from scipy.special import stdtrit


def mean_interval(values: Sequence[float] | np.ndarray) -> tuple[float, float, tuple[float, float]]:
    """(mean, its standard error, 95 % interval by Student's t) of at least two independent values."""
    values = np.asarray(values, np.float64)
    mean, error = float(values.mean()), float(values.std(ddof=1)) / sqrt(len(values))
    reach = float(stdtrit(len(values) - 1, 0.975)) * error
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


def difference(a: Result, b: Result) -> tuple[float, float, tuple[float, float]]:
    """(a - b, its standard error, 95 % interval) of one metric measured on the same seeds.

    Raises:
        ValueError: results without groups, or with different numbers of them.
    """
    if len(a.groups) != len(b.groups) or len(a.groups) < 2:
        raise ValueError(
            f"a paired difference of {a.metric} needs the same two or more groups of samples on both sides; got "
            f"{len(a.groups)} and {len(b.groups)}."
        )
    middle, error, (low, _) = mean_interval(np.subtract(a.groups, b.groups))
    value, reach = a.value - b.value, middle - low
    return value, error, (value - reach, value + reach)
