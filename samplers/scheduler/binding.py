"""Where a run is: the steps of a timetable from some network call on, and whether a step that comes belongs to it.

Steps have their weights on a device and are cached. What comes is told by its timestep, without waiting for a device.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fewstep.bounded import MEBIBYTE, bounded
from fewstep.samplers.blocks.block_cache import BlockCache
from fewstep.samplers.building.resuming import resume
from fewstep.samplers.run.lowering import lower
from fewstep.samplers.run.ownership import require_unwritten, version
from fewstep.samplers.run.step import Step
from fewstep.samplers.scheduler.model import Model, Shared
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


def _bytes(bound: Bound) -> int:
    """Memory of the steps, from above: a KiB each, and one for every tensor, beside what the tensors of a table hold."""
    return sum(2**10 * (1 + step.views) + step.wide_bytes for step in bound.steps) + bound.tableau.nbytes


@bounded(64 * MEBIBYTE, _bytes)
def bind(table: Timetable, begin: int, device: torch.device, dtype: torch.dtype) -> Bound:
    """Steps of the table from call `begin` on, with their weights on the device."""
    tableau = resume(table.tableau, begin, table.model.entry)
    steps = lower(tableau, table.model.prediction, device, dtype, table.model.post, cached=True)
    return Bound(begin, device, dtype, tableau, steps)


class Done(Shared):
    """What stands after the last step."""

    draws = ()

    def __call__(self, *_: Any) -> Any:
        raise ValueError("every step of this run has been taken: call set_timesteps() before stepping again")


DONE = Done()


class Following:
    """The part of a Scheduler that knows where its run is."""

    timesteps: Tensor
    _model: Model
    _clock: Tensor  # `timesteps` as they were handed out,
    _handed: np.ndarray  # and in full precision
    _table: Timetable | None
    _bound: Bound | None
    _begin_index: int | None
    _step: Any
    _named: str
    _seen: Seen | None

    @property
    def step_index(self) -> int | None:
        """Network calls behind the next step; None before the first step."""
        if self._step is None or self._bound is None or self._table is None:
            return None
        return self._table.tableau.nfe if isinstance(self._step, Done) else self._bound.begin + self._step.index

    @property
    def block_caches(self) -> list[BlockCache]:
        """Feature caches of the tables that it may play."""
        m = self._model
        tables = [] if m.table is None else [m.table]
        tables += [] if m.learned is None else [one.tableau for one in m.learned.tables]
        return [table.cache for table in tables if table.cache is not None]

    @property
    def block_row(self) -> tuple[BlockCache | None, int]:
        """The feature cache of the run, and the row of the network's next call."""
        if self._bound is None:
            return None, 0
        return self._bound.tableau.cache, self._bound.begin if self.step_index is None else self.step_index

    @property
    def begin_index(self) -> int | None:
        """Network call at which the run begins, as set_begin_index said."""
        return self._begin_index

    @property
    def r_timesteps(self) -> Tensor:
        """(n,) where each network call of the run leads: the second time of a flow map, beside `timesteps`."""
        if self._table is None:
            raise ValueError("call set_timesteps() before asking for r_timesteps")
        return torch.tensor(self._table.tableau.target_times, dtype=torch.float32, device=self.timesteps.device)

    def _leads(self, step: Any, r_timestep: Any) -> None:
        """ValueError where a flow map was told to go elsewhere than this row goes; what lies on a device is not read."""
        if r_timestep is None:
            if self._table is not None and self._table.elsewhere:
                raise ValueError(
                    "the network of a flow map averages the velocity over the way to the time it is shown, in pipelines the "
                    f"next one; {self._table.tableau.name!r} needs others: take 'euler', 'ddim' or 'flow_map' without gamma, "
                    "or in a loop of your own show scheduler.r_timesteps, step(..., r_timestep=r)"
                )
            return
        readable = not isinstance(r_timestep, Tensor) or r_timestep.device.type == "cpu"
        if readable and not torch.compiler.is_compiling() and step.tableau is not None:
            shown = step.tableau.target_times
            if not _near(r_timestep, shown, step.index):
                raise ValueError(
                    f"step() was told that the network went to {number(r_timestep):.6g}; this row goes to "
                    f"{shown[step.index]:.6g}: show the network scheduler.r_timesteps"
                )

    def _begins(self, timestep: Any) -> int:
        """The network call that a run begins with: as set_begin_index said, else the one that `timestep` names."""
        if torch.compiler.is_compiling():
            return self._begin_index or 0
        begin = self._located(timestep) if self._begin_index is None else self._begin_index
        self._named = named(timestep, self._clock, self._handed, begin, known=self._begin_index is None)
        return begin

    def _located(self, timestep: Any) -> int:
        """Index of a timestep: by place for views of `timesteps`, which reads no value, else the nearest entry."""
        assert self._table is not None
        at = place(timestep, self._clock)
        return self._table.nearest(number(timestep)) if at is None else at

    def _follow(self, timestep: Any, sample: Tensor) -> None:
        """ValueError for the step of another run, and for a sample that the network wrote into."""
        if torch.compiler.is_compiling():
            return
        if self._seen is not None:
            self._seen.check(sample)
        if self._bound is not None and self._bound.tableau.cache is not None:
            from fewstep.samplers.blocks.patching import require_at_work

            require_at_work(self)
        index, shown = self.step_index, self._handed
        if index is None or index >= len(shown) or belongs(timestep, self._clock, shown, index, self._named):
            return
        raise ValueError(
            f"step() got timestep {number(timestep):.6g} where call {index} of this run is at {shown[index]:.6g}: two requests "
            "cannot share a scheduler. Give each a copy of its own, copy.deepcopy(scheduler), and call set_timesteps() before "
            "every run"
        )


