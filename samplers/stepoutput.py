"""What `Scheduler.step` returns."""

from __future__ import annotations

from collections.abc import Callable, Iterator
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
    """(prev_sample, pred_original_sample), the second computed when somebody reads it."""

    make: Callable[[], Tensor]

    @classmethod
    def lazy(cls, previous: Tensor, make: Callable[[], Tensor]) -> StepTuple:
        """The pair of `previous` and what `make()` returns."""
        out = cls((previous, None))
        out.make = make
        return out

    def __getitem__(self, i: Any) -> Any:
        previous = tuple.__getitem__(self, 0)
        return previous if i == 0 else (previous, self.make())[i]

    def __iter__(self) -> Iterator[Tensor]:
        yield tuple.__getitem__(self, 0)
        yield self.make()

    def __reduce__(self) -> Any:
        return tuple, (tuple(self),)
