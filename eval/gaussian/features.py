"""What one pass over a set of images leaves behind, and the table of metrics that are computed from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from fewstep.eval.gaussian.statistics import FeatureStatistics
    from fewstep.eval.report.result import Result


@dataclass(frozen=True)
class Meta:
    """Under what features were made. Empty strings are not recorded (a file of somebody else's)."""

    extractor: str = ""
    protocol: str = ""
    hash: str = ""
    precision: str = "fp32"
    source: str = ""  # what the images are, in words
    lossy: bool | None = None  # JPEG and the like; None: not known
    skipped: int = 0  # unreadable images passed over
    version: str = ""  # of the library that made them


@dataclass
class Features:
    """Features of one set of images, for each part ("main", "logits", "spatial") what its metrics asked for.

    Attributes:
        n: number of images; None where a file does not say.
        statistics: part -> FeatureStatistics (n, mean, covariance, and a sample).
        rows: part -> float32 (n, d) in the order of the samples, possibly memory-mapped.
        meta: under what they were made.
        layers: part -> name of the extractor's layer.
    """

    n: int | None
    statistics: dict[str, FeatureStatistics] = field(default_factory=dict)
    rows: dict[str, np.ndarray] = field(default_factory=dict)
    meta: Meta = field(default_factory=Meta)
    layers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Metric:
    """A registered metric: `compute(real, generated, **options) -> [Result]`, and what it needs of each set.

    Attributes:
        statistics: parts of which mean and covariance are needed, of both sets.
        rows: parts of which every feature vector is needed, of the generated set and, where `real_rows`, of the real one.
        real: whether there is a real set at all (the inception score has none).
        higher_is_better: direction.
        options: names and defaults of what `compute` takes.
        fewest: number of images a set needs, given the options. remedy: what to do where it has fewer.
        reference: the paper.
    """

    name: str
    compute: Callable[..., list[Result]]
    statistics: tuple[str, ...] = ()
    rows: tuple[str, ...] = ()
    real: bool = True
    real_rows: bool = True
    higher_is_better: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    fewest: Callable[[Mapping[str, Any]], int] = lambda options: 2
    remedy: str = "another metric"
    reference: str = ""


METRICS: dict[str, Metric] = {}


def metric(name: str, reference: str = "", **facts: Any) -> Callable[[Callable[..., list[Result]]], Callable]:
    """Register a function `(real, generated, *, option=default, ...) -> [Result]` under a name."""

    def register(compute: Callable[..., list[Result]]) -> Callable:
        options = dict(compute.__kwdefaults__ or {})
        METRICS[name] = Metric(name, compute, options=options, reference=reference, **facts)
        return compute

    return register
