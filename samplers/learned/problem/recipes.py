"""Fixed recipes: what a solver does without learning, over the grids and switches people choose by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from fewstep.samplers.building.compiling import build
from fewstep.samplers.building.names import solver_of
from fewstep.samplers.building.solver_entry import SOLVERS
from fewstep.samplers.grids.grid_entry import GRIDS
from fewstep.samplers.schedule.base import NoiseSchedule
from fewstep.samplers.table.tableau import Tableau

# What solver="auto" begins with: one of each family that is good in few evaluations.
SHORTLIST = ("dpmpp_2m", "res_multistep", "unipc", "deis", "cab")
# What may be learned on besides: one call a step and one state.
STARTS = (
    *SHORTLIST, "dpmpp_3m", "deis_log_rho", "deis_rho_ab", "lms", "ipndm", "ipndm_v", "abnorsett", "dpm_solver_v3", "stork",
)  # fmt: skip
# Options that move the error as much as a grid does, with the values worth trying.
SWITCHES: dict[str, tuple[Any, ...]] = {"lower_order_final": (True, False), "order": (2, 3), "corrector": (True, False)}
DISTILLED = ("flow_map",)  # for networks of two times


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
    grids: Sequence[str] | None = None,
    ends: tuple[float, float] | None = None,
    options: Mapping[str, Any] | None = None,
) -> list[Recipe]:
    """Every grid with every switch that the solver has and the caller left open; equal tables once. "auto": of SHORTLIST.

    grids: names; None for all that are registered.

    Raises:
        ValueError: the solver runs on none of the grids (the last reason is told).
    """
    if solver == "auto":
        how: dict[str, Any] = {"grids": grids, "ends": ends, "options": options}
        return [recipe for one in SHORTLIST for recipe in recipes(one, schedule, nfe, **how)]
    entry, folk = solver_of(solver)
    given = {**dict(entry.bound), **(options or {})}
    open_switches = {s: v for s, v in SWITCHES.items() if s in entry.options and s not in given}
    names = (folk,) if folk else tuple(GRIDS if grids is None else grids)
    switched = [dict(zip(open_switches, values, strict=True)) for values in product(*open_switches.values())]
    return _distinct(entry.name, schedule, nfe, names, ends, [{**given, **one} for one in switched], switched)


def rivals(
    schedule: NoiseSchedule, nfe: int, grids: Sequence[str], ends: tuple[float, float], without: Sequence[str]
) -> list[Recipe]:
    """Every other solver that follows the flow, as it is, on some grids; those that cannot are left out."""
    found = []
    for name, entry in SOLVERS.items():
        if entry.kind == "tableau" and not entry.stochastic and name not in (*without, *DISTILLED):
            try:
                found += _distinct(name, schedule, nfe, grids, ends, [dict(entry.bound)], [{}])
            except ValueError:
                continue
    return found


def _distinct(
    name: str,
    schedule: NoiseSchedule,
    nfe: int,
    grids: Sequence[str],
    ends: tuple[float, float] | None,
    options: Sequence[Mapping[str, Any]],
    told: Sequence[Mapping[str, Any]],
) -> list[Recipe]:
    """The tables of one solver on grids with options, equal ones once; ValueError where there is none."""
    found: dict[bytes, Recipe] = {}
    reason: Exception | None = None
    t_start, t_end = ends or (None, None)
    for grid in grids:
        for own, switched in zip(options, told, strict=True):
            try:
                table = build(name, schedule, nfe, grid, t_start=t_start, t_end=t_end, **own)
            except ValueError as error:
                reason = error
                continue
            found.setdefault(table.W.tobytes() + table.times.tobytes(), Recipe(grid, switched, table))
    if not found:
        raise ValueError(f"{name!r} runs on none of the grids {', '.join(grids)}: {reason}") from reason
    return list(found.values())
