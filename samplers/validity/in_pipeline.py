"""An artefact within a pipeline knows where it is: the call that steps the scheduler, and the states that come.

A scheduler is told no guidance scale. But whoever calls `set_timesteps` within a pipeline's `__call__` is that pipeline, whose
scheduler this is and whose arguments lie beside it; elsewhere nothing is known, and nothing is said.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor

from fewstep.samplers.validity.bound_weights import meet_bound
from fewstep.samplers.validity.domain import adapters_of, checked_policy, departures, meet, scales_of, weights_of

T = TypeVar("T")
DEPTH = 6  # of helpers between a pipeline's call and its scheduler


def calling_pipeline(scheduler: Any) -> tuple[Any, Mapping[str, Any]] | None:
    """The pipeline that is asking its scheduler now, and the names in its call; None elsewhere."""
    if torch.compiler.is_compiling():
        return None
    frame = sys._getframe(1)
    for _ in range(DEPTH):
        if frame.f_back is None:
            return None
        frame = frame.f_back
        own = frame.f_locals.get("self")
        if frame.f_code.co_name == "__call__" and own is not scheduler and _scheduler(own) is scheduler:
            return own, dict(frame.f_locals)
    return None


def _scheduler(pipe: Any) -> Any:
    return vars(pipe).get("scheduler") if hasattr(pipe, "__dict__") else None


class InDomain:
    """The part of a Scheduler that compares a run with where its artefact was learned."""

    _model: Any

    def _fitting(self) -> dict[str, Any]:
        """Entries of the config that this run changes: under policy "nearest", the guidance of the call."""
        artefact, said = self._model.learned, calling_pipeline(self)
        if artefact is None or said is None:
            return {}
        pipe, names = said
        policy, domain = checked_policy(self._model.policy), artefact.domain(self._model.guidance)
        scales = scales_of(pipe, names)
        own = scales.get("guidance_scale")
        if policy == "nearest" and artefact.guidances and own is not None:
            nearest = artefact.nearest(own)
            meet(departures(artefact.domain(nearest), {"guidance": scales}), "warn")
            return {"guidance": nearest, "outside": "clamp"}
        seen: dict[str, Any] = {"guidance": scales, "adapters": adapters_of(pipe)}
        if policy == "refuse" and "weights" in domain:
            seen["weights"] = weights_of(pipe)
        meet(departures(domain, seen), policy)
        return {}

    def _with_own_weights(self, table: T) -> T:
        """The timetable, with a warning where the pipeline's weights were tuned for another table than it plays."""
        if (said := calling_pipeline(self)) is not None:
            meet_bound(said[0], table.tableau)  # type: ignore[attr-defined]
        return table

    def _meet(self, sample: Tensor) -> None:
        """Shape and dtype of the first state of a run, which nobody knows before."""
        if (artefact := self._model.learned) is not None and not torch.compiler.is_compiling():
            seen = {"shape": sample.shape[1:], "dtype": str(sample.dtype).removeprefix("torch.")}
            meet(departures(artefact.domain(), seen), checked_policy(self._model.policy))
