"""The metrics by name: what an entry is, and the decorator that registers one, from outside too, at any time.

@fewstep.eval.metric("gap", reference="ours", statistics=("main",))
def gap(real, generated, *, power=2.0):
    difference = real.statistics["main"].mean - generated.statistics["main"].mean
    return [Result("gap", float(difference.norm() ** power))]
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, TypeVar

from fewstep.eval.gaussian.features import PARTS
from fewstep.eval.report.result import PAIRED, Result
from fewstep.registry import Registry, plain

C = TypeVar("C", bound=Callable[..., Any])


@dataclass(frozen=True)
class Metric:
    """A registered metric: `compute(real, generated, **options) -> [Result]`, and what it needs of each set.

    Attributes:
        statistics: parts of which mean and covariance are needed, of both sets.
        rows: parts of which every feature vector is needed, of the generated set and, where `real_rows`, of the real one;
            a function of the options where it depends on them.
        real: whether there is a real set at all (the inception score has none).
        higher_is_better: direction.
        options: names and defaults of what `compute` takes.
        fewest: number of images a set needs, given the options. remedy: what to do where it has fewer.
        reference: the paper.
        clips: whether samples are clips of videos.
        paired: whether the score is of each generated image and the real one of the same number.
        labelled: whether the class of every image is needed, of both sides.
        score: of a mean over scores of single images, what makes the score from the options.
    """

    name: str
    compute: Callable[..., list[Result]]
    _: KW_ONLY
    statistics: tuple[str, ...] = ()
    rows: tuple[str, ...] = ()
    real: bool = True
    real_rows: bool | Callable[[Mapping[str, Any]], bool] = True
    higher_is_better: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    fewest: Callable[[Mapping[str, Any]], int] = lambda options: 2
    remedy: str = "another metric"
    reference: str = ""
    score: Callable[..., Any] | None = None
    paired: bool = False
    labelled: bool = False
    clips: bool = False

    def vectors_of_real(self, options: Mapping[str, Any]) -> bool:
        """Whether the real set's feature vectors are needed with these options."""
        wanted = self.real_rows
        return wanted({**self.options, **options}) if callable(wanted) else wanted


METRICS: Registry[Metric] = Registry(
    "metric",
    Metric,
    homes=(
        "fewstep.eval.metrics.fid_and_sfid",
        "fewstep.eval.metrics.kid",
        "fewstep.eval.metrics.inception_score",
        "fewstep.eval.metrics.prdc",
        "fewstep.eval.metrics.extrapolated",
        "fewstep.eval.metrics.cmmd",
        "fewstep.eval.metrics.debiased",
        "fewstep.eval.metrics.energy",
        "fewstep.eval.metrics.sliced",
        "fewstep.eval.metrics.fscore",
        "fewstep.eval.metrics.per_class",
        "fewstep.eval.metrics.fvd",
        "fewstep.eval.scores.clip_score",
        "fewstep.eval.scores.pairs_of_images",
    ),
    register="@fewstep.eval.metric(name)",
)


def metric(name: str, reference: str = "", **facts: Any) -> Callable[[C], C]:
    """Register a function `(real, generated, *, option=default, ...) -> [Result]` under a name; returned is the function.

    Args:
        name: a word; what `evaluate` and `fewstep eval --metrics` take.
        reference: the paper, or where it is from.
        facts: what it needs of the features and how it is read, as `Metric` has them: statistics, rows (parts: "main",
            "logits", "spatial"), real, real_rows, higher_is_better, fewest, remedy, labelled.

    Raises:
        ValueError: a name that is taken, needs that no features have, or a function whose arguments are others.
    """

    def register(compute: C) -> C:
        if isinstance(name, str) and plain(name) in PAIRED:
            raise ValueError(f"metric {name!r} exists already, as an error of paired images: take another name")
        options = _options(name, compute)
        parts = (*_parts(name, "statistics", facts), *_parts(name, "rows", facts))
        if not parts:
            raise ValueError(
                f"metric {name!r} needs no features at all: say which, statistics=('main',) for mean and covariance, "
                "rows=('main',) for every feature vector"
            )
        try:
            entry = Metric(name, compute, options=options, reference=reference, **facts)
        except TypeError as error:
            raise ValueError(f"metric {name!r}: {error}; it can say {', '.join(_FACTS)}") from error
        METRICS.add(name, entry, compute.__module__)
        return compute

    return register


_FACTS = ("statistics", "rows", "real", "real_rows", "higher_is_better", "fewest", "remedy", "labelled", "clips")


def _options(name: str, compute: Any) -> dict[str, Any]:
    """Names and defaults of its options. ValueError for what is not called as metrics are."""
    form = "a metric is a function (real, generated, *, option=default, ...) -> [Result]"
    if not inspect.isfunction(compute):
        raise ValueError(f"{name!r} is no metric but {type(compute).__name__}: {form}")
    taken = inspect.signature(compute).parameters.values()
    sides = [p for p in taken if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    options = [p for p in taken if p.kind is p.KEYWORD_ONLY]
    if len(sides) != 2 or len(sides) + len(options) < len(taken) or any(p.default is p.empty for p in options):
        raise ValueError(
            f"metric {name!r} takes {inspect.signature(compute)}: {form}, two sets by place and every option by its name, "
            "after the *, with a default"
        )
    return {p.name: p.default for p in options}


def _parts(name: str, kind: str, facts: Mapping[str, Any]) -> tuple[str, ...]:
    """The parts that are needed. ValueError for others than there are."""
    needed = facts.get(kind, ())
    if not isinstance(needed, (tuple, list)) or not set(needed) <= set(PARTS):
        raise ValueError(f"metric {name!r}: {kind} is a tuple of parts among {', '.join(PARTS)}; got {needed!r}")
    return tuple(needed)
