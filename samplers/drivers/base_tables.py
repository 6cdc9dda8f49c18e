"""What drivers that play tables share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fewstep.samplers.building.compiling import build
from fewstep.samplers.drivers.driven_run import Task
from fewstep.samplers.table.tableau import Tableau


def explicit(grid: Any) -> bool:
    """Whether a grid is an array of times, with ends of its own."""
    return grid is not None and not isinstance(grid, str) and not callable(grid)


def table(task: Task, solver: str, nfe: int | None, options: Mapping[str, Any] | None) -> Tableau:
    """A solver's table along the task's grid, between its ends."""
    ends: dict[str, Any] = {} if explicit(task.grid) else {"t_start": task.t_start, "t_end": task.t_end}
    return build(solver, task.schedule, nfe, task.grid, **ends, **(options or {}))


def bar(task: Task, name: str, total: int, unit: str = "eval") -> Any:
    """A progress bar, where the task wants one."""
    from tqdm.auto import tqdm

    return tqdm(total=total, desc=name, unit=unit, disable=not task.progress)
