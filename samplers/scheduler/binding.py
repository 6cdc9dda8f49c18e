"""The steps of a timetable from some network call on, with their weights on a device; cached."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch

from fewstep.samplers.building.resuming import resume
from fewstep.samplers.run.lowering import lower
from fewstep.samplers.run.step import Step
from fewstep.samplers.scheduler.model import Shared
from fewstep.samplers.scheduler.timetable import Timetable
from fewstep.samplers.table.tableau import Tableau


@dataclass(frozen=True, eq=False)
class Bound(Shared):
    """The steps of a Timetable from network call `begin` on, for one device and state dtype."""

    begin: int
    device: torch.device
    dtype: torch.dtype
    tableau: Tableau
    steps: tuple[Step, ...]


@lru_cache(maxsize=128)
def bind(table: Timetable, begin: int, device: torch.device, dtype: torch.dtype) -> Bound:
    """Steps of the table from call `begin` on, with their weights on the device."""
    tableau = resume(table.tableau, begin, table.model.entry)
    return Bound(begin, device, dtype, tableau, lower(tableau, table.model.prediction, device, dtype, table.model.post))


class Done(Shared):
    """What stands after the last step."""

    draws = ()

    def __call__(self, *_: Any) -> Any:
        raise ValueError("every step of this run has been taken: call set_timesteps() before stepping again")


DONE = Done()
