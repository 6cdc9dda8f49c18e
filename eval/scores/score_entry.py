"""A score says one number of an image, or of an image and its prompt; its metric is the mean over the generated images.

    make(**options) -> score(images, prompts) -> (B,),    images uint8 (B, 3, H, W), or a list where their sizes differ

@fewstep.eval.register_score("brightness")
def brightness():
    return lambda images: images.float().mean((1, 2, 3))
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from torch import nn

from fewstep.checks import unknown
from fewstep.eval.gaussian.features import PARTS, Features
from fewstep.eval.metrics.blocks import Blocks, rows
from fewstep.eval.metrics.groups import group_means
from fewstep.eval.metrics.registry import METRICS, Metric
from fewstep.eval.report.result import PAIRED, Result, normal_interval
from fewstep.eval.scores.transformers_scores import of_model
from fewstep.registry import plain

BESIDE = ("prompts", "real")
M = TypeVar("M", bound=Callable[..., Any])


def register_score(
    name: str, reference: str = "", *, higher_is_better: bool = True, beside: str = "prompts"
) -> Callable[[M], M]:
    """Register a function `(**options) -> score` under a name; returned is the function.

    The score is a function (images) or (images, prompts) -> (B,), or a transformers model with its processor. It is a
    metric of `evaluate`, `score`, `Meter` and `fewstep eval --metrics` then.

    beside: what a function of two arguments gets as its second one: "prompts", or "real", the real images of the same numbers.

    Raises:
        ValueError: a name that is taken, options without a default.
    """

    def register(make: M) -> M:
        if not callable(make):
            raise ValueError(f"{name!r} is no score but {type(make).__name__}: register a function that makes one")
        taken = inspect.signature(make).parameters.values()
        if beside not in BESIDE:
            raise unknown("`beside` of a score", beside, BESIDE)
        if needed := [p.name for p in taken if p.default is p.empty]:
            raise ValueError(f"score {name!r} is made from its name alone: give {', '.join(needed)} a default")
        entry = replace(score_metric(name, make, reference, higher_is_better), paired=beside == "real")
        METRICS.add(name, entry, make.__module__)
        return make

    return register


def score_metric(name: str, make: Callable[..., Any], reference: str = "", higher_is_better: bool = True) -> Metric:
    """The mean of a score as a metric. ValueError: a name that means something else."""
    if plain(name) in (*PAIRED, *PARTS):
        raise ValueError(f"score {name!r} has the name of something else: take another one")
    options = {p.name: p.default for p in inspect.signature(make).parameters.values()}

    def compute(real: Features | None, generated: Features, **said: Any) -> list[Result]:
        found = _mean(name, generated)
        return [found.under(details={**found.details, **options, **said})]

    return Metric(
        name, compute, rows=(name,), real=False, higher_is_better=higher_is_better, options=options,
        fewest=lambda _: 1, reference=reference, score=lambda **given: scorer(name, make(**given)),
    )  # fmt: skip


def _mean(name: str, generated: Features) -> Result:
    """Mean over images, its standard error sd / sqrt(n), and the spread."""
    found = rows(generated, name, name, 1)
    values = Blocks(found)[slice(0, len(found))][:, 0]
    n, value = len(values), float(values.mean())
    details = {"min": float(values.min()), "max": float(values.max())}
    if n < 2:
        return Result(name, value, method="no interval of one image", details=details)
    sd = float(values.std())
    error = sd / n**0.5
    return Result(
        name, value, error, normal_interval(value, error), "mean over images, each a sample of its own",
        details={**details, "sd": sd}, groups=group_means(values),
    )  # fmt: skip


class Scorer(nn.Module):
    """A score as it is asked: (images, prompts) -> float (B,), one number an image.

    Attributes:
        prompted: whether it looks at prompts.
    """

    def __init__(self, name: str, function: Callable[..., Any], prompted: bool) -> None:
        super().__init__()
        self.name, self.function, self.prompted = name, function, prompted

    def forward(self, images: Any, prompts: Sequence[str] | None = None) -> Any:
        """The scores. ValueError: other than one an image, or one that is not finite."""
        found = self.function(images, prompts) if self.prompted else self.function(images)
        shape = tuple(getattr(found, "shape", (len(found),)))
        if shape not in ((len(images),), (len(images), 1)):
            raise ValueError(
                f"score {self.name!r} is one number an image; it gave the shape {shape} for {len(images)} images"
            )
        return found


def scorer(name: str, given: Any) -> Scorer:
    """A function, a Scorer, or (model, processor) of transformers, as a Scorer. ValueError: anything else."""
    if isinstance(given, Scorer):
        return given
    if isinstance(given, tuple):
        function, prompted = of_model(name, *given)
        return Scorer(name, function, prompted)
    if not callable(given):
        raise ValueError(
            f"score {name!r} is {type(given).__name__}: give a function (images) or (images, prompts) -> (B,), or the model "
            "and processor of transformers, (model, processor)"
        )
    return Scorer(name, given, _takes_prompts(name, given))


def _takes_prompts(name: str, function: Callable[..., Any]) -> bool:
    asked = getattr(function, "forward", function) if isinstance(function, nn.Module) else function
    try:
        parameters: Mapping[str, inspect.Parameter] = inspect.signature(asked).parameters
    except (TypeError, ValueError):
        return False
    places = [p for p in parameters.values() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    needed = [p for p in places if p.default is p.empty]
    if len(needed) > 2 or not (places or any(p.kind is p.VAR_POSITIONAL for p in parameters.values())):
        raise ValueError(f"score {name!r} takes {list(parameters)}: it is a function (images) or (images, prompts)")
    return len(needed) == 2 or "prompts" in parameters
