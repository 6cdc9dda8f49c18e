"""What `Scheduler.step` returns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from diffusers.utils import BaseOutput
from torch import Tensor


@dataclass
class SchedulerOutput(BaseOutput):
    """prev_sample: input of the next network call, (B, ...). pred_original_sample: the clean sample now predicted."""

    prev_sample: Tensor
    pred_original_sample: Tensor


class StepTuple(tuple):
    """(prev_sample, pred_original_sample), made of prev_sample and a function for the other, called when it is read."""

    __slots__ = ()

    def __getitem__(self, i: Any) -> Any:
        return tuple.__getitem__(self, 0) if i == 0 else tuple(self)[i]

    def __iter__(self) -> Iterator[Tensor]:
        yield tuple.__getitem__(self, 0)
        yield tuple.__getitem__(self, 1)()

    def __reduce__(self) -> Any:
        return tuple, (tuple(self),)
