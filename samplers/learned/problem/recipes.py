"""Fixed recipes: what a solver does without learning, over the grids and switches people choose by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from fewstep.samplers.building.compiling import build
from fewstep.samplers.building.names import solver_of
from fewstep.samplers.schedule.base import NoiseSchedule
from fewstep.samplers.table.tableau import Tableau

# What solver="auto" chooses from: one of each family that is good in few evaluations.
SHORTLIST = ("dpmpp_2m", "res_multistep", "unipc", "deis", "cab")
GRIDS = ("uniform", "quadratic", "logsnr", "karras", "beta", "ays")
# Options that move the error as much as a grid does, with the values worth trying.
SWITCHES: dict[str, tuple[Any, ...]] = {"lower_order_final": (True, False), "order": (2, 3), "corrector": (True, False)}


@dataclass(frozen=True)
class Recipe:
    """A solver with options on a named grid, compiled."""

    grid: str
    options: Mapping[str, Any]
    table: Tableau

    def __str__(self) -> str:
        switched = ", ".join(f"{name}={value}" for name, value in self.options.items())
        return f"{self.table.name} on {self.grid}" + (f" ({switched})" if switched else "")


def recipes(
    solver: str,
    schedule: NoiseSchedule,
    nfe: int,
    *,
    grids: Sequence[str] = GRIDS,
    ends: tuple[float, float] | None = None,
    options: Mapping[str, Any] | None = None,
) -> list[Recipe]:
    """Every grid with every switch that the solver has and the caller left open; equal tables once. "auto": of several.

    Raises:
        ValueError: the solver runs on none of the grids (the last reason is told).
    """
    if solver == "auto":
        how: dict[str, Any] = {"grids": grids, "ends": ends, "options": options}
        return [recipe for one in SHORTLIST for recipe in recipes(one, schedule, nfe, **how)]
    entry, folk = solver_of(solver)
    given = {**dict(entry.bound), **(options or {})}
    open_switches = {s: v for s, v in SWITCHES.items() if s in entry.options and s not in given}
    found: dict[bytes, Recipe] = {}
    reason: Exception | None = None
    t_start, t_end = ends or (None, None)
    for grid in (folk,) if folk else grids:
        for values in product(*open_switches.values()):
            switched = dict(zip(open_switches, values, strict=True))
            try:
                table = build(entry.name, schedule, nfe, grid, t_start=t_start, t_end=t_end, **given, **switched)
            except ValueError as error:
                reason = error
                continue
            found.setdefault(table.W.tobytes() + table.times.tobytes(), Recipe(grid, switched, table))
    if not found:
        raise ValueError(f"{solver!r} runs on none of the grids {', '.join(grids)}: {reason}") from reason
    return list(found.values())