class Seen(NamedTuple):
    """What was handed to the network, and its counter of in-place changes then."""

    sample: weakref.ref[Tensor]
    version: int | None

    @classmethod
    def of(cls, sample: Tensor) -> Seen | None:
        return None if torch.compiler.is_compiling() else cls(weakref.ref(sample), version(sample))

    def check(self, sample: Tensor) -> None:
        """ValueError where this very sample was written into since."""
        if self.sample() is sample:
            require_unwritten(sample, self.version)


def place(timestep: Any, clock: Tensor) -> int | None:
    """Index of a timestep that is a view of `clock`; None for others. Reads no value."""
    if isinstance(timestep, Tensor) and timestep.untyped_storage().data_ptr() == clock.untyped_storage().data_ptr():
        return int(timestep.storage_offset())
    return None


def named(timestep: Any, clock: Tensor, shown: np.ndarray, index: int, known: bool) -> str:
    """How a run's first timestep is that of its table: "place", "value", or "" where it is not, or cannot be told.

    known: whether its value has been read already, so that reading it again costs nothing.
    """
    if index >= len(shown):
        return ""
    if place(timestep, clock) == index:
        return "place"
    free = known or not isinstance(timestep, Tensor) or timestep.device.type == "cpu"
    return "value" if free and _near(timestep, shown, index) else ""


def belongs(timestep: Any, clock: Tensor, shown: np.ndarray, index: int, first: str) -> bool:
    """Whether call `index` of a run that shows the times `shown` may come with this timestep.

    first: how the run began, as `named` told. A run that began with the timestep of its table goes on so; in one that did
    not, as pipelines that count time in units of their own, only another entry of the table is wrong.
    """
    at = place(timestep, clock)
    if at is not None:
        return at == index
    if isinstance(timestep, Tensor) and timestep.device.type != "cpu" and first != "place":
        return True  # to read it would make the host wait at every step
    return _near(timestep, shown, index) or not (first or _is_entry(timestep, shown))


def number(timestep: Any) -> float:
    """The value of a timestep, the first of several; where it lies on a device, that is waited for."""
    return float(timestep.reshape(-1)[0] if isinstance(timestep, Tensor) else timestep)


def _near(timestep: Any, shown: np.ndarray, index: int) -> bool:
    """Whether a timestep is entry `index`, as exactly as its type can tell; whole numbers are told by cutting off."""
    t, entry = number(timestep), float(shown[index])
    if isinstance(timestep, Tensor) and timestep.is_floating_point():
        return abs(t - entry) <= 2 * max(torch.finfo(timestep.dtype).eps, 1e-6) * max(abs(entry), 1e-3)
    if isinstance(timestep, Tensor | int | np.integer):
        return abs(t - entry) < 1
    return abs(t - entry) <= 1e-6 * max(abs(entry), 1e-3)


def _is_entry(timestep: Any, shown: np.ndarray) -> bool:
    return bool((shown.astype(np.float32) == np.float32(number(timestep))).any())
