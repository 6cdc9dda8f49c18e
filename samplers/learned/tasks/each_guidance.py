"""A problem for every scale of guidance, of one model or of one for each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from fewstep.samplers.learned.problem.problem import Problem
from fewstep.samplers.pipeline.eval_mode import in_eval_mode
from fewstep.samplers.run.denoiser import Denoiser


def under_each(model: Any, guidances: Sequence[float | None], **how: Any) -> Iterator[Problem]:
    """A problem for every scale, of one model or of {scale: model}; how: as `Problem` takes it."""
    first: Problem | None = None
    for scale in guidances:
        if first is None or isinstance(model, Mapping):
            first = Problem(model[scale] if isinstance(model, Mapping) else model, guidance=scale, **how)
        else:
            first = first.under(scale)
        yield first


@contextmanager
def drawn_from(model: Any) -> Iterator[None]:
    """Pipelines in eval mode until the block ends; a Denoiser is the field that its maker has made of a network."""
    models = model.values() if isinstance(model, Mapping) else [model]
    with in_eval_mode(*(one for one in models if not isinstance(one, Denoiser))):
        yield


def first_of(model: Any, guidances: Any) -> tuple[Any, float | None]:
    """The model and scale that are measured for all."""
    if isinstance(model, Mapping):
        scale = sorted(model)[0]
        return model[scale], scale
    scales = [guidances] if guidances is None or isinstance(guidances, (int, float)) else sorted(guidances)
    return model, scales[0]
